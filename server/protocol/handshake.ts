/** The fixed newstyle handshake as bytes: what a client sends is decoded, what it gets is encoded. No I/O, no state. */
import {
  CLISERV_MAGIC,
  FLAG_FIXED_NEWSTYLE,
  FLAG_NO_ZEROES,
  IHAVEOPT,
  INFO,
  MAX_OPTION,
  MAX_STRING,
  NBDMAGIC,
  OPTION_REPLY_MAGIC,
  REP,
} from './constants.ts'

/** The client broke the protocol so that its stream cannot be trusted any more: the connection must end. */
export class ProtocolViolation extends Error {
  override readonly name = 'ProtocolViolation'
  readonly code = 'EPROTO'
}

/** An option whose payload is malformed: answered by REP_ERR_INVALID, and the handshake goes on. */
export class InvalidOption extends Error {
  override readonly name = 'InvalidOption'
  readonly code = 'EINVAL'
}

/** The server's first 18 bytes: NBDMAGIC, IHAVEOPT, handshake flags. */
export function encodeGreeting(): Buffer {
  const bytes = Buffer.alloc(18)
  bytes.writeBigUInt64BE(NBDMAGIC, 0)
  bytes.writeBigUInt64BE(IHAVEOPT, 8)
  bytes.writeUInt16BE(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES, 16)
  return bytes
}

/** The whole oldstyle handshake: NBDMAGIC, its own magic, size, 16 bits of nothing, transmission flags, 124 zeroes. */
export function encodeOldstyle(size: number, flags: number): Buffer {
  const bytes = Buffer.alloc(152)
  bytes.writeBigUInt64BE(NBDMAGIC, 0)
  bytes.writeBigUInt64BE(CLISERV_MAGIC, 8)
  bytes.writeBigUInt64BE(BigInt(size), 16)
  bytes.writeUInt16BE(flags, 26)
  return bytes
}

export const CLIENT_FLAGS_LENGTH = 4

/** What the client's flags agree to. */
export interface ClientFlags {
  readonly fixedNewstyle: boolean
  readonly noZeroes: boolean
}

/** Decodes the 4 bytes after the greeting. A flag we did not offer is a violation, as the protocol demands. */
export function decodeClientFlags(bytes: Buffer, start: number): ClientFlags {
  const flags = bytes.readUInt32BE(start)
  if ((flags & ~(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)) !== 0) {
    throw new ProtocolViolation(`The client set flags that were not offered: 0x${flags.toString(16)}.`)
  }
  return { fixedNewstyle: (flags & FLAG_FIXED_NEWSTYLE) !== 0, noZeroes: (flags & FLAG_NO_ZEROES) !== 0 }
}

export const OPTION_HEADER_LENGTH = 16

/** An option's header; its payload follows. */
export interface OptionHeader {
  readonly option: number
  readonly length: number
}

/** Decodes IHAVEOPT, the option and the length of its payload (at most MAX_OPTION bytes). */
export function decodeOptionHeader(bytes: Buffer, start: number): OptionHeader {
  if (bytes.readBigUInt64BE(start) !== IHAVEOPT) {
    throw new ProtocolViolation('The client sent something that is not an NBD option.')
  }
  const header = { option: bytes.readUInt32BE(start + 8), length: bytes.readUInt32BE(start + 12) }
  if (header.length > MAX_OPTION) {
    throw new ProtocolViolation(
      `The client announced an option of ${header.length} bytes; ${MAX_OPTION} are allowed.`,
    )
  }
  return header
}

/** Payload of INFO and GO. */
export interface GoRequest {
  /** The export's name as it came, not yet checked for UTF-8 or the rules of names. */
  readonly name: Buffer
  readonly infoTypes: readonly number[]
}

function takeString(payload: Buffer, at: number, what: string): { text: Buffer; next: number } {
  if (payload.length - at < 4) throw new InvalidOption(`The option ends before the length of its ${what}.`)
  const length = payload.readUInt32BE(at)
  // Compared without adding to it: a length of 2^32-1 must not wrap (CVE-2022-26495).
  if (length > payload.length - at - 4) throw new InvalidOption(`The ${what} is longer than the option.`)
  if (length > MAX_STRING) throw new InvalidOption(`The ${what} is longer than ${MAX_STRING} bytes.`)
  return { text: payload.subarray(at + 4, at + 4 + length), next: at + 4 + length }
}

/** Decodes name length, name, number of information requests, the requests: exactly that, nothing behind it. */
export function decodeGo(payload: Buffer): GoRequest {
  const { text: name, next } = takeString(payload, 0, 'export name')
  if (payload.length - next < 2) throw new InvalidOption('The option ends before its information requests.')
  const count = payload.readUInt16BE(next)
  if (payload.length !== next + 2 + 2 * count) {
    throw new InvalidOption('The number of information requests does not fit the length of the option.')
  }
  const infoTypes = Array.from({ length: count }, (_, index) => payload.readUInt16BE(next + 2 + 2 * index))
  return { name, infoTypes }
}

