/**
 * An IP address in network byte order: 4 bytes are IPv4, 16 are IPv6. An IPv4-mapped address
 * (`::ffff:0:0/96`, RFC 4291 section 2.5.5.2) is IPv4 everywhere.
 */
export type IpAddress = Uint8Array

/** All addresses of one family that share the first `prefix` bits; the bits after them are zero. */
export interface Network {
  readonly bytes: IpAddress
  readonly prefix: number
}

/** Longest text of an address: `ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255`. */
const MAX_TEXT = 45

/**
 * Reads an address as RFC 4291 writes it, or four decimal bytes for IPv4; no zone, no leading zero in a
 * decimal byte (some programs take `010` for 8). Undefined if it is none.
 */
export function parseAddress(text: string): IpAddress | undefined {
  if (text.length > MAX_TEXT) return undefined
  if (!text.includes(':')) return parseIpv4(text)
  const bytes = parseIpv6(text)
  return bytes && isMapped(bytes) ? bytes.subarray(12) : bytes
}

/**
 * Reads an address, which stands for itself alone, or a CIDR. Bits after the prefix are cut off:
 * `10.0.0.7/8` is `10.0.0.0/8`. An IPv4-mapped CIDR needs a prefix of 96 at least, as a shorter one would
 * span both families. Undefined if it is none.
 */
export function parseNetwork(text: string): Network | undefined {
  const slash = text.indexOf('/')
  if (slash < 0) {
    const bytes = parseAddress(text)
    return bytes && { bytes, prefix: bytes.length * 8 }
  }
  const addressText = text.slice(0, slash)
  const bytes = parseAddress(addressText)
  const prefixText = text.slice(slash + 1)
  if (!bytes || !/^(0|[1-9][0-9]{0,2})$/.test(prefixText)) return undefined
  const prefix = Number(prefixText) - (addressText.includes(':') && bytes.length === 4 ? 96 : 0)
  if (prefix < 0 || prefix > bytes.length * 8) return undefined
  return { bytes: bytes.map((byte, index) => byte & maskOfByte(prefix, index)), prefix }
}

/** Is this address, of the same family, in the network? */
export function contains(network: Network, address: IpAddress): boolean {
  return (
    network.bytes.length === address.length &&
    network.bytes.every((byte, index) => byte === ((address[index] ?? 0) & maskOfByte(network.prefix, index)))
  )
}

function maskOfByte(prefix: number, index: number): number {
  const bits = Math.min(Math.max(prefix - index * 8, 0), 8)
  return 0xff & (0xff << (8 - bits))
}

const IPV4 = /^(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})$/

function parseIpv4(text: string): Uint8Array | undefined {
  const match = IPV4.exec(text)
  if (match === null) return undefined
  const bytes = new Uint8Array(4)
  for (let index = 0; index < 4; index++) {
    const value = Number(match[index + 1])
    if (value > 255) return undefined
    bytes[index] = value
  }
  return bytes
}

function parseIpv6(text: string): Uint8Array | undefined {
  const [left, right, ...rest] = text.split('::')
  if (left === undefined || rest.length > 0) return undefined
  const head = parseGroups(left, right === undefined)
  const tail = parseGroups(right ?? '', true)
  if (!head || !tail) return undefined
  const missing = 16 - head.length - tail.length
  // "::" stands for one group of two bytes at least.
  if (right === undefined ? missing !== 0 : missing < 2) return undefined
  const bytes = new Uint8Array(16)
  bytes.set(head)
  bytes.set(tail, 16 - tail.length)
  return bytes
}

/** The bytes of groups between colons; the last group of an address may be an IPv4 address. */
function parseGroups(text: string, isEnd: boolean): number[] | undefined {
  if (text === '') return []
  const bytes: number[] = []
  const groups = text.split(':')
  for (const [index, group] of groups.entries()) {
    if (/^[0-9a-fA-F]{1,4}$/.test(group)) {
      const value = Number.parseInt(group, 16)
      bytes.push(value >> 8, value & 0xff)
      continue
    }
    const ipv4 = isEnd && index === groups.length - 1 ? parseIpv4(group) : undefined
    if (!ipv4) return undefined
    bytes.push(...ipv4)
  }
  return bytes
}

function isMapped(bytes: Uint8Array): boolean {
  return bytes[10] === 0xff && bytes[11] === 0xff && bytes.subarray(0, 10).every(byte => byte === 0)
}
