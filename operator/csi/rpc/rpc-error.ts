import { InvalidSpecError } from '../../../crds/invalid-spec-error.ts'
import { KubeError } from '../../kube/kube-error.ts'

/** gRPC's codes that a driver answers with, by their names in the specification. */
export const RPC_CODES = {
  CANCELLED: 1,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  INTERNAL: 13,
  UNAVAILABLE: 14,
} as const

export type RpcCode = keyof typeof RPC_CODES

/** A call that is answered with this code and this message, which whoever called may read. */
export class RpcError extends Error {
  override readonly name = 'RpcError'
  readonly code: RpcCode

  constructor(code: RpcCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/**
 * Says that a request has to have this field.
 * @throws RpcError INVALID_ARGUMENT where there is nothing in it
 */
export function need(field: string, value: string | readonly unknown[]): void {
  if (value.length === 0) throw new RpcError('INVALID_ARGUMENT', `${field} is missing.`)
}

/**
 * What a call is answered with that failed so. What nobody foresaw is `INTERNAL`, and of it nothing is told: its
 * message may be about anything.
 */
export function rpcErrorOf(error: unknown): RpcError {
  if (error instanceof RpcError) return error
  if (error instanceof InvalidSpecError)
    return new RpcError('INVALID_ARGUMENT', error.message, { cause: error })
  if (error instanceof KubeError) return new RpcError(codeOf(error), error.message, { cause: error })
  return new RpcError('INTERNAL', 'The driver failed. Its log says why.', { cause: error })
}

function codeOf({ code, status, message }: KubeError): RpcCode {
  if (code === 'Invalid' || code === 'BadRequest') return 'INVALID_ARGUMENT'
  if (code === 'NotFound') return 'NOT_FOUND'
  // A ResourceQuota refuses so.
  if (code === 'Forbidden')
    return message.includes('exceeded quota') ? 'RESOURCE_EXHAUSTED' : 'PERMISSION_DENIED'
  if (code === 'Conflict' || code === 'AlreadyExists') return 'ABORTED'
  if (status === 0 || status === 401 || status === 429 || status >= 500) return 'UNAVAILABLE'
  return 'INTERNAL'
}
