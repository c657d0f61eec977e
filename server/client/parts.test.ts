/** What stands between a caller's operation and the requests that are sent: cutting, aligning, queueing. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CMD, CMD_FLAG } from '../protocol/constants.ts'
import { clipExtents } from './extents.ts'
import { Fifo } from './fifo.ts'
import type { Completion } from './operation.ts'
import { sendInParts } from './split.ts'
import { type Issue, pieces, unaligned } from './unaligned.ts'

test('A queue keeps its order, as an array does', () => {
  fc.assert(
    fc.property(
      fc.array(fc.oneof(fc.integer(), fc.constant('shift'), fc.constant('drain')), { maxLength: 5000 }),
      steps => {
        const fifo = new Fifo<number>()
        let model: number[] = []
        for (const step of steps) {
          if (typeof step === 'number') {
            fifo.push(step)
            model.push(step)
          } else if (step === 'shift') expect(fifo.shift()).toBe(model.shift())
          else {
            expect(fifo.drain()).toEqual(model)
            model = []
          }
          expect(fifo.length).toBe(model.length)
        }
      },
    ),
    { numRuns: 50 },
  )
  const long = new Fifo<number>()
  for (let index = 0; index < 10_000; index++) long.push(index)
  for (let index = 0; index < 9000; index++) expect(long.shift()).toBe(index)
  expect(long.drain()).toHaveLength(1000)
})

describe('An operation is cut into parts', () => {
  interface Part {
    readonly at: number
    readonly length: number
    readonly completion: Completion
  }

  function cut(length: number, most: number, window?: number) {
    const parts: Part[] = []
    const ends: unknown[] = []
    const completion = { complete: (error?: unknown) => ends.push(error) }
    sendInParts(
      length,
      most,
      (at, part, ended) => parts.push({ at, length: part, completion: ended }),
      completion,
      window,
    )
    return { parts, ends }
  }

  test('that cover it, a few at a time, and ends with the last of them', () => {
    const { parts, ends } = cut(101, 10, 3)
    expect(parts.map(({ at, length }) => [at, length])).toEqual([
      [0, 10],
      [10, 10],
      [20, 10],
    ])
    for (let index = 0; index < parts.length; index++) {
      expect(ends).toEqual([])
      expect(parts.length).toBeLessThanOrEqual(index + 3)
      parts[index]?.completion.complete()
    }
    expect(parts.at(-1)).toMatchObject({ at: 100, length: 1 })
    expect(ends).toEqual([undefined])
  })

  test('of which no more are sent after an error, and it ends when those in flight have', () => {
    const { parts, ends } = cut(100, 10, 3)
    const failure = new Error('no')
    parts[1]?.completion.complete(failure)
    parts[0]?.completion.complete()
    expect(ends).toEqual([])
    parts[2]?.completion.complete(new Error('later'))
    expect(ends).toEqual([failure])
    expect(parts).toHaveLength(3)
  })

  test('and what cannot begin throws, while what cannot go on fails', () => {
    const refuse = () => {
      throw new Error('closed')
    }
    expect(() => sendInParts(10, 1, refuse, { complete: () => expect.unreachable() })).toThrow('closed')
    const ends: unknown[] = []
    const begun: Completion[] = []
    const send = (at: number, _: number, completion: Completion) => {
      if (at > 0) refuse()
      begun.push(completion)
    }
    sendInParts(10, 1, send, { complete: error => ends.push(error) })
    expect(ends).toEqual([])
    begun[0]?.complete()
    expect(ends).toEqual([expect.objectContaining({ message: 'closed' })])
  })
})

test('Extents are clipped to what was asked about', () => {
  const kind = { hole: false, zero: false }
  const extents = [4, 8, 100].map(length => ({ ...kind, length }))
  const lengths = (skipped: number, most: number) =>
    clipExtents(extents, skipped, most).map(({ length }) => length)
  expect(lengths(0, 1000)).toEqual([4, 8, 100])
  expect(lengths(3, 1000)).toEqual([1, 8, 100])
  expect(lengths(4, 1000)).toEqual([8, 100])
  expect(lengths(0, 20)).toEqual([4, 8, 8])
  expect(lengths(5, 10)).toEqual([7, 3])
})

describe('An unaligned request', () => {
  test('is cut at the borders of blocks', () => {
    fc.assert(
      fc.property(
        fc.nat(100),
        fc.integer({ min: 1, max: 100 }),
        fc.constantFrom(1, 2, 8, 16),
        (offset, length, block) => {
          let at = 0
          for (const piece of pieces(offset, length, block)) {
            expect(piece.at).toBe(at)
            at += piece.length
            const start = offset + piece.at
            if (piece.isWhole) expect([start % block, piece.length % block]).toEqual([0, 0])
            else expect(Math.floor(start / block)).toBe(Math.floor((start + piece.length - 1) / block))
          }
          expect(at).toBe(length)
          expect(pieces(offset, length, block).length).toBeLessThanOrEqual(3)
        },
      ),
    )
  })

  /** A disk that takes blocks of 8 bytes only, each after a while. */
  function blocks(size: number): { disk: Buffer; issue: Issue; sent: number[] } {
    const disk = Buffer.alloc(size, 0x77)
    const sent: number[] = []
    const issue: Issue = async (command, flags, buffer, start, length, offset) => {
      expect([offset % 8, length % 8, offset + length <= size]).toEqual([0, 0, true])
      sent.push(command)
      await new Promise(resolve => setTimeout(resolve, Math.random() * 3))
      if (command === CMD.READ) disk.copy(buffer, start, offset, offset + length)
      if (command === CMD.WRITE) buffer.copy(disk, offset, start, start + length)
      if (command === CMD.WRITE_ZEROES) {
        if (flags & CMD_FLAG.FAST_ZERO) throw new Error('not fast')
        disk.fill(0, offset, offset + length)
      }
      await new Promise(resolve => setTimeout(resolve, Math.random() * 3))
    }
    return { disk, issue, sent }
  }

  test('reads and writes what an aligned one would, also beside others', async () => {
    await fc.assert(
      fc.asyncProperty(
        // Disjoint, so that the outcome does not depend on their order; neighbours share blocks.
        fc.array(
          fc.tuple(fc.integer({ min: 1, max: 20 }), fc.constantFrom(CMD.WRITE, CMD.WRITE_ZEROES, CMD.READ)),
          {
            minLength: 1,
            maxLength: 12,
          },
        ),
        async ranges => {
          const { disk, issue } = blocks(256)
          const model = Buffer.from(disk)
          const emulated = unaligned(issue, 8)
          let offset = 0
          const operations = ranges.map(async ([length, command], index) => {
            const at = offset
            offset += length
            const buffer = Buffer.alloc(length + 4, index + 1)
            if (command === CMD.WRITE) buffer.copy(model, at, 2, 2 + length)
            if (command === CMD.WRITE_ZEROES) model.fill(0, at, at + length)
            await emulated(command, 0, buffer, 2, length, at)
            if (command === CMD.READ)
              expect(buffer.subarray(2, 2 + length).equals(Buffer.alloc(length, 0x77))).toBe(true)
          })
          await Promise.all(operations)
          expect(disk.equals(model)).toBe(true)
        },
      ),
      { numRuns: 25 },
    )
  })

  test('trims whole blocks only, and caches all that it touches', async () => {
    const ranges: number[][] = []
    const emulated = unaligned(async (command, _, __, ___, length, offset) => {
      ranges.push([command, offset, length])
    }, 8)
    const nothing = Buffer.alloc(0)
    await emulated(CMD.TRIM, 0, nothing, 0, 20, 3)
    await emulated(CMD.TRIM, 0, nothing, 0, 7, 1)
    await emulated(CMD.CACHE, 0, nothing, 0, 7, 4)
    expect(ranges).toEqual([
      [CMD.TRIM, 8, 8],
      [CMD.CACHE, 0, 16],
    ])
  })

  test('that should be zeroed fast, and cannot be, changes nothing', async () => {
    const { disk, issue } = blocks(64)
    await expect(unaligned(issue, 8)(CMD.WRITE_ZEROES, CMD_FLAG.FAST_ZERO, disk, 0, 30, 3)).rejects.toThrow(
      'not fast',
    )
    expect(disk.equals(Buffer.alloc(64, 0x77))).toBe(true)
  })

  test('that fails does not hold up the next', async () => {
    let failing = true
    const emulated = unaligned(async () => {
      if (failing) throw new Error('once')
    }, 8)
    const bytes = Buffer.alloc(8)
    await expect(emulated(CMD.WRITE, 0, bytes, 0, 3, 1)).rejects.toThrow('once')
    failing = false
    await emulated(CMD.WRITE, 0, bytes, 0, 3, 1)
    await emulated(CMD.WRITE, 0, bytes, 0, 8, 0)
  })
})
