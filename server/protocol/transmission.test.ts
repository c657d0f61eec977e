import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  chunkHeaderLength,
  dataHeaderLength,
  EXTENDED_REQUEST_LENGTH,
  FRAMING,
  REQUEST_COOKIE,
  REQUEST_FLAGS,
  REQUEST_LENGTH,
  REQUEST_OFFSET,
  REQUEST_SIZE,
  REQUEST_TYPE,
  readUInt64,
  SIMPLE_REPLY_LENGTH,
  wireErrno,
  writeChunkHeader,
  writeDataChunkHeader,
  writeErrorChunk,
  writeHoleChunk,
  writeSimpleReply,
  writeUInt64,
} from './transmission.ts'

/** What a writer wrote at index 3 of a larger buffer, which must be untouched around it. */
function written(write: (buffer: Buffer, at: number) => number): string {
  const buffer = Buffer.alloc(5000, 0xee)
  const end = write(buffer, 3)
  expect(buffer.subarray(0, 3).toString('hex')).toBe('eeeeee')
  expect(buffer.subarray(end, end + 64).toString('hex')).toBe('ee'.repeat(64))
  return buffer.subarray(3, end).toString('hex')
}

const hex = (text: string) => text.replaceAll(' ', '')
const OFFSET = 0x0001_2233_4455_66

const head = (cookieHigh: number, cookieLow: number, framing: number = FRAMING.STRUCTURED) => ({
  framing,
  cookieHigh,
  cookieLow,
  offsetHigh: 0xf8191a1b,
  offsetLow: 0xfc1d1e1f,
})

describe('Replies as the protocol lays them out', () => {
  test('simple reply: magic, error, cookie', () => {
    const reply = written((buffer, at) =>
      writeSimpleReply(buffer, at, head(0x85060708, 0xf90a0b0c), 0x01020304),
    )
    expect(reply).toBe(hex('67446698 01020304 85060708f90a0b0c'))
    expect(reply.length / 2).toBe(SIMPLE_REPLY_LENGTH)
  })

  test.each([
    [true, '0001'],
    [false, '0000'],
  ])('chunk: magic, flags (done: %s), type, cookie, length', (done, flags) => {
    const chunk = written((buffer, at) =>
      writeChunkHeader(buffer, at, head(0x85060708, 0xf90a0b0c), 0x8001, done, 0xfffefdfc),
    )
    expect(chunk).toBe(hex(`668e33ef ${flags} 8001 85060708f90a0b0c fffefdfc`))
    expect(chunk.length / 2).toBe(chunkHeaderLength(FRAMING.STRUCTURED))
  })

  test('OFFSET_DATA: type 1, length of offset and data, offset', () => {
    const chunk = written((buffer, at) =>
      writeDataChunkHeader(buffer, at, head(0x11121314, 0x15161718), true, OFFSET, 0x01020304),
    )
    expect(chunk).toBe(hex('668e33ef 0001 0001 1112131415161718 0102030c 0000012233445566'))
    expect(chunk.length / 2).toBe(dataHeaderLength(FRAMING.STRUCTURED))
  })

  test('OFFSET_HOLE: type 2, length 12, offset, length of the hole', () => {
    const chunk = written((buffer, at) =>
      writeHoleChunk(buffer, at, head(0x11121314, 0x15161718), false, OFFSET, 0xf1020304),
    )
    expect(chunk).toBe(hex('668e33ef 0000 0002 1112131415161718 0000000c 0000012233445566 f1020304'))
  })

  test('ERROR: type 2^15+1, done, length, error, length of the text, text', () => {
    const chunk = written((buffer, at) =>
      writeErrorChunk(buffer, at, head(0x11121314, 0x15161718), 0x0102, Buffer.from('why')),
    )
    expect(chunk).toBe(hex('668e33ef 0001 8001 1112131415161718 00000009 00000102 0003 776879'))
  })

  test('ERROR with the longest text', () => {
    const chunk = written((buffer, at) =>
      writeErrorChunk(buffer, at, head(1, 2), 5, Buffer.alloc(4096, 0x61)),
    )
    expect(chunk.length / 2).toBe(20 + 6 + 4096)
  })
})

