/**
 * The handshake as the client sees it: what the server sends is decoded, what it gets is encoded. No I/O,
 * no state. Nothing a server sends is believed: lengths are bounded before anything is kept.
 */
import {
  BASE_ALLOCATION,
  CLISERV_MAGIC,
  FLAG_FIXED_NEWSTYLE,
  FLAG_NO_ZEROES,
  IHAVEOPT,
  INFO,
  MAX_STRING,
  NBDMAGIC,
  OPTION_REPLY_MAGIC,
  TRANSMISSION_FLAG,
} from './constants.ts'
import { readUInt64 } from './transmission.ts'

/** The server broke the protocol: nothing it sends can be trusted any more, and the connection must end. */
export class ServerViolation extends Error {
  override readonly name = 'ServerViolation'
  readonly code = 'EPROTO'
}

/** NBDMAGIC and the magic that tells oldstyle from newstyle. */
export const GREETING_LENGTH = 16
/** Behind the greeting of newstyle: the handshake flags. */
export const NEWSTYLE_FLAGS_LENGTH = 2
/** Behind the greeting of oldstyle: size, flags, 124 zeroes. */
export const OLDSTYLE_LENGTH = 8 + 4 + 124
/** Answer to EXPORT_NAME: size and flags; 124 zeroes more unless both sides agreed to leave them out. */
export const EXPORT_NAME_REPLY_LENGTH = 10
export const EXPORT_NAME_ZEROES = 124
/** magic 8, option 4, type 4, length 4. */
export const OPTION_REPLY_HEADER_LENGTH = 20
/** Longest option reply that is read, in bytes: two strings (REP_SERVER with details) and their numbers. */
const MAX_OPTION_REPLY = 2 * MAX_STRING + 64

/** Tells the two handshakes apart. */
export function decodeGreeting(bytes: Buffer): 'oldstyle' | 'newstyle' {
  if (bytes.readBigUInt64BE(0) !== NBDMAGIC) {
    throw new ServerViolation('What answers there is no NBD server: its first bytes are not NBDMAGIC.')
  }
  const magic = bytes.readBigUInt64BE(8)
  if (magic === IHAVEOPT) return 'newstyle'
  if (magic === CLISERV_MAGIC) return 'oldstyle'
  throw new ServerViolation('The server greets in a style that is neither oldstyle nor newstyle.')
}

/** What the server's handshake flags offer; flags we do not know are ignored, as the protocol asks. */
export interface ServerFlags {
  readonly fixedNewstyle: boolean
  readonly noZeroes: boolean
}

/** The server's flags behind its greeting. */
export function decodeServerFlags(bytes: Buffer): ServerFlags {
  const flags = bytes.readUInt16BE(0)
  return { fixedNewstyle: (flags & FLAG_FIXED_NEWSTYLE) !== 0, noZeroes: (flags & FLAG_NO_ZEROES) !== 0 }
}

/** The client's flags: what was offered, and nothing else. */
export function encodeClientFlags({ fixedNewstyle, noZeroes }: ServerFlags): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE((fixedNewstyle ? FLAG_FIXED_NEWSTYLE : 0) | (noZeroes ? FLAG_NO_ZEROES : 0), 0)
  return bytes
}

/** IHAVEOPT, the option, the length of its payload, the payload. */
export function encodeOption(option: number, payload: Uint8Array = Buffer.alloc(0)): Buffer {
  const bytes = Buffer.alloc(16 + payload.length)
  bytes.writeBigUInt64BE(IHAVEOPT, 0)
  bytes.writeUInt32BE(option, 8)
  bytes.writeUInt32BE(payload.length, 12)
  bytes.set(payload, 16)
  return bytes
}

function lengthAndText(text: string): Buffer {
  const bytes = Buffer.alloc(4 + Buffer.byteLength(text))
  bytes.writeUInt32BE(bytes.length - 4, 0)
  bytes.write(text, 4, 'utf8')
  return bytes
}

