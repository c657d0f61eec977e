import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ReceivedRanges } from './received-ranges.ts'

test('Ranges are refused where they overlap, and found in order, as by a bitmap', () => {
  const range = fc.tuple(fc.nat(60), fc.integer({ min: 1, max: 8 }))
  fc.assert(
    fc.property(fc.array(range, { maxLength: 30 }), ranges => {
      const received = new ReceivedRanges()
      const bitmap = new Set<number>()
      for (const [start, length] of ranges) {
        const cells = Array.from({ length }, (_, index) => start + index)
        const isNew = cells.every(cell => !bitmap.has(cell))
        expect(received.add(start, start + length)).toBe(isNew)
        if (isNew) for (const cell of cells) bitmap.add(cell)
      }
      for (let end = 0; end < 70; end++) {
        expect(received.beginsBefore(end)).toBe([...bitmap].some(cell => cell < end))
      }
      let first = 0
      while (!bitmap.has(first) && first < 70) first++
      if (first < 70) {
        let end = first
        while (bitmap.has(end)) end++
        expect(received.takeFrom(first + 1)).toBe(first + 1)
        expect(received.takeFrom(first)).toBe(end)
        expect(received.takeFrom(first)).toBe(first)
      }
    }),
    { numRuns: 500 },
  )
})

test('Gaps without end are refused', () => {
  const received = new ReceivedRanges()
  let accepted = 0
  while (accepted < 5000 && received.add(2 * accepted, 2 * accepted + 1)) accepted++
  expect(accepted).toBe(1024)
  // What closes a gap is still welcome.
  expect(received.add(1, 2)).toBe(true)
})
