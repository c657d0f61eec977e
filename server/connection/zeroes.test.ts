import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { FRAMING } from '../protocol/transmission.ts'
import { assemble, type Chunk } from './test-client.ts'
import { writeDataAndHoles } from './zeroes.ts'

const HEADER = 28
const GUARD = 0xee
const HEAD = {
  framing: FRAMING.STRUCTURED,
  cookieHigh: 0x11121314,
  cookieLow: 0x15161718,
  offsetHigh: 0,
  offsetLow: 0,
}

/** Writes the chunks of some data, checks that nothing behind the data was touched, and takes them apart. */
function chunksOf(data: Buffer, done: boolean, offset: number, at: number): Chunk[] {
  const buffer = Buffer.alloc(at + HEADER + data.length + 100, GUARD)
  data.copy(buffer, at + HEADER)
  const end = writeDataAndHoles(buffer, at, HEAD, offset, data.length, done)
  expect(end).toBeLessThanOrEqual(at + HEADER + data.length)
  expect(buffer.subarray(0, at).every(byte => byte === GUARD)).toBe(true)
  expect(buffer.subarray(at + HEADER + data.length).every(byte => byte === GUARD)).toBe(true)
  const chunks: Chunk[] = []
  for (let next = at; next < end; ) {
    expect(buffer.readUInt32BE(next)).toBe(0x668e33ef)
    expect(buffer.readBigUInt64BE(next + 8)).toBe(0x1112131415161718n)
    const length = buffer.readUInt32BE(next + 16)
    chunks.push({
      done: buffer.readUInt16BE(next + 4) === 1,
      type: buffer.readUInt16BE(next + 6),
      cookie: buffer.readBigUInt64BE(next + 8),
      payload: Buffer.from(buffer.subarray(next + 20, next + 20 + length)),
    })
    next += 20 + length
  }
  return chunks
}

/** Data with runs of zeroes of awkward lengths. */
const data = fc
  .array(
    fc.record({
      length: fc.oneof(
        fc.constantFrom(1, 27, 28, 32, 4095, 4096, 4097, 8192, 8193),
        fc.integer({ min: 1, max: 20_000 }),
      ),
      byte: fc.constantFrom(0, 0, 1, 255),
    }),
    { minLength: 1, maxLength: 8 },
  )
  .map(runs => Buffer.concat(runs.map(({ length, byte }) => Buffer.alloc(length, byte))))

describe('A structured READ reply', () => {
  test('put together is the data, ends with DONE or not at all, and stays within the space of the data', () => {
    const offset = fc.integer({ min: 0, max: 2 ** 50 })
    fc.assert(
      fc.property(data, fc.boolean(), offset, fc.nat(200), (bytes, done, position, at) => {
        const chunks = chunksOf(bytes, done, position, at)
        expect(assemble(chunks, position, bytes.length).equals(bytes)).toBe(true)
        expect(chunks.map(chunk => chunk.done)).toEqual(
          chunks.map((_, index) => done && index === chunks.length - 1),
        )
        // OFFSET_DATA holds a byte at least; a hole is never empty.
        for (const { type, payload } of chunks) {
          expect(type === 1 ? payload.length - 8 : payload.readUInt32BE(8)).toBeGreaterThan(0)
        }
      }),
      { numRuns: 300 },
    )
  })

  const zeroes = (length: number) => Buffer.alloc(length)
  const ones = (length: number) => Buffer.alloc(length, 1)
  test.each<[what: string, bytes: Buffer, types: number[]]>([
    ['one byte', ones(1), [1]],
    ['one zero', zeroes(1), [1]],
    ['zeroes, one short of 4 KiB', zeroes(4095), [1]],
    ['4 KiB of zeroes', zeroes(4096), [2]],
    ['1 MiB of zeroes', zeroes(2 ** 20), [2]],
    ['zeroes with a tail', zeroes(5000), [2]],
    ['data, then zeroes', Buffer.concat([ones(4096), zeroes(4096)]), [1, 2]],
    ['zeroes, then data', Buffer.concat([zeroes(4096), ones(4096)]), [2, 1]],
    ['zeroes, then one byte', Buffer.concat([zeroes(4096), ones(1)]), [2, 1]],
    ['data, then a short tail of zeroes', Buffer.concat([ones(4096), zeroes(4095)]), [1]],
    ['zeroes that no 4 KiB are made of', Buffer.concat([ones(1), zeroes(8190), ones(1)]), [1]],
    [
      'a hole between data',
      Buffer.concat([ones(100), zeroes(3996), zeroes(4096), zeroes(4095), ones(1)]),
      [1, 2, 1],
    ],
  ])('%s', (_, bytes, types) => {
    expect(chunksOf(bytes, true, 0, 0).map(({ type }) => type)).toEqual(types)
  })
})
