import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  decodeExportNameReply,
  decodeGreeting,
  decodeInfo,
  decodeMetaContextReply,
  decodeOldstyle,
  decodeOptionReplyHeader,
  decodeServerFlags,
  decodeServerReply,
  encodeClientFlags,
  encodeGo,
  encodeMetaQueries,
  encodeOption,
  ServerViolation,
} from './client-handshake.ts'
import { INFO, OPT, REP } from './constants.ts'
import {
  decodeClientFlags,
  decodeGo,
  decodeMetaContext,
  decodeOptionHeader,
  encodeBlockSizeInfo,
  encodeExportInfo,
  encodeGreeting,
  encodeMetaContext,
  encodeServerReply,
  encodeTextInfo,
} from './handshake.ts'

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(/[\s|]/g, ''), 'hex')

/** Payload of an option reply that our server's encoder made. */
const payload = (reply: Buffer): Buffer => reply.subarray(20)

describe('What a client sends', () => {
  test('has the bytes of the specification', () => {
    expect(encodeClientFlags({ fixedNewstyle: true, noZeroes: true })).toEqual(hex('00000003'))
    expect(encodeClientFlags({ fixedNewstyle: true, noZeroes: false })).toEqual(hex('00000001'))
    expect(encodeClientFlags({ fixedNewstyle: false, noZeroes: false })).toEqual(hex('00000000'))
    expect(encodeOption(OPT.STARTTLS)).toEqual(hex('49484156454f5054 00000005 00000000'))
    expect(encodeOption(OPT.EXPORT_NAME, Buffer.from('disk'))).toEqual(
      hex('49484156454f5054 00000001 00000004 6469736b'),
    )
    expect(encodeGo(OPT.GO, 'é', [INFO.NAME, INFO.BLOCK_SIZE])).toEqual(
      hex('49484156454f5054 00000007 0000000c | 00000002 c3a9 0002 0001 0003'),
    )
    expect(encodeMetaQueries(OPT.SET_META_CONTEXT, 'a', ['b:c', 'd:'])).toEqual(
      hex('49484156454f5054 0000000a 00000016 | 00000001 61 00000002 00000003 623a63 00000002 643a'),
    )
  })

  test('is what our server understands', () => {
    const go = encodeGo(OPT.GO, 'disk', [INFO.NAME])
    expect(decodeOptionHeader(go, 0)).toEqual({ option: OPT.GO, length: go.length - 16 })
    expect(decodeGo(go.subarray(16))).toEqual({ name: Buffer.from('disk'), infoTypes: [INFO.NAME] })
    const queries = encodeMetaQueries(OPT.SET_META_CONTEXT, 'disk', ['base:allocation'])
    expect(decodeMetaContext(queries.subarray(16)).queries).toEqual(['base:allocation'])
    const flags = decodeServerFlags(encodeGreeting().subarray(16))
    expect(decodeClientFlags(encodeClientFlags(flags), 0)).toEqual({ fixedNewstyle: true, noZeroes: true })
  })
})

describe('What a server sends', () => {
  test('in its greeting', () => {
    expect(decodeGreeting(hex('4e42444d41474943 49484156454f5054'))).toBe('newstyle')
    expect(decodeGreeting(hex('4e42444d41474943 0000420281861253'))).toBe('oldstyle')
    expect(decodeServerFlags(hex('0003'))).toEqual({ fixedNewstyle: true, noZeroes: true })
    // Flags that are not known yet are ignored.
    expect(decodeServerFlags(hex('fffe'))).toEqual({ fixedNewstyle: false, noZeroes: true })
  })

  test('of an export', () => {
    expect(decodeOldstyle(Buffer.concat([hex('0000000102030405 00000005'), Buffer.alloc(124)]))).toEqual({
      size: 0x0102030405,
      flags: 5,
    })
    expect(decodeExportNameReply(hex('0000000102030405 0a0b'))).toEqual({ size: 0x0102030405, flags: 0x0a0b })
    expect(decodeInfo(hex('0000 0000000102030405 0a0b'))).toEqual({
      kind: 'export',
      value: { size: 0x0102030405, flags: 0x0a0b },
    })
    expect(decodeInfo(hex('0003 00000200 00001000 02000000'))).toEqual({
      kind: 'blockSizes',
      value: { minimum: 512, preferred: 4096, maximum: 0x2000000 },
    })
    expect(decodeInfo(hex('0001 6e'))).toEqual({ kind: 'name', value: 'n' })
    expect(decodeInfo(hex('0002'))).toEqual({ kind: 'description', value: '' })
    expect(decodeInfo(hex('0009 ffff'))).toEqual({ kind: 'other' })
    expect(decodeServerReply(hex('00000002 6162 63'))).toEqual({ name: 'ab', description: 'c' })
    expect(decodeMetaContextReply(hex('01020304 626173653a616c6c6f636174696f6e'))).toBe(0x01020304)
  })

  test('is read as our server means it', () => {
    expect(decodeOptionReplyHeader(encodeServerReply(OPT.LIST, 'x'), OPT.LIST)).toEqual({
      type: REP.SERVER,
      length: 5,
    })
    expect(decodeServerReply(payload(encodeServerReply(OPT.LIST, 'né')))).toEqual({
      name: 'né',
      description: '',
    })
    expect(decodeInfo(payload(encodeExportInfo(OPT.GO, 12_345, 0x8ed)))).toEqual({
      kind: 'export',
      value: { size: 12_345, flags: 0x8ed },
    })
    expect(decodeInfo(payload(encodeTextInfo(OPT.GO, INFO.DESCRIPTION, 'text')))).toEqual({
      kind: 'description',
      value: 'text',
    })
    expect(decodeInfo(payload(encodeBlockSizeInfo(OPT.GO, 1, 4096, 2 ** 25)))).toEqual({
      kind: 'blockSizes',
      value: { minimum: 1, preferred: 4096, maximum: 2 ** 25 },
    })
    expect(decodeMetaContextReply(payload(encodeMetaContext(OPT.GO, 7, 'base:allocation')))).toBe(7)
  })

  test('without HAS_FLAGS has no flags', () => {
    expect(decodeExportNameReply(hex('0000000000000001 0002')).flags).toBe(0)
    expect(decodeInfo(hex('0000 0000000000000001 fffe'))).toMatchObject({ value: { flags: 0 } })
  })

  test('as its preferred size is only advice', () => {
    expect(decodeInfo(hex('0003 00000001 00000003 02000000'))).toMatchObject({ value: { preferred: 4096 } })
    expect(decodeInfo(hex('0003 00002000 00000200 02000000'))).toMatchObject({ value: { preferred: 8192 } })
  })
})

