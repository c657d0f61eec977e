import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { editDistance, nearest } from './nearest.ts'

describe('edit distance', () => {
  test.each([
    ['', '', 0],
    ['', 'abc', 3],
    ['size', 'size', 0],
    ['size', 'sise', 1],
    ['size', 'szie', 1],
    ['size', 'siz', 1],
    ['size', 'sizes', 1],
    ['kitten', 'sitting', 3],
    ['ab', 'ba', 1],
    ['ca', 'abc', 3],
  ])('%s to %s is %d', (from, to, distance) => {
    expect(editDistance(from, to)).toBe(distance)
  })

  test('is zero for equal words only, the same both ways, and never more than the longer word', () => {
    const word = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 8 })
    fc.assert(
      fc.property(word, word, (from, to) => {
        const distance = editDistance(from, to)
        expect(distance).toBe(editDistance(to, from))
        expect(distance === 0).toBe(from === to)
        expect(distance).toBeLessThanOrEqual(Math.max(from.length, to.length))
        expect(distance).toBeGreaterThanOrEqual(Math.abs(from.length - to.length))
      }),
    )
  })
})

describe('nearest', () => {
  const candidates = [
    'dir',
    'disks',
    'size',
    'max-size',
    'max-disks',
    'temporary',
    'command',
    'command-timeout',
  ]

  test.each([
    ['temp', 'temporary'],
    ['tempory', 'temporary'],
    ['max-siez', 'max-size'],
    ['disk', 'disks'],
    ['di', 'dir'],
    ['comand', 'command'],
    ['directory', undefined],
    ['x', undefined],
    ['', undefined],
    ['x'.repeat(1000), undefined],
  ])('%s: %s', (word, expected) => {
    expect(nearest(word, candidates)).toBe(expected)
  })
})
