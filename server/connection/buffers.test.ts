import fc from 'fast-check'
import { expect, test } from 'vitest'
import { bytesLent, giveBuffer, HEADER_ROOM, MAX_DATA, takeBuffer } from './buffers.ts'

const length = fc.oneof(
  fc.integer({ min: 1, max: MAX_DATA }),
  fc.integer({ min: 0, max: 20 }).map(shift => 2 ** shift),
  fc.integer({ min: 1, max: 19 }).map(shift => 2 ** shift + 1),
)

test('A buffer has room for a header and the data, and not more than twice that', () => {
  fc.assert(
    fc.property(length, size => {
      const buffer = takeBuffer(size)
      expect(buffer.length).toBeGreaterThanOrEqual(HEADER_ROOM + size)
      expect(buffer.length).toBeLessThanOrEqual(HEADER_ROOM + Math.max(4096, 2 * size))
      giveBuffer(buffer)
    }),
  )
})

test('No buffer is lent twice, and what is lent is counted', () => {
  const step = fc.oneof(fc.record({ take: length }), fc.record({ give: fc.nat() }))
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), steps => {
      const before = bytesLent()
      const lent: Buffer[] = []
      for (const item of steps) {
        if ('take' in item) {
          const buffer = takeBuffer(item.take)
          expect(lent.includes(buffer)).toBe(false)
          lent.push(buffer)
        } else if (lent.length > 0) {
          giveBuffer(lent.splice(item.give % lent.length, 1)[0] as Buffer)
        }
        expect(bytesLent() - before).toBe(lent.reduce((sum, buffer) => sum + buffer.length, 0))
      }
      for (const buffer of lent) giveBuffer(buffer)
      expect(bytesLent()).toBe(before)
    }),
  )
})

test('A buffer is used again for what fits', () => {
  const buffer = takeBuffer(100_000)
  giveBuffer(buffer)
  expect(takeBuffer(70_000) === buffer).toBe(true)
  giveBuffer(buffer)
})

test('No more than 16 MiB lie idle', () => {
  const lent = Array.from({ length: 64 }, () => takeBuffer(MAX_DATA))
  for (const buffer of lent) giveBuffer(buffer)
  const reused = Array.from({ length: 64 }, () => takeBuffer(MAX_DATA)).filter(buffer =>
    lent.includes(buffer),
  )
  expect(reused.length * MAX_DATA).toBeLessThanOrEqual(16 * 2 ** 20)
  expect(reused.length).toBeGreaterThan(10)
})