/** Payload of LIST_META_CONTEXT and SET_META_CONTEXT. */
export interface MetaContextRequest {
  readonly name: Buffer
  readonly queries: readonly string[]
}

/** Decodes export name, number of queries, the queries. */
export function decodeMetaContext(payload: Buffer): MetaContextRequest {
  const { text: name, next: afterName } = takeString(payload, 0, 'export name')
  if (payload.length - afterName < 4)
    throw new InvalidOption('The option ends before the number of its queries.')
  const count = payload.readUInt32BE(afterName)
  // Each query takes 4 bytes at least, which bounds the loop whatever the client claims.
  if (count > (payload.length - afterName - 4) / 4)
    throw new InvalidOption('There are fewer queries than announced.')
  const queries: string[] = []
  let at = afterName + 4
  for (let index = 0; index < count; index++) {
    const { text, next } = takeString(payload, at, 'query')
    queries.push(text.toString('utf8'))
    at = next
  }
  if (at !== payload.length) throw new InvalidOption('There are bytes behind the last query.')
  return { name, queries }
}

/** An option reply: magic, option, type, length, payload. */
export function encodeOptionReply(
  option: number,
  type: number,
  payload: Uint8Array = Buffer.alloc(0),
): Buffer {
  const bytes = Buffer.alloc(20 + payload.length)
  bytes.writeBigUInt64BE(OPTION_REPLY_MAGIC, 0)
  bytes.writeUInt32BE(option, 8)
  bytes.writeUInt32BE(type, 12)
  bytes.writeUInt32BE(payload.length, 16)
  bytes.set(payload, 20)
  return bytes
}

/** Text as UTF-8, cut at a character's border to at most `limit` bytes. */
export function boundedText(text: string, limit: number = MAX_STRING): Buffer {
  const bytes = Buffer.from(text, 'utf8')
  if (bytes.length <= limit) return bytes
  let end = limit
  while (end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end--
  return bytes.subarray(0, end)
}

/** An error reply with a text for people; cut to 4096 bytes (CVE-2020-10761). */
export function encodeOptionError(option: number, type: number, message: string): Buffer {
  return encodeOptionReply(option, type, boundedText(message))
}

/** REP_SERVER: one export of a list, with a sentence about it for people. */
export function encodeServerReply(option: number, name: string, description = ''): Buffer {
  const text = Buffer.from(name, 'utf8')
  const details = boundedText(description)
  const payload = Buffer.alloc(4 + text.length + details.length)
  payload.writeUInt32BE(text.length, 0)
  payload.set(text, 4)
  payload.set(details, 4 + text.length)
  return encodeOptionReply(option, REP.SERVER, payload)
}

/** REP_INFO with INFO_EXPORT: size in bytes and transmission flags. */
export function encodeExportInfo(option: number, size: number, flags: number): Buffer {
  const payload = Buffer.alloc(12)
  payload.writeUInt16BE(INFO.EXPORT, 0)
  payload.writeBigUInt64BE(BigInt(size), 2)
  payload.writeUInt16BE(flags, 10)
  return encodeOptionReply(option, REP.INFO, payload)
}

/** REP_INFO with INFO_NAME or INFO_DESCRIPTION. */
export function encodeTextInfo(option: number, info: number, text: string): Buffer {
  const value = boundedText(text)
  const payload = Buffer.alloc(2 + value.length)
  payload.writeUInt16BE(info, 0)
  payload.set(value, 2)
  return encodeOptionReply(option, REP.INFO, payload)
}

/** REP_INFO with INFO_BLOCK_SIZE, in bytes. */
export function encodeBlockSizeInfo(
  option: number,
  minimum: number,
  preferred: number,
  maximum: number,
): Buffer {
  const payload = Buffer.alloc(14)
  payload.writeUInt16BE(INFO.BLOCK_SIZE, 0)
  payload.writeUInt32BE(minimum, 2)
  payload.writeUInt32BE(preferred, 6)
  payload.writeUInt32BE(maximum, 10)
  return encodeOptionReply(option, REP.INFO, payload)
}

/** REP_META_CONTEXT: the context's id (0 in a list) and its name. */
export function encodeMetaContext(option: number, id: number, name: string): Buffer {
  const text = Buffer.from(name, 'utf8')
  const payload = Buffer.alloc(4 + text.length)
  payload.writeUInt32BE(id, 0)
  payload.set(text, 4)
  return encodeOptionReply(option, REP.META_CONTEXT, payload)
}

/** Answer to EXPORT_NAME: size, flags, and 124 zeroes unless both sides agreed to leave them out. */
export function encodeExportNameReply(size: number, flags: number, noZeroes: boolean): Buffer {
  const bytes = Buffer.alloc(noZeroes ? 10 : 134)
  bytes.writeBigUInt64BE(BigInt(size), 0)
  bytes.writeUInt16BE(flags, 8)
  return bytes
}
