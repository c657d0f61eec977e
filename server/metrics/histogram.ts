/** A histogram that is bumped in place: observing allocates nothing, and is a short search and three additions. */
export class Histogram {
  /** Upper bounds of the buckets, ascending; one more bucket takes what is above the last. */
  readonly bounds: readonly number[]
  readonly #counts: Float64Array
  #sum = 0

  constructor(bounds: readonly number[]) {
    this.bounds = bounds
    this.#counts = new Float64Array(bounds.length + 1)
  }

  /** Takes a value, as if it had been observed so many times. */
  observe(value: number, times = 1): void {
    const { bounds } = this
    let index = 0
    // A bound belongs to its bucket: `le` means "less or equal".
    while (index < bounds.length && value > (bounds[index] as number)) index++
    this.#counts[index] = (this.#counts[index] as number) + times
    this.#sum += value * times
  }

  get sum(): number {
    return this.#sum
  }

  get count(): number {
    return this.#counts.reduce((total, count) => total + count, 0)
  }

  /** How many values were at most as large as each bound, and then how many there were. */
  cumulative(): number[] {
    let total = 0
    return Array.from(this.#counts, count => {
      total += count
      return total
    })
  }
}

/** Seconds from a request in memory to one that waits for a sick disk. */
export const REQUEST_SECONDS: readonly number[] = [
  50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
]

/** Seconds from a small mkfs to a command that copies a template. */
export const CREATION_SECONDS: readonly number[] = [
  0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600,
]

/** Seconds that an event loop is late. */
export const DELAY_SECONDS: readonly number[] = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5,
]
