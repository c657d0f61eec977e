/**
 * Messages of generic netlink (linux/netlink.h, linux/genetlink.h): struct nlmsghdr, struct genlmsghdr, and
 * attributes, each a multiple of four bytes, in the byte order of the machine.
 */

/** A value of an attribute; a list is nested attributes. */
export type AttributeValue =
  | { readonly kind: 'u32'; readonly value: number }
  | { readonly kind: 'u64'; readonly value: number }
  | { readonly kind: 'text'; readonly value: string }
  | { readonly kind: 'nested'; readonly value: readonly Attribute[] }

export interface Attribute {
  readonly type: number
  readonly value: AttributeValue
}

/** Attributes of a message, by the kind of their value. */
export const u32 = (type: number, value: number): Attribute => ({ type, value: { kind: 'u32', value } })
export const u64 = (type: number, value: number): Attribute => ({ type, value: { kind: 'u64', value } })
export const text = (type: number, value: string): Attribute => ({ type, value: { kind: 'text', value } })
export const nested = (type: number, ...value: Attribute[]): Attribute => ({
  type,
  value: { kind: 'nested', value },
})

const NLA_F_NESTED = 0x8000
const NLA_TYPE_MASK = 0x3fff
const HEADER = 16
const GENERIC_HEADER = 4
const ATTRIBUTE_HEADER = 4
export const NLMSG_ERROR = 2
const NLM_F_REQUEST = 1
const NLM_F_ACK = 4

const aligned = (length: number) => (length + 3) & ~3

function encodeValue({ kind, value }: AttributeValue): Buffer {
  switch (kind) {
    case 'u32': {
      const bytes = Buffer.alloc(4)
      bytes.writeUInt32LE(value)
      return bytes
    }
    case 'u64': {
      const bytes = Buffer.alloc(8)
      bytes.writeBigUInt64LE(BigInt(value))
      return bytes
    }
    case 'text':
      return Buffer.from(`${value}\0`)
    case 'nested':
      return encodeAttributes(value)
  }
}

function encodeAttributes(attributes: readonly Attribute[]): Buffer {
  return Buffer.concat(
    attributes.flatMap(({ type, value }) => {
      const content = encodeValue(value)
      const length = ATTRIBUTE_HEADER + content.length
      const header = Buffer.alloc(ATTRIBUTE_HEADER)
      header.writeUInt16LE(length, 0)
      header.writeUInt16LE(value.kind === 'nested' ? type | NLA_F_NESTED : type, 2)
      return [header, content, Buffer.alloc(aligned(length) - length)]
    }),
  )
}

/** What is asked of a family. */
export interface GenericRequest {
  /** Number of the family. */
  readonly family: number
  readonly command: number
  readonly version: number
  readonly attributes: readonly Attribute[]
}

/** A request that asks for an acknowledgement. */
export function encodeRequest(
  { family, command, version, attributes }: GenericRequest,
  sequence: number,
): Buffer {
  const body = encodeAttributes(attributes)
  const message = Buffer.alloc(HEADER + GENERIC_HEADER + body.length)
  message.writeUInt32LE(message.length, 0)
  message.writeUInt16LE(family, 4)
  message.writeUInt16LE(NLM_F_REQUEST | NLM_F_ACK, 6)
  message.writeUInt32LE(sequence, 8)
  message.writeUInt8(command, HEADER)
  message.writeUInt8(version, HEADER + 1)
  body.copy(message, HEADER + GENERIC_HEADER)
  return message
}

/** One message that came. */
export interface Received {
  /** Number of the family, or NLMSG_ERROR. */
  readonly type: number
  readonly sequence: number
  /** Of an NLMSG_ERROR: 0 for an acknowledgement, else the error number. */
  readonly errno: number
  readonly command: number
  /** Contents of the attributes by type; of several of a type the last. */
  readonly attributes: ReadonlyMap<number, Buffer>
}

/** The attributes in these bytes. What is cut off at the end is left out. */
export function decodeAttributes(bytes: Buffer): Map<number, Buffer> {
  const attributes = new Map<number, Buffer>()
  for (let at = 0; at + ATTRIBUTE_HEADER <= bytes.length; ) {
    const length = bytes.readUInt16LE(at)
    if (length < ATTRIBUTE_HEADER || at + length > bytes.length) break
    attributes.set(
      bytes.readUInt16LE(at + 2) & NLA_TYPE_MASK,
      bytes.subarray(at + ATTRIBUTE_HEADER, at + length),
    )
    at += aligned(length)
  }
  return attributes
}

/** The messages of a datagram. What is cut off at the end is left out. */
export function decodeMessages(bytes: Buffer): Received[] {
  const messages: Received[] = []
  for (let at = 0; at + HEADER + GENERIC_HEADER <= bytes.length; ) {
    const length = bytes.readUInt32LE(at)
    if (length < HEADER + GENERIC_HEADER || at + length > bytes.length) break
    const type = bytes.readUInt16LE(at + 4)
    const isError = type === NLMSG_ERROR
    messages.push({
      type,
      sequence: bytes.readUInt32LE(at + 8),
      errno: isError ? -bytes.readInt32LE(at + HEADER) : 0,
      command: isError ? 0 : bytes.readUInt8(at + HEADER),
      attributes: isError
        ? new Map()
        : decodeAttributes(bytes.subarray(at + HEADER + GENERIC_HEADER, at + length)),
    })
    at += aligned(length)
  }
  return messages
}
