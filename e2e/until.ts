/** Waiting for what comes by and by, also where there is no test runner that could. */
import { setTimeout as sleep } from 'node:timers/promises'

/**
 * Asks again and again until the answer is something other than undefined or false, and returns that. What `ask`
 * throws ends it.
 */
export async function until<T>(
  what: string,
  limit: number,
  ask: () => T | undefined | false | Promise<T | undefined | false>,
  interval = 100,
): Promise<T> {
  const end = performance.now() + limit
  for (;;) {
    const answer = await ask()
    if (answer !== undefined && answer !== false) return answer
    if (performance.now() > end) throw new Error(`Not within ${limit} ms: ${what}`)
    await sleep(interval)
  }
}

/** The same, but what `ask` throws counts as no answer yet, and is told when the time is up. */
export async function eventually<T>(
  what: string,
  limit: number,
  ask: () => Promise<T | undefined | false>,
  interval?: number,
): Promise<T> {
  let last: unknown
  const attempt = async () => {
    try {
      const answer = await ask()
      last = undefined
      return answer
    } catch (error) {
      last = error
      return undefined
    }
  }
  return await until(what, limit, attempt, interval).catch(error => {
    throw new Error(error.message, { cause: last })
  })
}
