/** Answers of a backend to what is not an operation: waited for, but not for ever. */
import { BackendError, failureOf, isThenable, UnfinishedError } from './errors.ts'

/** Calls that have outlived their limit and are still unanswered, above which a backend gets no more of them. */
export const MAX_UNANSWERED = 1000
/** How long an `open` has to obey its signal, in ms. */
export const ABORT_GRACE_MS = 5000
/** A timer for longer would fire at once. */
const MAX_TIMER_MS = 2 ** 31 - 1

/** How long to wait, and what to do with what comes too late. */
export interface AnswerTerms<Value> {
  /** May be infinite. */
  readonly ms: number
  /** Once aborted, there are ABORT_GRACE_MS left. */
  readonly signal?: AbortSignal
  /** Gets an answer for which nobody waits any more. */
  readonly late?: (value: Value) => void
}

export class Answers {
  readonly #onProblem: (problem: Error) => void
  #unanswered = 0

  /** `onProblem` is told of failures after the limit. */
  constructor(onProblem: (problem: Error) => void) {
    this.#onProblem = onProblem
  }

  /**
   * Calls a callback and waits for its answer. The timer does not keep the process alive.
   * @throws what the callback failed with, as failureOf makes it; UnfinishedError after the limit; the signal's reason
   */
  async of<Value>(
    callback: string,
    call: () => Value | PromiseLike<Value>,
    terms: AnswerTerms<Value>,
  ): Promise<Value> {
    if (this.#unanswered >= MAX_UNANSWERED) {
      throw new BackendError(
        'ETIMEDOUT',
        `The backend owes ${MAX_UNANSWERED} answers and is asked no more until it gives some`,
      )
    }
    let answer: Value | PromiseLike<Value>
    try {
      answer = call()
    } catch (thrown) {
      throw failureOf(callback, thrown)
    }
    if (!isThenable(answer)) return answer as Value
    return this.#wait(callback, Promise.resolve(answer as PromiseLike<Value>), terms)
  }

  #wait<Value>(
    callback: string,
    answer: Promise<Value>,
    { ms, signal, late }: AnswerTerms<Value>,
  ): Promise<Value> {
    return new Promise((resolve, reject) => {
      const timers: NodeJS.Timeout[] = []
      let givenUp: 'limit' | 'abort' | undefined
      const settled = Promise.withResolvers<void>()
      const giveUpAfter = (limit: number, why: 'limit' | 'abort') => {
        if (limit > MAX_TIMER_MS) return
        timers.push(setTimeout(giveUp, limit, why).unref())
      }
      const onAbort = () => giveUpAfter(ABORT_GRACE_MS, 'abort')
      const stopWaiting = () => {
        for (const timer of timers) clearTimeout(timer)
        signal?.removeEventListener('abort', onAbort)
      }
      const giveUp = (why: 'limit' | 'abort') => {
        givenUp = why
        this.#unanswered++
        stopWaiting()
        reject(why === 'abort' ? signal?.reason : tooLate(callback, ms, settled.promise))
      }
      const cameLate = () => {
        this.#unanswered--
        settled.resolve()
      }
      giveUpAfter(ms, 'limit')
      if (signal?.aborted) onAbort()
      else signal?.addEventListener('abort', onAbort, { once: true })
      answer.then(
        value => {
          stopWaiting()
          resolve(value)
          if (givenUp === undefined) return
          late?.(value)
          cameLate()
        },
        (thrown: unknown) => {
          stopWaiting()
          const failure = failureOf(callback, thrown)
          reject(failure)
          if (givenUp === undefined) return
          // Of one that was called off, nothing else is to be expected.
          if (givenUp === 'limit') this.#onProblem(failure)
          cameLate()
        },
      )
    })
  }
}

function tooLate(callback: string, ms: number, settled: Promise<void>): UnfinishedError {
  return new UnfinishedError(`The backend's ${callback} gave no answer within ${ms / 1000} s`, settled)
}