/** INFO or GO: the export's name and what we want to know beside its size and flags. */
export function encodeGo(option: number, exportName: string, infoTypes: readonly number[]): Buffer {
  const requests = Buffer.alloc(2 + 2 * infoTypes.length)
  requests.writeUInt16BE(infoTypes.length, 0)
  for (const [index, type] of infoTypes.entries()) requests.writeUInt16BE(type, 2 + 2 * index)
  return encodeOption(option, Buffer.concat([lengthAndText(exportName), requests]))
}

/** SET_META_CONTEXT with queries. */
export function encodeMetaQueries(option: number, exportName: string, queries: readonly string[]): Buffer {
  const count = Buffer.alloc(4)
  count.writeUInt32BE(queries.length, 0)
  return encodeOption(
    option,
    Buffer.concat([lengthAndText(exportName), count, ...queries.map(lengthAndText)]),
  )
}

/** Header of a reply to an option; `length` bytes of payload follow. */
export interface OptionReplyHeader {
  readonly type: number
  readonly length: number
}

/** Decodes a reply's header and checks that it answers `option`. */
export function decodeOptionReplyHeader(bytes: Buffer, option: number): OptionReplyHeader {
  if (bytes.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC) {
    throw new ServerViolation('The server sent something that is not a reply to an option.')
  }
  const answered = bytes.readUInt32BE(8)
  if (answered !== option) {
    throw new ServerViolation(`The server answered option ${answered}; option ${option} was sent.`)
  }
  const header = { type: bytes.readUInt32BE(12), length: bytes.readUInt32BE(16) }
  if (header.length > MAX_OPTION_REPLY) {
    throw new ServerViolation(
      `The server announced a reply of ${header.length} bytes to an option; ${MAX_OPTION_REPLY} are allowed.`,
    )
  }
  return header
}

/** Size and transmission flags of an export. */
export interface SizeAndFlags {
  /** Bytes. Inexact from 2^53 on, but then not below 2^53. */
  readonly size: number
  readonly flags: number
}

/** 63 bits are what the protocol allows; a larger one wraps in whoever counts with signs (CVE-2023-5215). */
function decodeSize(bytes: Buffer, at: number): number {
  if ((bytes[at] ?? 0) >= 0x80)
    throw new ServerViolation('The server announced a size of 2^63 bytes or more.')
  return readUInt64(bytes, at)
}

/** Without HAS_FLAGS the other bits mean nothing. */
function knownFlags(flags: number): number {
  return (flags & TRANSMISSION_FLAG.HAS_FLAGS) === 0 ? 0 : flags
}

/** What follows the greeting of oldstyle. */
export function decodeOldstyle(bytes: Buffer): SizeAndFlags {
  return { size: decodeSize(bytes, 0), flags: knownFlags(bytes.readUInt32BE(8) & 0xffff) }
}

/** Answer to EXPORT_NAME. */
export function decodeExportNameReply(bytes: Buffer): SizeAndFlags {
  return { size: decodeSize(bytes, 0), flags: knownFlags(bytes.readUInt16BE(8)) }
}

/** A string of the protocol: at most 4096 bytes, UTF-8, no NUL. */
function decodeString(bytes: Buffer, start: number, end: number, what: string): string {
  if (end - start > MAX_STRING)
    throw new ServerViolation(`The server sent a ${what} of more than ${MAX_STRING} bytes.`)
  const text = bytes.toString('utf8', start, end)
  if (text.includes('\0')) throw new ServerViolation(`The server sent a ${what} with a NUL in it.`)
  return text
}

/** Block sizes in bytes as a server announces them. */
export interface AnnouncedBlockSizes {
  readonly minimum: number
  readonly preferred: number
  readonly maximum: number
}

const isPowerOfTwo = (value: number): boolean => value > 0 && (value & (value - 1)) === 0
const NO_MAXIMUM = 0xffff_ffff

