/** One operation of a caller as several requests of a server's maximum size. */
import type { Completion } from './operation.ts'

/** Parts of one operation in flight at once. */
const WINDOW = 8

/** Sends `length` bytes of the operation, from `at` bytes behind its beginning; throws, or completes later. */
export type SendPart = (at: number, length: number, completion: Completion) => void

/**
 * Sends an operation of `length` bytes in parts of at most `most`, and completes once: when all parts are
 * done, or with the first error when no part is in flight any more.
 * @throws what `send` throws for the first part
 * @param window parts in flight at once; 1 where a later part may not be tried if an earlier one fails
 */
export function sendInParts(
  length: number,
  most: number,
  send: SendPart,
  completion: Completion,
  window: number = WINDOW,
): void {
  let at = 0
  let inFlight = 0
  let failure: unknown
  const more = () => {
    try {
      while (failure === undefined && at < length && inFlight < window) {
        const part = Math.min(most, length - at)
        send(at, part, { complete: ended })
        at += part
        inFlight++
      }
    } catch (thrown) {
      failure = thrown
    }
  }
  const ended = (error?: unknown) => {
    inFlight--
    failure ??= error
    more()
    if (inFlight > 0) return
    if (failure === undefined) completion.complete()
    else completion.complete(failure)
  }
  more()
  // Nothing has begun, so it is the caller who must be told, at once.
  if (inFlight === 0) throw failure
}
