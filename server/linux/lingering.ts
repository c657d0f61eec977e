/**
 * Whether to look for an answer for some microseconds in place of going to sleep. To sleep and to be woken up costs a
 * caller with one request under way more than everything else that the request does, where the server is near.
 */
import { Trial } from './trial.ts'

/** How long an answer is looked for, in ms: about what two wake-ups cost. */
const LINGER_MS = 0.08
/** For how long requests may be looked for one after the other before anything else has its turn, in ms. */
export const LINGER_TURN_MS = 1
/** The part of the requests that has to be answered in time for it to pay. */
const WORTH = 0.75
/** Requests until the first trial. */
const FIRST_PAUSE = 32

/** Those who might keep each other waiting, and who of them had the last turn: only one that has it again may linger. */
export interface Lingerers {
  last: Lingering | undefined
}

/** Tries it with lone requests, keeps it where answers come in time, and tries ever more seldom where they do not. */
export class Lingering {
  readonly #all: Lingerers
  readonly #ms: number
  readonly #trial = new Trial(FIRST_PAUSE)
  #requests = 0
  #answered = 0
  #untilJudged = FIRST_PAUSE

  /** `ms`: how long an answer is looked for. */
  constructor(all: Lingerers, ms: number = LINGER_MS) {
    this.#all = all
    this.#ms = ms
  }

  /** A lone request has been sent. Until when its answer should be looked for, in ms of `performance.now()`; 0: not at all. */
  until(): number {
    const isAlone = this.#all.last === this
    this.#all.last = this
    this.#requests++
    if (this.#requests > this.#untilJudged) this.#judge()
    return this.#trial.isOn && isAlone ? performance.now() + this.#ms : 0
  }

  /** There was nothing to look for this time, but those who look must not keep this one waiting. */
  passed(): void {
    this.#all.last = this
  }

  /** It came in time. */
  answered(): void {
    this.#answered++
  }

  #judge(): void {
    const hasPaid = this.#answered >= WORTH * this.#untilJudged
    this.#untilJudged = this.#trial.isOn ? this.#trial.judge(hasPaid) : this.#trial.begin()
    this.#requests = 1
    this.#answered = 0
  }
}