function decodeBlockSizes(payload: Buffer): AnnouncedBlockSizes {
  const minimum = payload.readUInt32BE(2)
  const preferred = payload.readUInt32BE(6)
  const maximum = payload.readUInt32BE(10)
  if (!isPowerOfTwo(minimum) || minimum > 65_536) {
    throw new ServerViolation(
      `The server announced a minimum block size of ${minimum}; a power of two up to 65536 is allowed.`,
    )
  }
  if (maximum < minimum || (maximum !== NO_MAXIMUM && maximum % minimum !== 0)) {
    throw new ServerViolation(
      `The server announced a maximum block size of ${maximum}, which is no multiple of its minimum ${minimum}.`,
    )
  }
  // The preferred size is advice; a server that gives bad advice is still usable.
  const sane = preferred >= minimum && preferred <= maximum && isPowerOfTwo(preferred)
  return { minimum, preferred: sane ? preferred : Math.min(Math.max(minimum, 4096), maximum), maximum }
}

/** One REP_INFO. Kinds that we did not ask for or do not know are `other`. */
export type ExportInformation =
  | { readonly kind: 'export'; readonly value: SizeAndFlags }
  | { readonly kind: 'name' | 'description'; readonly value: string }
  | { readonly kind: 'blockSizes'; readonly value: AnnouncedBlockSizes }
  | { readonly kind: 'other' }

function expectLength(payload: Buffer, length: number, what: string): void {
  if (payload.length !== length) {
    throw new ServerViolation(`The server sent ${what} of ${payload.length} bytes; it takes ${length}.`)
  }
}

/** One piece of information that GO or INFO was answered with. @throws ServerViolation */
export function decodeInfo(payload: Buffer): ExportInformation {
  if (payload.length < 2) throw new ServerViolation('The server sent an information without its type.')
  switch (payload.readUInt16BE(0)) {
    case INFO.EXPORT:
      expectLength(payload, 12, 'an INFO_EXPORT')
      return {
        kind: 'export',
        value: { size: decodeSize(payload, 2), flags: knownFlags(payload.readUInt16BE(10)) },
      }
    case INFO.NAME:
      return { kind: 'name', value: decodeString(payload, 2, payload.length, 'name') }
    case INFO.DESCRIPTION:
      return { kind: 'description', value: decodeString(payload, 2, payload.length, 'description') }
    case INFO.BLOCK_SIZE:
      expectLength(payload, 14, 'an INFO_BLOCK_SIZE')
      return { kind: 'blockSizes', value: decodeBlockSizes(payload) }
    default:
      return { kind: 'other' }
  }
}

/** One export of a server's list. */
export interface ListedExport {
  readonly name: string
  /** What the server says beside the name; empty where it says nothing. */
  readonly description: string
}

/** Decodes REP_SERVER. */
export function decodeServerReply(payload: Buffer): ListedExport {
  // Compared without adding to it: a length of 2^32-1 must not wrap (CVE-2022-26495).
  if (payload.length < 4 || payload.readUInt32BE(0) > payload.length - 4) {
    throw new ServerViolation('The server listed an export whose name is longer than its reply.')
  }
  const end = 4 + payload.readUInt32BE(0)
  return {
    name: decodeString(payload, 4, end, 'name'),
    description: decodeString(payload, end, payload.length, 'description'),
  }
}

/** Decodes REP_META_CONTEXT for the one context that we ask for, and returns its id. */
export function decodeMetaContextReply(payload: Buffer): number {
  if (payload.length < 5) throw new ServerViolation('The server sent a metadata context without a name.')
  const name = decodeString(payload, 4, payload.length, 'metadata context')
  if (name !== BASE_ALLOCATION) {
    throw new ServerViolation('The server selected a metadata context that was not asked for.')
  }
  return payload.readUInt32BE(0)
}

/** Text of an error reply; where it breaks the rules of strings it is left out, for it is only for people. */
export function decodeErrorText(payload: Buffer): string {
  return payload.toString('utf8', 0, Math.min(payload.length, MAX_STRING))
}
