import { describe, expect, test } from 'vitest'
import { refusalOf } from './request-rules.ts'
import { FRAMING } from './transmission.ts'

const [OK, EPERM, EINVAL, ENOSPC] = [0, 1, 22, 28]
const MIB = 2 ** 20
const SIZE = 64 * MIB + 1000

const READ = 0
const WRITE = 1
const DISC = 2
const FLUSH = 3
const TRIM = 4
const CACHE = 5
const WRITE_ZEROES = 6
const BLOCK_STATUS = 7
const NAMES = ['READ', 'WRITE', 'DISC', 'FLUSH', 'TRIM', 'CACHE', 'WRITE_ZEROES', 'BLOCK_STATUS'] as const
const FUA = 1
const NO_HOLE = 2
const DF = 4
const REQ_ONE = 8
const FAST_ZERO = 16

const TERMS = { size: SIZE, readOnly: false, framing: FRAMING.STRUCTURED, baseAllocation: true }

interface Case {
  readonly size?: number
  readonly flags?: number
  readonly offset?: number
  readonly length?: number
  readonly readOnly?: boolean
  readonly framing?: number
  readonly baseAllocation?: boolean
}

function refusal(type: number, { flags = 0, offset = 0, length = 512, ...terms }: Case = {}): number {
  return refusalOf({ ...TERMS, ...terms }, type, flags, offset, length)
}

/** What each command answers to: plain, on a read-only disk, with each flag, past the end, 4 GiB - 1 inside a huge disk. */
const TABLE = [
  { type: READ, readOnly: OK, flags: FUA | DF, pastEnd: EINVAL, huge: EINVAL },
  { type: WRITE, readOnly: EPERM, flags: FUA, pastEnd: ENOSPC, huge: EINVAL },
  { type: FLUSH, readOnly: OK, flags: FUA, pastEnd: OK, huge: OK },
  { type: TRIM, readOnly: EPERM, flags: FUA, pastEnd: EINVAL, huge: OK },
  { type: CACHE, readOnly: OK, flags: FUA, pastEnd: EINVAL, huge: OK },
  { type: WRITE_ZEROES, readOnly: EPERM, flags: FUA | NO_HOLE | FAST_ZERO, pastEnd: ENOSPC, huge: OK },
  { type: BLOCK_STATUS, readOnly: OK, flags: FUA | REQ_ONE, pastEnd: EINVAL, huge: OK },
].map(row => ({ ...row, command: NAMES[row.type] }))

describe.each(TABLE)('$command', ({ type, readOnly, flags, pastEnd, huge }) => {
  test('is served', () => expect(refusal(type)).toBe(OK))

  test('on a read-only disk', () => expect(refusal(type, { readOnly: true })).toBe(readOnly))

  test.each(Array.from({ length: 16 }, (_, bit) => 2 ** bit))('with flag 0x%x', flag => {
    expect(refusal(type, { flags: flag })).toBe(flag & flags ? OK : EINVAL)
  })

  test('with all its flags at once', () => {
    expect(refusal(type, { flags })).toBe(OK)
    expect(refusal(type, { flags: flags | 0x8000 })).toBe(EINVAL)
  })

  test.each<[where: string, offset: number, length: number]>([
    ['one byte too long', SIZE - 511, 512],
    ['behind the end', SIZE + 1, 512],
    ['of 2^32-1 bytes', 0, 0xffffffff],
    ['whose end is past 2^53', 2 ** 53 - 1, 512],
    ['at 2^63', 2 ** 63, 512],
    ['at the end of 64 bits', 2 ** 64, 0xffffffff],
  ])('over a range %s', (_, offset, length) => {
    expect(refusal(type, { offset, length })).toBe(pastEnd)
  })

  test('at the very end', () => {
    expect(refusal(type, { offset: SIZE - 512 })).toBe(OK)
    expect(refusal(type, { offset: SIZE - 1, length: 1 })).toBe(OK)
  })

  test('of no length, at the end and behind it', () => {
    expect(refusal(type, { offset: SIZE, length: 0 })).toBe(type === BLOCK_STATUS ? EINVAL : OK)
    expect(refusal(type, { offset: SIZE + 1, length: 0 })).toBe(pastEnd)
  })

  test('of 4 GiB - 1 on a disk that is large enough', () => {
    expect(refusal(type, { size: 2 ** 40, length: 0xffffffff })).toBe(huge)
  })

  test('does not tell a range from a permission', () => {
    if (readOnly !== EPERM) return
    expect(refusal(type, { readOnly: true, offset: SIZE })).toBe(EPERM)
  })
})

describe('The rest', () => {
  test.each([READ, WRITE])('32 MiB is the most that command %i moves', type => {
    expect(refusal(type, { length: 32 * MIB })).toBe(OK)
    expect(refusal(type, { length: 32 * MIB + 1 })).toBe(EINVAL)
  })

  test('DF needs structured replies', () => {
    expect(refusal(READ, { flags: DF, framing: FRAMING.SIMPLE })).toBe(EINVAL)
  })

  test('BLOCK_STATUS needs the context', () => {
    expect(refusal(BLOCK_STATUS, { baseAllocation: false })).toBe(EINVAL)
  })

  test.each([DISC, 8, 9, 255, 0x7fff, 0xffff])('command %i is none that is answered', type => {
    expect(refusal(type)).toBe(EINVAL)
  })

  test('a disk of 2^53-1 bytes can be used to its last byte', () => {
    const size = Number.MAX_SAFE_INTEGER
    const terms = { ...TERMS, size }
    expect(refusalOf(terms, READ, 0, size - 1, 1)).toBe(OK)
    expect(refusalOf(terms, READ, 0, size - 1, 2)).toBe(EINVAL)
    expect(refusalOf(terms, READ, 0, 2 ** 53, 1)).toBe(EINVAL)
  })
})
