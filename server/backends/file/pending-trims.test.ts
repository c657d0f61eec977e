import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { MAX_PARTS, MAX_TRIMS, PendingTrims, PIECE } from './pending-trims.ts'

const BLOCK = 4096

/** All pieces, one after the other, each of which takes so many ms. */
function punchAll(pending: PendingTrims<string>, ms = 5): [start: number, end: number][] {
  const pieces: [number, number][] = []
  for (;;) {
    while (pending.takeDone() !== undefined);
    const piece = pending.begin()
    if (piece === undefined) return pieces
    pieces.push([piece.start, piece.end])
    pending.ended(ms)
  }
}

const sizes = (pieces: readonly [number, number][]) => pieces.map(([start, end]) => end - start)

describe('Pieces', () => {
  test('are all of the trim, once, and end at blocks', () => {
    const pending = new PendingTrims<string>()
    pending.add(1000, 3 * PIECE, 'a')
    expect(punchAll(pending)).toEqual([
      [1000, BLOCK * Math.floor((1000 + PIECE) / BLOCK)],
      [PIECE, 2 * PIECE],
      [2 * PIECE, 3 * PIECE],
      [3 * PIECE, 3 * PIECE + 1000],
    ])
    expect(pending.count).toBe(0)
  })

  test('grow while they take no time, up to a limit, and are small again when one takes long', () => {
    const pending = new PendingTrims<string>()
    pending.add(0, 2 ** 40, 'a')
    const large = sizes(punchAll(pending, 0.1)).slice(0, 6)
    expect(large).toEqual([1, 2, 4, 8, 16, 16].map(count => count * PIECE))
    pending.add(0, 2 ** 30, 'b')
    expect(sizes(punchAll(pending, 100)).slice(0, 2)).toEqual([16 * PIECE, PIECE])
  })
})

test('There are no more trims than may be, and no more parts, whatever is written', () => {
  const pending = new PendingTrims<string>()
  for (let count = 0; count < MAX_TRIMS; count++) {
    expect(pending.add(count * 2 * PIECE, 2 * PIECE, String(count))).toBe(true)
  }
  expect(pending.add(0, 2 * PIECE, 'more')).toBe(false)
  for (let count = 0; count < 3 * MAX_PARTS; count++) pending.exclude(count * 2 * BLOCK, 1)
  expect(punchAll(pending).length).toBeLessThanOrEqual(MAX_PARTS + MAX_TRIMS * 2)
})

test('Where there are too many parts, the larger side of one that is cut is kept', () => {
  const pending = new PendingTrims<string>()
  pending.add(0, 4 * PIECE, 'a')
  for (let count = 1; count < MAX_PARTS; count++) pending.exclude(count * 2 * BLOCK, 1)
  const rest = (MAX_PARTS - 1) * 2 * BLOCK + BLOCK
  pending.exclude(rest + BLOCK, 1)
  pending.exclude(4 * PIECE - 2 * BLOCK, 1)
  const pieces = punchAll(pending)
  expect(pieces.at(-1)?.[1]).toBe(4 * PIECE - 2 * BLOCK)
  expect(pieces.some(([start]) => start === rest)).toBe(false)
  expect(pieces.some(([start]) => start === rest + 2 * BLOCK)).toBe(true)
})

test('Whatever is taken out, nothing else of a trim is left out, and nothing is punched that was not trimmed', () => {
  const size = 40 * BLOCK
  const range = fc.tuple(fc.nat(size - 1), fc.integer({ min: 1, max: 6 * BLOCK }))
  fc.assert(
    fc.property(range, fc.array(range, { maxLength: 12 }), ([offset, length], changes) => {
      const pending = new PendingTrims<string>()
      const wanted = new Uint8Array(2 * size).fill(1, offset, offset + length)
      pending.add(offset, length, 'a')
      for (const [at, bytes] of changes) {
        expect(pending.exclude(at, bytes)).toBe(true)
        wanted.fill(0, at - (at % BLOCK), Math.ceil((at + bytes) / BLOCK) * BLOCK)
      }
      const punched = new Uint8Array(2 * size)
      for (const [start, end] of punchAll(pending)) punched.fill(1, start, end)
      expect(Buffer.compare(punched, wanted)).toBe(0)
    }),
    { numRuns: 200 },
  )
})
