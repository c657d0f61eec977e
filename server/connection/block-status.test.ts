import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Extent } from '../backends/backend.ts'
import { BASE_ALLOCATION_ID, encodeBlockStatus } from './block-status.ts'

const DATA = { hole: false, zero: false }
const HOLE = { hole: true, zero: true }
const ZERO = { hole: false, zero: true }
const GIB = 2 ** 30

interface Told {
  readonly length: number
  readonly state: number
}

/** The payload taken apart: id of the context, then length and state of each extent. */
function tell(extents: readonly Extent[], requested: number, toDiskEnd: number, onlyOne = false): Told[] {
  const payload = encodeBlockStatus(extents, requested, toDiskEnd, onlyOne)
  expect(payload.readUInt32BE(0)).toBe(BASE_ALLOCATION_ID)
  expect((payload.length - 4) % 8).toBe(0)
  return Array.from({ length: (payload.length - 4) / 8 }, (_, index) => ({
    length: payload.readUInt32BE(4 + 8 * index),
    state: payload.readUInt32BE(8 + 8 * index),
  }))
}

describe('BLOCK_STATUS', () => {
  test('says HOLE as bit 0 and ZERO as bit 1', () => {
    const extents = [
      { length: 1, ...DATA },
      { length: 2, hole: true, zero: false },
      { length: 4, ...ZERO },
      { length: 8, ...HOLE },
    ]
    expect(tell(extents, 15, 100)).toEqual([
      { length: 1, state: 0 },
      { length: 2, state: 1 },
      { length: 4, state: 2 },
      { length: 8, state: 3 },
    ])
  })

  test('joins neighbours of one state', () => {
    const extents = [
      { length: 10, ...DATA },
      { length: 20, ...DATA },
      { length: 30, ...HOLE },
      { length: 40, ...HOLE },
    ]
    expect(tell(extents, 100, 100)).toEqual([
      { length: 30, state: 0 },
      { length: 70, state: 3 },
    ])
  })

  test('lets the last extent reach beyond the request, but not beyond the disk', () => {
    const extents = [{ length: 1000, ...DATA }]
    expect(tell(extents, 10, 2000)).toEqual([{ length: 1000, state: 0 }])
    expect(tell(extents, 10, 500)).toEqual([{ length: 500, state: 0 }])
  })

  test('with REQ_ONE is one extent, no longer than the request', () => {
    const extents = [
      { length: 5, ...DATA },
      { length: 5, ...DATA },
      { length: 1000, ...HOLE },
    ]
    expect(tell(extents, 100, 2000, true)).toEqual([{ length: 10, state: 0 }])
    expect(tell(extents, 7, 2000, true)).toEqual([{ length: 7, state: 0 }])
    expect(tell([{ length: 1000, ...HOLE }], 100, 2000, true)).toEqual([{ length: 100, state: 3 }])
  })

  test.each([2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1, 2 ** 40, 2 ** 53 - 1])(
    'of an extent of %i bytes fits in 32 bits and block sizes (CVE-2025-47711, CVE-2025-47712)',
    length => {
      for (const onlyOne of [true, false]) {
        for (const requested of [0xffffffff, 0xffff0001, 0xffff0000]) {
          const [told, ...rest] = tell([{ length, ...HOLE }], requested, 2 ** 53 - 1, onlyOne)
          expect(rest).toEqual([])
          expect(told?.length).toBeLessThan(2 ** 32)
          expect((told?.length ?? 1) % 65_536).toBe(0)
        }
      }
    },
  )

  test('does not join two extents into more than 32 bits', () => {
    const extents = [3 * GIB, 3 * GIB, 3 * GIB].map(length => ({ length, ...HOLE }))
    const told = tell(extents, 0xffffffff, 9 * GIB)
    expect(told).toHaveLength(1)
    expect(told[0]?.length).toBeGreaterThan(3 * GIB)
  })

  test('of a backend that tells nothing fails', () => {
    expect(() => tell([], 10, 10)).toThrow(/no extents/)
  })

  test('keeps the rules of the protocol whatever a backend tells', () => {
    const extent = fc.record({
      length: fc.oneof(fc.integer({ min: 1, max: 5000 }), fc.integer({ min: 1, max: 2 ** 45 })),
      hole: fc.boolean(),
      zero: fc.boolean(),
    })
    const extents = fc.array(extent, { minLength: 1, maxLength: 10 })
    const requested = fc.oneof(fc.integer({ min: 1, max: 20_000 }), fc.integer({ min: 1, max: 0xffffffff }))
    fc.assert(
      fc.property(extents, requested, fc.maxSafeNat(), fc.boolean(), (given, length, behind, onlyOne) => {
        const toDiskEnd = Math.min(length + behind, Number.MAX_SAFE_INTEGER)
        const told = tell(given, length, toDiskEnd, onlyOne)
        const total = told.reduce((sum, { length: part }) => sum + part, 0)
        const butLast = total - (told.at(-1)?.length ?? 0)
        expect(told.length).toBeGreaterThan(0)
        expect(told.every(({ length: part }) => part > 0)).toBe(true)
        expect(butLast).toBeLessThan(length)
        expect(total).toBeLessThanOrEqual(toDiskEnd)
        if (onlyOne) {
          expect(told).toHaveLength(1)
          expect(total).toBeLessThanOrEqual(length)
        }
        // Neighbours differ, and each byte has the state that the backend told.
        told.forEach(({ state }, index) => {
          expect(state).not.toBe(told[index + 1]?.state)
        })
        let at = 0
        for (const { length: part, state } of told) {
          let position = 0
          for (const { length: size, hole, zero } of given) {
            const overlaps = position < at + part && position + size > at
            if (overlaps) expect(state).toBe((hole ? 1 : 0) | (zero ? 2 : 0))
            position += size
          }
          at += part
        }
      }),
      { numRuns: 500 },
    )
  })
})