describe('A server violates the protocol', () => {
  test.for([
    ['by a greeting that is not NBD', () => decodeGreeting(Buffer.from('HTTP/1.1 400 Bad'))],
    ['by an unknown style', () => decodeGreeting(hex('4e42444d41474943 0102030405060708'))],
    ['by a reply without its magic', () => decodeOptionReplyHeader(Buffer.alloc(20), OPT.GO)],
    [
      'by a reply to another option',
      () => decodeOptionReplyHeader(hex('0003e889045565a9 00000003 00000001 00000000'), OPT.GO),
    ],
    [
      'by a reply of 4 GiB',
      () => decodeOptionReplyHeader(hex('0003e889045565a9 00000007 80000001 ffffffff'), OPT.GO),
    ],
    ['by a size of 2^63 (CVE-2023-5215)', () => decodeInfo(hex('0000 8000000000000000 0001'))],
    ['by a size of 2^64-1', () => decodeExportNameReply(hex('ffffffffffffffff 0001'))],
    ['by an oldstyle size of 2^63', () => decodeOldstyle(Buffer.alloc(136, 0x80))],
    ['by an INFO_EXPORT that is too short', () => decodeInfo(hex('0000 0000000000000001'))],
    ['by an INFO_EXPORT that is too long', () => decodeInfo(hex('0000 0000000000000001 0001 00'))],
    ['by an information without a type', () => decodeInfo(hex('00'))],
    [
      'by a description of 4097 bytes',
      () => decodeInfo(Buffer.concat([hex('0002'), Buffer.alloc(4097, 97)])),
    ],
    ['by a name with a NUL', () => decodeInfo(hex('0001 6100'))],
    ['by a minimum block size of 0', () => decodeInfo(hex('0003 00000000 00001000 02000000'))],
    ['by a minimum block size of 3', () => decodeInfo(hex('0003 00000003 00001000 02000000'))],
    ['by a minimum block size of 128K', () => decodeInfo(hex('0003 00020000 00020000 02000000'))],
    ['by a maximum below the minimum', () => decodeInfo(hex('0003 00001000 00001000 00000800'))],
    ['by a maximum of 0', () => decodeInfo(hex('0003 00000001 00001000 00000000'))],
    ['by a maximum that is no multiple', () => decodeInfo(hex('0003 00001000 00001000 02000001'))],
    ['by a listed name of 2^32-1 bytes (CVE-2022-26495)', () => decodeServerReply(hex('ffffffff 61'))],
    ['by a listing without a length', () => decodeServerReply(hex('000000'))],
    ['by another metadata context', () => decodeMetaContextReply(hex('00000001 783a79'))],
    ['by a metadata context without a name', () => decodeMetaContextReply(hex('00000001'))],
  ] as const)('%s', ([, decode]) => {
    expect(decode).toThrow(ServerViolation)
  })

  test('in any way, and nothing else is thrown', () => {
    const decoders = [decodeInfo, decodeServerReply, decodeMetaContextReply]
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), fc.nat(2), (bytes, index) => {
        try {
          decoders[index]?.(Buffer.from(bytes))
        } catch (error) {
          expect(error).toBeInstanceOf(ServerViolation)
        }
      }),
      { numRuns: 3000 },
    )
  })
})