describe('Extended replies as the protocol lays them out', () => {
  const extended = head(0x11121314, 0x15161718, FRAMING.EXTENDED)

  test('chunk: magic, flags, type, cookie, offset of the request, length', () => {
    const chunk = written((buffer, at) => writeChunkHeader(buffer, at, extended, 0x8001, true, 0x1_fffefdfc))
    expect(chunk).toBe(hex('6e8a278c 0001 8001 1112131415161718 f8191a1bfc1d1e1f 00000001fffefdfc'))
    expect(chunk.length / 2).toBe(chunkHeaderLength(FRAMING.EXTENDED))
  })

  test('OFFSET_DATA: the offset of the data follows that of the request', () => {
    const chunk = written((buffer, at) =>
      writeDataChunkHeader(buffer, at, extended, true, OFFSET, 0x01020304),
    )
    const header = '6e8a278c 0001 0001 1112131415161718 f8191a1bfc1d1e1f 000000000102030c'
    expect(chunk).toBe(hex(`${header} 0000012233445566`))
    expect(chunk.length / 2).toBe(dataHeaderLength(FRAMING.EXTENDED))
  })

  test('OFFSET_HOLE: the length of the hole keeps its 32 bits', () => {
    const chunk = written((buffer, at) => writeHoleChunk(buffer, at, extended, false, OFFSET, 0xf1020304))
    const header = '6e8a278c 0000 0002 1112131415161718 f8191a1bfc1d1e1f 000000000000000c'
    expect(chunk).toBe(hex(`${header} 0000012233445566 f1020304`))
  })

  test('ERROR: the payload is that of structured replies', () => {
    const chunk = written((buffer, at) => writeErrorChunk(buffer, at, extended, 0x0102, Buffer.from('why')))
    const header = '6e8a278c 0001 8001 1112131415161718 f8191a1bfc1d1e1f 0000000000000009'
    expect(chunk).toBe(hex(`${header} 00000102 0003 776879`))
  })

  test('a request has 32 bytes, its length 64 bits', () => {
    const request = Buffer.from(
      hex('21e41c71 0102 0304 1112131415161718 0001223344556677 0000919293949596'),
      'hex',
    )
    expect(request).toHaveLength(EXTENDED_REQUEST_LENGTH)
    expect(readUInt64(request, REQUEST_SIZE)).toBe(0x919293949596)
  })
})

test('A request is magic, flags, type, cookie, offset, length', () => {
  const request = Buffer.from(hex('25609513 0102 0304 1112131415161718 0001223344556677 91929394'), 'hex')
  expect(request).toHaveLength(REQUEST_LENGTH)
  expect(request.readUInt16BE(REQUEST_FLAGS)).toBe(0x0102)
  expect(request.readUInt16BE(REQUEST_TYPE)).toBe(0x0304)
  expect(request.readBigUInt64BE(REQUEST_COOKIE)).toBe(0x1112131415161718n)
  expect(readUInt64(request, REQUEST_OFFSET)).toBe(0x1223344556677)
  expect(request.readUInt32BE(REQUEST_SIZE)).toBe(0x91929394)
})

describe('64-bit numbers', () => {
  test('below 2^53 are exact', () => {
    const buffer = Buffer.alloc(8)
    fc.assert(
      fc.property(fc.maxSafeNat(), value => {
        expect(writeUInt64(buffer, value, 0)).toBe(8)
        expect(buffer.readBigUInt64BE(0)).toBe(BigInt(value))
        expect(readUInt64(buffer, 0)).toBe(value)
      }),
    )
  })

  test('from 2^53 on never read as something smaller', () => {
    const buffer = Buffer.alloc(8)
    const large = fc.bigInt({ min: 2n ** 53n, max: 2n ** 64n - 1n })
    fc.assert(
      fc.property(large, value => {
        buffer.writeBigUInt64BE(value)
        expect(readUInt64(buffer, 0)).toBeGreaterThanOrEqual(2 ** 53)
      }),
    )
  })
})

test.each([
  ['EPERM', 1],
  ['EACCES', 1],
  ['EROFS', 1],
  ['EIO', 5],
  ['ENOMEM', 12],
  ['EINVAL', 22],
  ['ENOSPC', 28],
  ['EDQUOT', 28],
  ['EFBIG', 28],
  ['EOVERFLOW', 75],
  ['ENOTSUP', 95],
  ['EOPNOTSUPP', 95],
  ['ESHUTDOWN', 108],
  ['ENOENT', 5],
  ['ERANGE', 5],
  ['toString', 5],
  ['', 5],
  [undefined, 5],
  [null, 5],
  [28, 5],
])('Error %s is %i on the wire', (code, errno) => {
  expect(wireErrno(code)).toBe(errno)
})
