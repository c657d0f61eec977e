/** Hostile options and requests, by the names under which differences.ts tells them. */
import {
  type Agreed,
  bytes,
  contexts,
  counted,
  goFor,
  option,
  type RequestFields,
  u16,
  u32,
} from './raw-client.ts'
import { DISK, SIZE } from './three-servers.ts'

const MIB = 2 ** 20

const [EXPORT_NAME, ABORT, LIST, PEEK, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META, EXTENDED] = [
  1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
]
const [READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS] = [0, 1, 2, 3, 4, 5, 6, 7]
const FLAG = { FUA: 1, NO_HOLE: 2, DF: 4, REQ_ONE: 8, FAST_ZERO: 16, PAYLOAD_LEN: 32 }

const good = option(STRUCTURED)
const flood = (count: number, one: Uint8Array) => bytes(...Array.from({ length: count }, () => one))

/** What is sent in the handshake, after these client flags. */
export const OPTIONS: Readonly<Record<string, { readonly sent: Uint8Array; readonly flags?: number }>> = {
  'unknown option with 1000 bytes': { sent: option(99, Buffer.alloc(1000, 0x49)) },
  'option 0': { sent: option(0) },
  'option 2^32-1': { sent: option(0xffff_ffff) },
  PEEK_EXPORT: { sent: option(PEEK) },
  'unknown option with 64 KiB': { sent: option(99, Buffer.alloc(65_536)) },
  'unknown option with 64 KiB and a byte': { sent: option(99, Buffer.alloc(65_537)) },
  'option that announces 4 GiB': { sent: option(99, Buffer.alloc(64), 0xffff_ffff) },
  'option with a wrong magic': { sent: bytes('IHAVEOPS', u32(LIST), u32(0)) },
  '40 unknown options': { sent: flood(40, option(99)) },
  '300 unknown options': { sent: flood(300, option(99)) },
  'client flags that are unknown': { sent: good, flags: 7 },
  'another option than EXPORT_NAME without fixed newstyle': { sent: option(LIST), flags: 0 },
  'LIST with data': { sent: option(LIST, Buffer.alloc(4)) },
  'LIST twice': { sent: flood(2, option(LIST)) },
  'STRUCTURED_REPLY with data': { sent: option(STRUCTURED, Buffer.alloc(4)) },
  'STRUCTURED_REPLY twice': { sent: flood(2, option(STRUCTURED)) },
  EXTENDED_HEADERS: { sent: option(EXTENDED) },
  'EXTENDED_HEADERS with data': { sent: option(EXTENDED, Buffer.alloc(4)) },
  'STARTTLS where TLS is off': { sent: option(STARTTLS) },
  'STARTTLS with data where TLS is off': { sent: option(STARTTLS, Buffer.alloc(4)) },
  ABORT: { sent: option(ABORT) },
  'ABORT with data': { sent: option(ABORT, Buffer.alloc(100)) },
  'INFO without data': { sent: option(INFO) },
  INFO: { sent: option(INFO, goFor(DISK)) },
  'INFO with all information and some that is unknown': {
    sent: option(INFO, goFor(DISK, 0, 1, 2, 3, 99, 0xffff)),
  },
  'GO with a name of 2^32-1 bytes': { sent: option(GO, bytes(u32(0xffff_ffff), DISK, u16(0))) },
  'GO with a name longer than the option': { sent: option(GO, bytes(u32(5), DISK)) },
  'GO with more information types than there are': { sent: option(GO, bytes(counted(DISK), u16(9), u16(0))) },
  'GO with bytes behind its end': { sent: option(GO, bytes(goFor(DISK), 'x')) },
  'GO with a name of 4097 bytes': { sent: option(GO, goFor('x'.repeat(4097))) },
  'INFO with a name of 4096 bytes': { sent: option(INFO, goFor('x'.repeat(4096))) },
  'INFO with a name of 256 bytes': { sent: option(INFO, goFor('x'.repeat(256))) },
  'GO with NUL in the name': { sent: option(GO, goFor('a\0b')) },
  'INFO with a name that is no UTF-8': { sent: option(INFO, goFor(Buffer.from([0x61, 0xff]))) },
  'INFO with the name ../x': { sent: option(INFO, goFor('../x')) },
  'EXPORT_NAME of 4097 bytes': { sent: option(EXPORT_NAME, Buffer.alloc(4097, 0x78)) },
  'SET_META_CONTEXT before STRUCTURED_REPLY': { sent: option(SET_META, contexts(DISK, 'base:allocation')) },
  'LIST_META_CONTEXT before STRUCTURED_REPLY': { sent: option(LIST_META, contexts(DISK)) },
  'SET_META_CONTEXT without data': { sent: bytes(good, option(SET_META)) },
  'SET_META_CONTEXT of base:': { sent: bytes(good, option(SET_META, contexts(DISK, 'base:'))) },
  'SET_META_CONTEXT of an unknown namespace': { sent: bytes(good, option(SET_META, contexts(DISK, 'x:y'))) },
  'SET_META_CONTEXT of base:allocation twice': {
    sent: bytes(good, option(SET_META, contexts(DISK, 'base:allocation', 'base:allocation'))),
  },
  'SET_META_CONTEXT with 2^32-1 queries': {
    sent: bytes(good, option(SET_META, bytes(counted(DISK), u32(0xffff_ffff)))),
  },
  'SET_META_CONTEXT with a query of 2^32-1 bytes': {
    sent: bytes(good, option(SET_META, bytes(counted(DISK), u32(1), u32(0xffff_ffff), 'x'))),
  },
  'SET_META_CONTEXT with bytes behind its end': {
    sent: bytes(good, option(SET_META, bytes(contexts(DISK, 'base:allocation'), 'x'))),
  },
  'LIST_META_CONTEXT without queries': { sent: bytes(good, option(LIST_META, contexts(DISK))) },
  'LIST_META_CONTEXT of base:': { sent: bytes(good, option(LIST_META, contexts(DISK, 'base:'))) },
}

