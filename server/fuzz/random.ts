/** Random choices that a seed repeats. */

/** A source of random choices. */
export interface Random {
  /** A whole number from 0 to `limit` - 1. */
  below(limit: number): number
  /** True once in so many times. */
  oneIn(times: number): boolean
  pick<T>(choices: readonly [T, ...T[]]): T
  bytes(length: number): Buffer
}

/** The generator "mulberry32": 32 bits of state, which is plenty for choosing what to send. */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return (mixed ^ (mixed >>> 14)) >>> 0
  }
  const below = (limit: number) => next() % limit
  return {
    below,
    oneIn: times => below(times) === 0,
    pick: choices => choices[below(choices.length)] ?? choices[0],
    bytes: length => Buffer.from(Array.from({ length }, () => below(256))),
  }
}
