/** What has come of a request: its body, why it broke off, when to ask again. */
import { textOf } from './body.ts'
import { KubeError } from './kube-error.ts'
import type { HttpResponse } from './transport.ts'

/** The whole body of an answer. @throws KubeError, or the signal's reason */
export async function bodyOf(what: string, { body }: HttpResponse, signal: AbortSignal): Promise<string> {
  try {
    return await textOf(what, body)
  } catch (error) {
    throw cutOff(what, error, signal)
  }
}

/** The error of an answer that broke off; a signal's reason comes before what its abort has caused. */
export function cutOff(what: string, error: unknown, signal: AbortSignal): unknown {
  if (signal.aborted) return signal.reason
  if (error instanceof KubeError) return error
  const reason = error instanceof Error ? error.message : String(error)
  return new KubeError('Unreachable', `${what} was cut off: ${reason}`, { cause: error })
}

/** What the header Retry-After says, in ms; the API server writes seconds. */
export function retryAfter({ headers }: HttpResponse): number | undefined {
  const seconds = Number(headers['retry-after'] ?? Number.NaN)
  return seconds >= 0 ? seconds * 1000 : undefined
}
