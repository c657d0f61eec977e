import { CreationAbortedError } from './errors.ts'

/** Lets at most so many things happen at once; the others wait in the order in which they came. */
export class Slots {
  #free: number
  readonly #waiting = new Set<() => void>()

  constructor(count: number) {
    this.#free = count
  }

  /** Waits for a free slot; the function it returns gives it back, once. Throws CreationAbortedError. */
  async acquire(signal: AbortSignal): Promise<() => void> {
    if (signal.aborted) throw new CreationAbortedError({ cause: signal.reason })
    if (this.#free > 0) this.#free--
    else await this.#wait(signal)
    let held = true
    return () => {
      if (!held) return
      held = false
      this.#release()
    }
  }

  #wait(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const onAbort = () => {
        this.#waiting.delete(enter)
        reject(new CreationAbortedError({ cause: signal.reason }))
      }
      const enter = () => {
        signal.removeEventListener('abort', onAbort)
        resolve()
      }
      this.#waiting.add(enter)
      signal.addEventListener('abort', onAbort, { once: true })
    })
  }

  #release(): void {
    const [next] = this.#waiting
    if (next === undefined) {
      this.#free++
      return
    }
    this.#waiting.delete(next)
    next()
  }
}
