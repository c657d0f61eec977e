/** One call of a client: from gRPC's callback to a handler that returns or throws, and back. */
import type { handleUnaryCall, ServerUnaryCall } from '@grpc/grpc-js'
import { type KubeLog, reasonOf } from '../../kube/log.ts'
import { RPC_CODES, RpcError, rpcErrorOf } from './rpc-error.ts'

/** What a handler works under. */
export interface Call {
  /**
   * Aborted with an RpcError when the client has gone, when its deadline is near, or when the driver stops. A handler
   * that is aborted throws soon.
   */
  readonly signal: AbortSignal
}

/** Answers a request. What it throws is the answer, too. */
export type Handler<Request, Response> = (request: Request, call: Call) => Promise<Response>

/** Handlers by the names of their methods. What is left out is answered with UNIMPLEMENTED. */
export type Handlers<Methods> = {
  readonly [Name in keyof Methods]?: Methods[Name] extends [infer Request, infer Response]
    ? Handler<Request, Response>
    : never
}

/** Before the client's deadline there is so much time, in ms, to tell it what was waited for. */
const TELL_MS = 250
/** A call without a deadline ends after so long, in ms. */
const LONGEST_MS = 5 * 60_000
/** gRPC sends the message in a header, of which HTTP/2 has few. */
const MAX_MESSAGE = 1000

/** Fields of requests that are shown in the log. Nothing else is: parameters and secrets may be anything. */
const SHOWN = ['volumeId', 'name', 'nodeId', 'stagingTargetPath', 'targetPath', 'volumePath'] as const
const MAX_SHOWN = 128

/** Turns a handler into gRPC's kind of one. `stopped` is aborted when the driver stops. */
export function answer<Request, Response>(
  method: string,
  handler: Handler<Request, Response>,
  stopped: AbortSignal,
  log: KubeLog,
): handleUnaryCall<Request, Response> {
  return (call, callback) => {
    const startedAt = performance.now()
    const terms = callTerms(call, stopped)
    const fields = { method, ...shown(call.request) }
    handler(call.request, terms).then(
      response => {
        terms.end()
        log.debug({ ...fields, ms: elapsed(startedAt) }, 'Answered')
        callback(null, response)
      },
      (error: unknown) => {
        terms.end()
        const refusal = rpcErrorOf(error)
        const line = { ...fields, code: refusal.code, ms: elapsed(startedAt) }
        if (refusal.code === 'INTERNAL') log.error({ ...line, err: error }, 'A call failed')
        else log.info({ ...line, reason: reasonOf(refusal).reason }, 'Refused')
        callback({ code: RPC_CODES[refusal.code], details: refusal.message.slice(0, MAX_MESSAGE) })
      },
    )
  }
}

const elapsed = (since: number) => Math.round(performance.now() - since)

function callTerms<Request, Response>(
  call: ServerUnaryCall<Request, Response>,
  stopped: AbortSignal,
): Call & { end(): void } {
  const controller = new AbortController()
  const cancel = () => controller.abort(new RpcError('CANCELLED', 'The client has given up.'))
  const expire = () => controller.abort(new RpcError('DEADLINE_EXCEEDED', 'The time for this call is up.'))
  const stop = () => controller.abort(stopped.reason)
  const left = Number(call.getDeadline()) - Date.now() - TELL_MS
  const timer = setTimeout(expire, Math.max(0, Math.min(left, LONGEST_MS)))
  call.once('cancelled', cancel)
  if (stopped.aborted) stop()
  else stopped.addEventListener('abort', stop, { once: true })
  return {
    signal: controller.signal,
    end() {
      clearTimeout(timer)
      call.off('cancelled', cancel)
      stopped.removeEventListener('abort', stop)
    },
  }
}

function shown(request: unknown): Record<string, string> {
  const fields = request as Readonly<Record<string, unknown>>
  const result: Record<string, string> = {}
  for (const name of SHOWN) {
    const value = fields[name]
    if (typeof value === 'string' && value !== '') result[name] = value.slice(0, MAX_SHOWN)
  }
  return result
}
