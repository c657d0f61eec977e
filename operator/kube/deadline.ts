import { KubeError } from './kube-error.ts'

/** A signal that is aborted by a caller's signal or when the time is up. */
export interface Deadline {
  readonly signal: AbortSignal
  /** Gives the whole time again. */
  restart(): void
  /** To be called in any case: lets go of the caller's signal. */
  clear(): void
}

/**
 * Starts a deadline. AbortSignal.any would keep an entry in the caller's signal for every request until it is
 * collected; an operator's signal lives as long as the program.
 */
export function deadlineOf(what: string, ms: number, signal: AbortSignal | undefined): Deadline {
  const controller = new AbortController()
  const expire = () =>
    controller.abort(new KubeError('RequestTimeout', `${what} got nothing for ${ms / 1000} s.`))
  const follow = () => controller.abort(signal?.reason)
  const timer = setTimeout(expire, ms)
  if (signal?.aborted) follow()
  else signal?.addEventListener('abort', follow, { once: true })
  return {
    signal: controller.signal,
    restart: () => void timer.refresh(),
    clear: () => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', follow)
    },
  }
}

/**
 * Waits. Rejects with the signal's reason when it is aborted.
 */
export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) {
      reject(signal.reason)
      return
    }
    const stop = () => {
      clearTimeout(timer)
      reject(signal.reason)
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', stop)
      resolve()
    }, ms)
    signal.addEventListener('abort', stop, { once: true })
  })
}
