import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CREATION_SECONDS, DELAY_SECONDS, Histogram, REQUEST_SECONDS } from './histogram.ts'

test('a value counts in all buckets from its own bound on, and in none below', () => {
  const histogram = new Histogram([1, 2, 5])
  for (const value of [0, 1, 1.5, 2, 5, 7]) histogram.observe(value)
  expect(histogram.cumulative()).toEqual([2, 4, 5, 6])
  expect(histogram.sum).toBe(16.5)
  expect(histogram.count).toBe(6)
})

test('a value that stands for many is the same as so many of it', () => {
  const value = fc.tuple(fc.double({ min: 0, max: 20, noNaN: true }), fc.integer({ min: 1, max: 20 }))
  fc.assert(
    fc.property(fc.array(value, { maxLength: 20 }), values => {
      const [together, apart] = [new Histogram(REQUEST_SECONDS), new Histogram(REQUEST_SECONDS)]
      for (const [seconds, times] of values) {
        together.observe(seconds, times)
        for (let index = 0; index < times; index++) apart.observe(seconds)
      }
      expect(together.cumulative()).toEqual(apart.cumulative())
      expect(together.sum).toBeCloseTo(apart.sum, 6)
    }),
  )
})

test('counts beyond 2^31 stay exact', () => {
  const histogram = new Histogram([1])
  for (let index = 0; index < 8; index++) histogram.observe(1, 2 ** 30)
  expect(histogram.cumulative()).toEqual([2 ** 33, 2 ** 33])
})

describe('bounds', () => {
  test.each([
    ['requests', REQUEST_SECONDS],
    ['creations', CREATION_SECONDS],
    ['delays', DELAY_SECONDS],
  ])('those of %s ascend', (_, bounds) => {
    expect(bounds).toEqual(bounds.toSorted((one, other) => one - other))
    expect(new Set(bounds).size).toBe(bounds.length)
  })

  test('those of requests reach from 50 us to 10 s', () => {
    expect([REQUEST_SECONDS.at(0), REQUEST_SECONDS.at(-1)]).toEqual([0.00005, 10])
  })
})
