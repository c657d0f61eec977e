import { expect, test } from 'vitest'
import { Turn } from './turn.ts'

/** Reads that miss the page cache, 10 us each, until the turn is over or there have been 64; how many there were. */
function missesIn(turn: Turn): number {
  turn.begin(performance.now())
  let misses = 0
  while (!turn.isOver && misses < 64) {
    for (const until = performance.now() + 0.01; performance.now() < until; );
    turn.missed()
    misses++
  }
  return misses
}

test('Reads that have to wait end the turn sooner while another connection is active', async () => {
  const [deep, other] = [new Turn(), new Turn()]
  // The time of each may be taken by another program, but not each time.
  const most = (prepare: () => void) =>
    Math.max(
      ...Array.from({ length: 50 }, () => {
        prepare()
        return missesIn(deep)
      }),
    )
  const shared = most(() => other.begin(performance.now()))
  expect(shared).toBeLessThanOrEqual(5)
  await expect.poll(() => most(() => {})).toBe(64)
})
