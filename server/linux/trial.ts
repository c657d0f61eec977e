/**
 * When to try what pays with some clients and costs with others: the schedule alone, which does not know what is tried
 * nor how it is judged. It counts rounds: requests, or batches of them.
 */

/** Rounds that it is on before it is judged: while it is tried, and once it has paid. */
const [TRIAL, TERM] = [16, 256]
/** Most rounds from a trial that failed to the next one. */
const LAST_PAUSE = 16_384

/** Tried now and then, kept on where it pays, and tried ever more seldom where it does not. */
export class Trial {
  /** It is to be done in the rounds until the next judgement. */
  isOn = false
  readonly #firstPause: number
  #pause: number

  /** `firstPause`: rounds until the first trial, and to the next one after a failure; each further failure doubles them. */
  constructor(firstPause: number) {
    this.#firstPause = firstPause
    this.#pause = firstPause
  }

  /** Begins a trial; returns in how many rounds it is to be judged. */
  begin(): number {
    this.isOn = true
    return TRIAL
  }

  /** Judges what was on; returns the rounds until it is judged again, or until the next trial. */
  judge(hasPaid: boolean): number {
    this.isOn = hasPaid
    if (hasPaid) {
      this.#pause = this.#firstPause
      return TERM
    }
    const pause = this.#pause
    this.#pause = Math.min(2 * pause, LAST_PAUSE)
    return pause
  }
}
