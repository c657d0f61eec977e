import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Extent } from '../backend.ts'
import { clipExtents } from './extents.ts'
import { opened, smallBackend } from './test-operation.ts'

const extent = (length: number, kind: 'data' | 'hole' | 'zero'): Extent => ({
  length,
  hole: kind === 'hole',
  zero: kind !== 'data',
})
const bounds = (toDiskEnd: number, limit = 100, block = 1) => ({ toDiskEnd, limit, block })

describe('Extents', () => {
  test('end where the disk ends', () => {
    const told = [extent(100, 'data'), extent(2 ** 50, 'hole'), extent(7, 'data')]
    expect(clipExtents(told, bounds(150))).toEqual([extent(100, 'data'), extent(50, 'hole')])
    expect(clipExtents(told, bounds(100))).toEqual([extent(100, 'data')])
  })

  test('are no more than the limit', () => {
    const told = Array.from({ length: 9 }, (_, index) => extent(10, index % 2 ? 'hole' : 'data'))
    expect(clipExtents(told, bounds(1000, 3))).toEqual(told.slice(0, 3))
    expect(clipExtents(told, bounds(1000, 1, 16))).toHaveLength(1)
  })

  test('that meet within a block share what they have in common', () => {
    const told = [extent(600, 'hole'), extent(300, 'zero'), extent(1148, 'data')]
    expect(clipExtents(told, bounds(4096, 9, 512))).toEqual([
      extent(512, 'hole'),
      { length: 512, hole: false, zero: false },
      { length: 1024, hole: false, zero: false },
    ])
    expect(clipExtents([extent(600, 'hole'), extent(1448, 'zero')], bounds(4096, 9, 512))).toEqual([
      extent(512, 'hole'),
      { length: 512, hole: false, zero: true },
      { length: 1024, hole: false, zero: true },
    ])
  })

  test('of less than a block tell of data', () => {
    expect(clipExtents([extent(100, 'hole')], bounds(4096, 9, 512))).toEqual([extent(512, 'data')])
    expect(clipExtents([extent(100, 'hole')], bounds(100, 9, 512))).toEqual([extent(100, 'hole')])
  })

  test.each([
    [undefined, 'nothing in place of a list'],
    [null, 'null in place of a list'],
    [{ length: 1 }, 'an object in place of a list'],
    [[], 'no extent at all'],
    [[undefined], 'an extent of nothing bytes (the first)'],
    [[extent(5, 'data'), extent(0, 'data')], 'an extent of 0 bytes (the second)'],
    [[extent(-1, 'data')], 'an extent of -1 bytes'],
    [[extent(0.5, 'data')], 'an extent of 0.5 bytes'],
    [[extent(Number.NaN, 'data')], 'an extent of NaN bytes'],
    [[extent(2 ** 60, 'data')], 'an extent of 1152921504606847000 bytes'],
    [[{ length: 5 }], 'an extent whose "hole" or "zero" is neither true nor false (the first)'],
    [[{ length: 5, hole: 1, zero: 0 }], 'neither true nor false'],
  ])('%j are nonsense', (told, message) => {
    expect(() => clipExtents(told, bounds(1000))).toThrow(message)
    expect(() => clipExtents(told, bounds(1000))).toThrow(expect.objectContaining({ code: 'EIO' }))
  })

  test('never promise a hole or zeroes where the backend did not', () => {
    const kinds = fc.constantFrom('data' as const, 'hole' as const, 'zero' as const)
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 1, max: 40 }), kinds), { minLength: 1, maxLength: 20 }),
        fc.constantFrom(1, 4, 16),
        fc.integer({ min: 1, max: 30 }),
        fc.integer({ min: 1, max: 8 }),
        (told, block, blocks, limit) => {
          const toDiskEnd = blocks * block
          const list = told.map(([length, kind]) => extent(length, kind))
          const clipped = clipExtents(list, { toDiskEnd, limit, block })
          expect(clipped.length).toBeGreaterThan(0)
          expect(clipped.length).toBeLessThanOrEqual(limit)
          const flat = list.flatMap(({ length, hole, zero }) => Array(length).fill({ hole, zero }))
          let at = 0
          for (const { length, hole, zero } of clipped) {
            expect(length).toBeGreaterThan(0)
            expect(length % block).toBe(0)
            for (let byte = at; byte < at + length; byte++) {
              if (hole) expect(flat[byte]).toMatchObject({ hole: true })
              if (zero) expect(flat[byte]).toMatchObject({ zero: true })
            }
            at += length
          }
          expect(at).toBeLessThanOrEqual(toDiskEnd)
        },
      ),
    )
  })
})

test.each([
  ['at once', (list: Extent[]) => list],
  ['by a promise', async (list: Extent[]) => list],
])('Extents that a backend tells %s are clipped to the disk', async (_, tell) => {
  const backend = smallBackend({ extents: () => tell([extent(1000, 'hole'), extent(2 ** 40, 'data')]) })
  const { filled, handle } = await opened(backend)
  expect(await filled.extents(handle, 512, 65_536 - 1024, 10)).toEqual([
    extent(1000, 'hole'),
    extent(24, 'data'),
  ])
})

test('A backend without extents has data everywhere', async () => {
  const { filled, handle } = await opened(smallBackend())
  expect(await filled.extents(handle, 512, 1024, 10)).toEqual([extent(512, 'data')])
})

test.each([
  ['throws', () => throwing()],
  ['rejects', async () => throwing()],
])('Extents fail where the backend %s', async (_, extents) => {
  const { filled, handle } = await opened(smallBackend({ extents }))
  await expect(filled.extents(handle, 512, 0, 10)).rejects.toMatchObject({
    code: 'EIO',
    message: "The backend's extents failed: broken",
  })
})

function throwing(): never {
  throw new Error('broken')
}
