/** Several calls of a backend, one after the other, as one operation. */
import { type Completion, PENDING } from '../backend.ts'
import type { Step } from './call.ts'

/** Starts one step; may throw instead. */
export type StartStep = (completion: Completion) => Step

/**
 * The steps of an operation. A step that fails is thrown into the generator at its `yield`; what the generator
 * does not catch is what the operation fails with.
 */
export type Steps = Generator<StartStep, void, void>

/** Steps that end at once, after which others get their turn. */
const BURST = 8

/** Runs steps as one operation: returns `undefined` when all were done at once, throws, or completes later. */
export function inSequence(steps: Steps, completion: Completion): Step {
  return new Sequence(steps, completion).begin()
}

class Sequence implements Completion {
  readonly #steps: Steps
  readonly #completion: Completion

  constructor(steps: Steps, completion: Completion) {
    this.#steps = steps
    this.#completion = completion
  }

  begin(): Step {
    return this.#isDone(undefined) ? undefined : PENDING
  }

  /** A step that was waited for has ended. */
  complete(error?: unknown): void {
    let failure: unknown
    try {
      if (!this.#isDone(error)) return
    } catch (thrown) {
      failure = thrown
    }
    this.#completion.complete(failure)
  }

  /** Goes on until a step has to be waited for. Throws what the operation fails with. */
  #isDone(error: unknown): boolean {
    let failure = error
    for (let count = 0; count < BURST; count++) {
      const { done, value: start } = failure === undefined ? this.#steps.next() : this.#steps.throw(failure)
      if (done) return true
      failure = undefined
      try {
        if (start(this) === PENDING) return false
      } catch (thrown) {
        failure = thrown
      }
    }
    setImmediate(() => this.complete(failure))
    return false
  }
}
