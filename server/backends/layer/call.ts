/**
 * One call of a backend's operation, from the call to its one and only end. It is what the backend gets as its
 * completion. A foreign backend may keep that and call it twice, so each call has a fresh one; the connection's own
 * completions are used for one request after the other.
 */
import { type Completion, PENDING } from '../backend.ts'
import { AbandonedError, BackendError, describe, type Failure, failureOf, isThenable } from './errors.ts'

/** Whom calls report to. */
export interface CallOwner {
  /** The callback has returned and the call goes on. */
  waits(call: Call): void
  /** The call that went on has ended. */
  ended(call: Call): void
  /** The backend did what no rule allows, but without harm. */
  misbehaved(problem: BackendError): void
}

/**
 * `running`: the callback has not returned. `completed`: nor has it now, but the completion was used.
 * `abandoned`: its end has been told already, but has not come.
 */
type State = 'running' | 'completed' | 'waiting' | 'abandoned' | 'ended'

/** Stands for the number of bytes where an operation moves none. */
export const NO_BYTES = -1

/** How an operation of the layer returns: done, or to be completed later. */
export type Step = undefined | typeof PENDING

export class Call implements Completion {
  /** Neighbours in the list of the calls that wait; the owner's. */
  previous: Call | undefined
  next: Call | undefined
  readonly callback: string
  readonly #owner: CallOwner
  readonly #bytes: number
  #completion: Completion | undefined
  #state: State = 'running'
  #failure: Failure | undefined

  /** `bytes`: what a number that the backend returns has to be, or NO_BYTES. */
  constructor(owner: CallOwner, callback: string, completion: Completion, bytes: number) {
    this.#owner = owner
    this.callback = callback
    this.#completion = completion
    this.#bytes = bytes
  }

  /** Takes what the callback returned, and returns or throws what the caller is to see. */
  returned(outcome: unknown): Step {
    if (this.#state === 'completed') return this.#completedBeforeReturn(outcome)
    if (outcome === PENDING) return this.#wait()
    if (isThenable(outcome)) {
      this.#wait()
      Promise.resolve(outcome).then(
        value => this.#end(this.#problemOf(value)),
        (thrown: unknown) => this.#end(failureOf(this.callback, thrown)),
      )
      return PENDING
    }
    this.#close()
    const problem = this.#problemOf(outcome)
    if (problem !== undefined) throw problem
    return undefined
  }

  /** The callback threw; throws what the caller is to see. */
  threw(thrown: unknown): never {
    this.#close()
    throw failureOf(this.callback, thrown)
  }

  complete(error?: unknown): void {
    // Node's own callbacks say null where there is no error.
    const failure = error === undefined || error === null ? undefined : failureOf(this.callback, error)
    if (this.#state !== 'running') {
      this.#end(failure)
      return
    }
    this.#state = 'completed'
    this.#failure = failure
  }

  /** Nobody waits for this call any longer. Its end is told now; when it comes, the owner hears of it. */
  abandon(): void {
    const completion = this.#completion
    this.#state = 'abandoned'
    this.#completion = undefined
    completion?.complete(new AbandonedError(this.callback))
  }

  #wait(): typeof PENDING {
    this.#state = 'waiting'
    this.#owner.waits(this)
    return PENDING
  }

  #close(): void {
    this.#state = 'ended'
    this.#completion = undefined
  }

  #completedBeforeReturn(outcome: unknown): undefined {
    this.#close()
    if (isThenable(outcome)) Promise.resolve(outcome).then(undefined, () => this.#endedAgain())
    if (this.#failure !== undefined) throw this.#failure
    return undefined
  }

  #end(failure: Failure | undefined): void {
    const completion = this.#completion
    const state = this.#state
    if (state !== 'waiting' && state !== 'abandoned') {
      this.#endedAgain()
      return
    }
    this.#close()
    this.#owner.ended(this)
    completion?.complete(failure)
  }

  #endedAgain(): void {
    this.#owner.misbehaved(
      new BackendError('EIO', `The backend's ${this.callback} ended an operation that had ended before`),
    )
  }

  #problemOf(value: unknown): Failure | undefined {
    if (value === undefined || (value === this.#bytes && this.#bytes !== NO_BYTES)) return undefined
    const expected =
      this.#bytes === NO_BYTES ? 'returns nothing' : `moves ${this.#bytes} bytes, and returns that or nothing`
    return new BackendError(
      'EIO',
      `The backend's ${this.callback} returned ${describe(value)}; it ${expected} when it has done its work`,
    )
  }
}
