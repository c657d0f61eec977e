import { expect, test } from 'vitest'
import { type Lingerers, Lingering } from './lingering.ts'

/** How many of so many requests were lingered for; `answers`: whether the answer came in time. */
function lingered(lingering: Lingering, requests: number, answers: boolean): number {
  let count = 0
  for (let request = 0; request < requests; request++) {
    if (lingering.until() === 0) continue
    count++
    if (answers) lingering.answered()
  }
  return count
}

test('It is kept up where answers come in time', () => {
  const lingering = new Lingering({ last: undefined })
  expect(lingered(lingering, 32, true)).toBe(0)
  expect(lingered(lingering, 100_000, true)).toBe(100_000)
})

test('Where they do not it is tried ever more seldom, and taken up again when they do', () => {
  const lingering = new Lingering({ last: undefined })
  // 32 + 16, 32 + 16, 64 + 16, 128 + 16 and so on.
  expect(lingered(lingering, 100_000, false)).toBeLessThan(16 * 20)
  expect(lingered(lingering, 20_000, true)).toBeGreaterThan(0)
  expect(lingered(lingering, 1000, true)).toBe(1000)
})

test('Those who take turns do not keep each other waiting', () => {
  const all: Lingerers = { last: undefined }
  const [one, other] = [new Lingering(all), new Lingering(all)]
  expect(lingered(one, 1000, true)).toBeGreaterThan(900)
  for (let request = 0; request < 1000; request++) {
    expect(other.until()).toBe(0)
    expect(one.until()).toBe(0)
  }
  expect(lingered(one, 20_000, true)).toBeGreaterThan(0)
})

test('Those who have nothing to look for are not kept waiting either', () => {
  const all: Lingerers = { last: undefined }
  const [one, busy] = [new Lingering(all), new Lingering(all)]
  expect(lingered(one, 1000, true)).toBeGreaterThan(900)
  for (let request = 0; request < 1000; request++) {
    busy.passed()
    expect(one.until()).toBe(0)
  }
})
