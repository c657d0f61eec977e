import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  boundedText,
  decodeClientFlags,
  decodeGo,
  decodeMetaContext,
  decodeOptionHeader,
  encodeBlockSizeInfo,
  encodeExportInfo,
  encodeExportNameReply,
  encodeGreeting,
  encodeMetaContext,
  encodeOptionError,
  encodeOptionReply,
  encodeServerReply,
  encodeTextInfo,
  InvalidOption,
  ProtocolViolation,
} from './handshake.ts'

/** Bytes as the protocol's text lays them out; spaces are for the reader. */
const bytes = (hex: string) => Buffer.from(hex.replaceAll(' ', ''), 'hex')
const ascii = (text: string) => Buffer.from(text).toString('hex')

describe('What the server sends', () => {
  test.each<[what: string, sent: Buffer, hex: string]>([
    [
      'greeting: NBDMAGIC, IHAVEOPT, fixed newstyle and no zeroes',
      encodeGreeting(),
      '4e42444d41474943 49484156454f5054 0003',
    ],
    [
      'option reply: magic, option, type, length, payload',
      encodeOptionReply(0x01020304, 0x05060708, Buffer.from('abc')),
      '0003e889045565a9 01020304 05060708 00000003 616263',
    ],
    ['acknowledgement', encodeOptionReply(8, 1), '0003e889045565a9 00000008 00000001 00000000'],
    [
      'error with a text',
      encodeOptionError(0x07, 0x80000006, 'No ä.'),
      `0003e889045565a9 00000007 80000006 00000006 ${ascii('No ä.')}`,
    ],
    [
      'SERVER: length of the name, name',
      encodeServerReply(3, 'alice'),
      `0003e889045565a9 00000003 00000002 00000009 00000005 ${ascii('alice')}`,
    ],
    [
      'INFO_EXPORT: type 0, size, flags',
      encodeExportInfo(7, 0x0011223344556677, 0x8899),
      '0003e889045565a9 00000007 00000003 0000000c 0000 0011223344556677 8899',
    ],
    [
      'INFO_NAME',
      encodeTextInfo(6, 1, 'xy'),
      `0003e889045565a9 00000006 00000003 00000004 0001 ${ascii('xy')}`,
    ],
    [
      'INFO_BLOCK_SIZE: type 3, minimum, preferred, maximum',
      encodeBlockSizeInfo(7, 0x01020304, 0x05060708, 0x090a0b0c),
      '0003e889045565a9 00000007 00000003 0000000e 0003 01020304 05060708 090a0b0c',
    ],
    [
      'META_CONTEXT: id, name',
      encodeMetaContext(10, 0x01020304, 'base:allocation'),
      `0003e889045565a9 0000000a 00000004 00000013 01020304 ${ascii('base:allocation')}`,
    ],
    [
      'answer to EXPORT_NAME without zeroes: size, flags',
      encodeExportNameReply(0x0011223344556677, 0x8899, true),
      '0011223344556677 8899',
    ],
    [
      'answer to EXPORT_NAME with zeroes: size, flags, 124 zeroes',
      encodeExportNameReply(0x0011223344556677, 0x8899, false),
      `0011223344556677 8899 ${'00'.repeat(124)}`,
    ],
  ])('%s', (_, sent, hex) => {
    expect(sent.toString('hex')).toBe(bytes(hex).toString('hex'))
  })

  test('a size of 2^53-1 is exact', () => {
    const sent = encodeExportInfo(7, Number.MAX_SAFE_INTEGER, 1)
    expect(sent.subarray(-10).toString('hex')).toBe('001fffffffffffff0001')
  })
})

describe('Texts for people', () => {
  test('an error text has at most 4096 bytes (CVE-2020-10761)', () => {
    const reply = encodeOptionError(7, 0x80000006, 'x'.repeat(100_000))
    expect(reply).toHaveLength(20 + 4096)
    expect(reply.readUInt32BE(16)).toBe(4096)
  })

  test('are cut between characters, as late as possible', () => {
    const text = fc.string({ unit: 'grapheme', maxLength: 60 })
    fc.assert(
      fc.property(text, fc.integer({ min: 0, max: 80 }), (whole, limit) => {
        const cut = boundedText(whole, limit)
        const decoded = cut.toString('utf8')
        expect(cut.length).toBeLessThanOrEqual(limit)
        expect(whole.startsWith(decoded)).toBe(true)
        expect(Buffer.from(decoded)).toEqual(Buffer.from(cut))
        const next = [...whole.slice(decoded.length)][0]
        if (next !== undefined) expect(cut.length + Buffer.byteLength(next)).toBeGreaterThan(limit)
      }),
    )
  })
})

describe("The client's flags", () => {
  test.each([
    [0, false, false],
    [1, true, false],
    [2, false, true],
    [3, true, true],
  ])('%i', (value, fixedNewstyle, noZeroes) => {
    const sent = Buffer.concat([Buffer.from('xx'), bytes(`0000000${value}`)])
    expect(decodeClientFlags(sent, 2)).toEqual({ fixedNewstyle, noZeroes })
  })

  test.each(['00000004', '00000007', '00010003', '80000000', 'ffffffff'])(
    'that were not offered end the connection: %s',
    hex => expect(() => decodeClientFlags(bytes(hex), 0)).toThrow(ProtocolViolation),
  )
})

