/** Operations that complete later, for callers who like promises. */
import type { Completion } from './operation.ts'

/** Calls back when the operation is over. */
class Promised implements Completion {
  readonly #resolve: () => void
  readonly #reject: (error: unknown) => void

  constructor(resolve: () => void, reject: (error: unknown) => void) {
    this.#resolve = resolve
    this.#reject = reject
  }

  complete(error?: unknown): void {
    if (error === undefined) this.#resolve()
    else this.#reject(error)
  }
}

/** What `start` begins, as a promise. */
export const promised = (start: (completion: Completion) => void): Promise<void> =>
  new Promise((resolve, reject) => start(new Promised(resolve, reject)))
