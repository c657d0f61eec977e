import { sleep } from './deadline.ts'

export interface RateLimiter {
  /** Resolves when one more request may go. Rejects when the signal is aborted first. */
  take(signal: AbortSignal): Promise<void>
}

/**
 * A bucket of `burst` tokens that fills at `perSecond`. Those who have to wait go in the order in which they
 * came.
 */
export function tokenBucket(perSecond: number, burst: number): RateLimiter {
  let tokens = burst
  let at = performance.now()
  return {
    async take(signal) {
      const now = performance.now()
      tokens = Math.min(burst, tokens + ((now - at) / 1000) * perSecond)
      at = now
      // Below zero are those who wait: each has taken the token that will be there by then.
      tokens -= 1
      if (tokens >= 0) return
      try {
        await sleep((-tokens / perSecond) * 1000, signal)
      } catch (error) {
        tokens += 1
        throw error
      }
    },
  }
}
