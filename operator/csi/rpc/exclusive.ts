import type { Handler } from './call.ts'
import { RpcError } from './rpc-error.ts'

/**
 * Lets one operation at a time work on a volume; another one is answered with ABORTED, and the client tries again. An
 * operation that was aborted has its volume until it has really ended.
 */
export function exclusively(): <Request, Response>(
  volumeOf: (request: NoInfer<Request>) => string,
  handler: Handler<Request, Response>,
) => Handler<Request, Response> {
  const busy = new Set<string>()
  return (volumeOf, handler) => async (request, call) => {
    const volume = volumeOf(request)
    if (busy.has(volume)) {
      throw new RpcError(
        'ABORTED',
        'Another operation on this volume is under way. Try again when it has ended.',
      )
    }
    busy.add(volume)
    try {
      return await handler(request, call)
    } finally {
      busy.delete(volume)
    }
  }
}