describe("An option's header", () => {
  test('is magic, option, length', () => {
    const sent = bytes('ff 49484156454f5054 01020304 00000506')
    expect(decodeOptionHeader(sent, 1)).toEqual({ option: 0x01020304, length: 0x0506 })
  })

  test('with another magic ends the connection', () => {
    expect(() => decodeOptionHeader(bytes('49484156454f5055 00000007 00000000'), 0)).toThrow(
      ProtocolViolation,
    )
  })

  test.each([
    [65_536, true],
    [65_537, false],
    [2 ** 31, false],
    [0xffffffff, false],
  ])('with a length of %i', (length, isFine) => {
    const sent = bytes(`49484156454f5054 00000007 ${length.toString(16).padStart(8, '0')}`)
    if (isFine) expect(decodeOptionHeader(sent, 0).length).toBe(length)
    else expect(() => decodeOptionHeader(sent, 0)).toThrow(ProtocolViolation)
  })
})

const name = fc.uint8Array({ maxLength: 300 }).map(array => Buffer.from(array))
const u32 = (value: number) => bytes(value.toString(16).padStart(8, '0'))
const u16 = (value: number) => bytes(value.toString(16).padStart(4, '0'))

describe('INFO and GO', () => {
  test('are length of the name, name, number of requests, requests', () => {
    const payload = bytes(`00000003 ${ascii('abc')} 0002 0102 0304`)
    expect(decodeGo(payload)).toEqual({ name: Buffer.from('abc'), infoTypes: [0x0102, 0x0304] })
  })

  test('take any bytes as a name, up to 4096', () => {
    for (const length of [0, 255, 256, 4095, 4096]) {
      const payload = Buffer.concat([u32(length), Buffer.alloc(length, 0xff), u16(0)])
      expect(decodeGo(payload).name).toHaveLength(length)
    }
    const tooLong = Buffer.concat([u32(4097), Buffer.alloc(4097, 0x61), u16(0)])
    expect(() => decodeGo(tooLong)).toThrow(InvalidOption)
  })

  test('are decoded as they were encoded, and refused with a byte more or less', () => {
    fc.assert(
      fc.property(name, fc.array(fc.integer({ min: 0, max: 0xffff })), fc.nat(), (text, infoTypes, at) => {
        const payload = Buffer.concat([u32(text.length), text, u16(infoTypes.length), ...infoTypes.map(u16)])
        expect(decodeGo(payload)).toEqual({ name: text, infoTypes })
        expect(() => decodeGo(payload.subarray(0, at % payload.length))).toThrow(InvalidOption)
        expect(() => decodeGo(Buffer.concat([payload, Buffer.alloc(1)]))).toThrow(InvalidOption)
      }),
    )
  })

  test.each([
    ['no bytes', ''],
    ['a name of 2^32-1 bytes (CVE-2022-26495)', 'ffffffff 616263 0000'],
    ['a name of 2^32-4 bytes', 'fffffffc 616263 0000'],
    ['a name that takes the place of the requests', '00000005 616263 0000'],
    ['65535 requests that are not there (CVE-2022-26496)', '00000003 616263 ffff 0001'],
    ['one request more than announced', '00000003 616263 0001 0001 0002'],
  ])('with %s', (_, hex) => {
    expect(() => decodeGo(bytes(hex))).toThrow(InvalidOption)
  })
})

describe('Queries of metadata contexts', () => {
  test('are length of the name, name, number of queries, each with its length', () => {
    const payload = bytes(`00000002 ${ascii('ab')} 00000002 00000003 ${ascii('c:d')} 00000000`)
    expect(decodeMetaContext(payload)).toEqual({ name: Buffer.from('ab'), queries: ['c:d', ''] })
  })

  test('are decoded as they were encoded, and refused with a byte more or less', () => {
    const query = fc.string({ maxLength: 20 })
    fc.assert(
      fc.property(name, fc.array(query), fc.nat(), (text, queries, at) => {
        const parts = queries.map(item => Buffer.from(item))
        const payload = Buffer.concat([
          u32(text.length),
          text,
          u32(queries.length),
          ...parts.flatMap(part => [u32(part.length), part]),
        ])
        expect(decodeMetaContext(payload)).toEqual({ name: text, queries })
        expect(() => decodeMetaContext(payload.subarray(0, at % payload.length))).toThrow(InvalidOption)
        expect(() => decodeMetaContext(Buffer.concat([payload, Buffer.alloc(1)]))).toThrow(InvalidOption)
      }),
    )
  })

  test.each([
    ['2^32-1 queries', '00000001 61 ffffffff'],
    ['a quarter of 2^32 queries', '00000001 61 40000000 00000000'],
    ['a query of 2^32-1 bytes', '00000001 61 00000001 ffffffff 62'],
  ])('that announce %s', (_, hex) => {
    expect(() => decodeMetaContext(bytes(hex))).toThrow(InvalidOption)
  })

  test('of an option full of empty queries are as many as fit', () => {
    const count = (65_536 - 8) / 4
    const payload = Buffer.concat([u32(0), u32(count), Buffer.alloc(4 * count)])
    expect(decodeMetaContext(payload).queries).toHaveLength(count)
  })
})

test('Any payload is either decoded or refused by InvalidOption', () => {
  const payload = fc.uint8Array({ maxLength: 64 }).map(array => Buffer.from(array))
  fc.assert(
    fc.property(payload, sent => {
      for (const decode of [decodeGo, decodeMetaContext]) {
        try {
          decode(sent)
        } catch (error) {
          expect(error).toBeInstanceOf(InvalidOption)
        }
      }
    }),
    { numRuns: 500 },
  )
})