/** A request, and what the handshake before it has agreed on. */
export interface Attempt extends Agreed {
  readonly request: Uint8Array | { readonly type: number; readonly fields?: RequestFields }
  readonly readOnly?: boolean
}

const past = { offset: SIZE - 1, length: 2 }
const far = { offset: 2n ** 64n - 1n, length: 2 }
const allocation = { structured: true, allocation: true }
const pay = (length: number, fields: RequestFields = {}) => ({
  ...fields,
  length,
  payload: Buffer.alloc(length),
})

export const REQUESTS: Readonly<Record<string, Attempt>> = {
  'READ past the end': { request: { type: READ, fields: past } },
  'READ past the end, structured': { request: { type: READ, fields: past }, structured: true },
  'READ at 2^64-1': { request: { type: READ, fields: far } },
  'WRITE past the end': { request: { type: WRITE, fields: pay(2, { offset: SIZE - 1 }) } },
  'WRITE at 2^64-1': { request: { type: WRITE, fields: pay(2, { offset: 2n ** 64n - 1n }) } },
  'TRIM past the end': { request: { type: TRIM, fields: past } },
  'CACHE past the end': { request: { type: CACHE, fields: past } },
  'WRITE_ZEROES past the end': { request: { type: WRITE_ZEROES, fields: past } },
  'BLOCK_STATUS past the end': { request: { type: BLOCK_STATUS, fields: past }, ...allocation },
  'TRIM of 2^32-1 bytes': { request: { type: TRIM, fields: { length: 0xffff_ffff } } },
  'READ of no bytes': { request: { type: READ } },
  'READ of no bytes, structured': { request: { type: READ }, structured: true },
  'WRITE of no bytes': { request: { type: WRITE } },
  'TRIM of no bytes': { request: { type: TRIM } },
  'CACHE of no bytes': { request: { type: CACHE } },
  'WRITE_ZEROES of no bytes': { request: { type: WRITE_ZEROES } },
  'BLOCK_STATUS of no bytes': { request: { type: BLOCK_STATUS }, ...allocation },
  'READ of 32 MiB and a byte': { request: { type: READ, fields: { length: 32 * MIB + 1 } } },
  'WRITE of 32 MiB and a byte': { request: { type: WRITE, fields: pay(32 * MIB + 1) } },
  'READ with an unknown flag': { request: { type: READ, fields: { flags: 0x8000, length: 512 } } },
  'WRITE with an unknown flag': { request: { type: WRITE, fields: pay(512, { flags: 0x8000 }) } },
  'WRITE with PAYLOAD_LEN': { request: { type: WRITE, fields: pay(512, { flags: FLAG.PAYLOAD_LEN }) } },
  'READ with NO_HOLE': { request: { type: READ, fields: { flags: FLAG.NO_HOLE, length: 512 } } },
  'READ with DF, simple replies': { request: { type: READ, fields: { flags: FLAG.DF, length: 512 } } },
  'WRITE with REQ_ONE': { request: { type: WRITE, fields: pay(512, { flags: FLAG.REQ_ONE }) } },
  'TRIM with FAST_ZERO': { request: { type: TRIM, fields: { flags: FLAG.FAST_ZERO, length: 512 } } },
  'READ with FUA': { request: { type: READ, fields: { flags: FLAG.FUA, length: 512 } } },
  'CACHE with FUA': { request: { type: CACHE, fields: { flags: FLAG.FUA, length: 512 } } },
  'FLUSH with FUA': { request: { type: FLUSH, fields: { flags: FLAG.FUA } } },
  'FLUSH with offset and length': { request: { type: FLUSH, fields: { offset: 512, length: 512 } } },
  'FLUSH past the end': { request: { type: FLUSH, fields: past } },
  'BLOCK_STATUS without a context': {
    request: { type: BLOCK_STATUS, fields: { length: 512 } },
    structured: true,
  },
  'BLOCK_STATUS with simple replies': { request: { type: BLOCK_STATUS, fields: { length: 512 } } },
  RESIZE: { request: { type: 8, fields: { offset: 2 * SIZE } } },
  'unknown command': { request: { type: 99, fields: { length: 512 } } },
  'unknown command, structured': { request: { type: 99, fields: { length: 512 } }, structured: true },
  DISC: { request: { type: DISC } },
  'request with a wrong magic': { request: Buffer.alloc(28, 0x25) },
  'WRITE, read-only': { request: { type: WRITE, fields: pay(512) }, readOnly: true },
  'WRITE past the end, read-only': {
    request: { type: WRITE, fields: pay(2, { offset: SIZE - 1 }) },
    readOnly: true,
  },
  'TRIM, read-only': { request: { type: TRIM, fields: { length: 512 } }, readOnly: true },
  'WRITE_ZEROES, read-only': { request: { type: WRITE_ZEROES, fields: { length: 512 } }, readOnly: true },
  'FLUSH, read-only': { request: { type: FLUSH }, readOnly: true },
}
