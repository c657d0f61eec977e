/** From the bytes of a request's header to a Request. */
import { CMD, CMD_FLAG, EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC } from '../protocol/constants.ts'
import { ProtocolViolation } from '../protocol/handshake.ts'
import {
  FRAMING,
  REQUEST_COOKIE,
  REQUEST_FLAGS,
  REQUEST_OFFSET,
  REQUEST_SIZE,
  REQUEST_TYPE,
  readUInt64,
} from '../protocol/transmission.ts'
import type { Request } from './request.ts'

/**
 * Reads the header at `at`, all of which must be there, into a request of the connection's framing.
 * @throws ProtocolViolation if it is no header
 */
export function parseRequest(buffer: Buffer, at: number, request: Request): void {
  const isExtended = request.framing === FRAMING.EXTENDED
  if (buffer.readUInt32BE(at) !== (isExtended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC)) {
    throw new ProtocolViolation('The client sent something that is not an NBD request.')
  }
  request.flags = buffer.readUInt16BE(at + REQUEST_FLAGS)
  request.type = buffer.readUInt16BE(at + REQUEST_TYPE)
  request.cookieHigh = buffer.readUInt32BE(at + REQUEST_COOKIE)
  request.cookieLow = buffer.readUInt32BE(at + REQUEST_COOKIE + 4)
  request.offsetHigh = buffer.readUInt32BE(at + REQUEST_OFFSET)
  request.offsetLow = buffer.readUInt32BE(at + REQUEST_OFFSET + 4)
  request.offset = readUInt64(buffer, at + REQUEST_OFFSET)
  request.length = isExtended ? readUInt64(buffer, at + REQUEST_SIZE) : buffer.readUInt32BE(at + REQUEST_SIZE)
}

/**
 * Is an extended request's length that of a payload? WRITE has one in any case; qemu, too, takes one that does
 * not say so.
 */
export function hasPayload({ type, flags }: Request): boolean {
  return type === CMD.WRITE || (flags & CMD_FLAG.PAYLOAD_LEN) !== 0
}
