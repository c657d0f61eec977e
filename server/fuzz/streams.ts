/**
 * What a hostile client sends: mostly what the protocol allows, so that it gets deep, with something wrong in
 * it, so that it hurts. Every stream follows from its seed.
 */
import { CMD, EXTENDED_REQUEST_MAGIC, IHAVEOPT, OPT, REQUEST_MAGIC } from '../protocol/constants.ts'
import { type Random, seededRandom } from './random.ts'

/** A client's whole life. */
export interface Stream {
  /** What it sends, piece by piece. */
  readonly pieces: readonly Buffer[]
  /** How long it stays when it has sent everything, in ms. */
  readonly lingers: number
  /** How it leaves: by FIN, by RST, or only when the server hangs up (or after a while). */
  readonly leaves: 'end' | 'reset' | 'waits'
  /** It reads what it is sent. */
  readonly reads: boolean
}

/** Names of disks that are asked for; few, so that they are fought over. */
const NAMES = ['', 'a', 'b', 'default', 'x'.repeat(255)] as const
const BAD_NAMES = [
  '..',
  'a/b',
  '\0',
  'a:4G',
  'a:',
  'x'.repeat(256),
  'x'.repeat(4096),
  '.ondemand-disk',
] as const
const OPTIONS = [...Object.values(OPT), 4, 99, 0, 0xffffffff] as const
const COMMANDS = [...Object.values(CMD), 8, 9, 0xffff] as const

function uint(value: number | bigint, bytes: number): Buffer {
  const buffer = Buffer.alloc(bytes)
  if (bytes === 8) buffer.writeBigUInt64BE(BigInt(value))
  else buffer.writeUIntBE(Number(value) % 2 ** (8 * bytes), 0, bytes)
  return buffer
}

function name(random: Random): Buffer {
  if (random.oneIn(6)) return random.bytes(random.below(40))
  return Buffer.from(random.oneIn(4) ? random.pick(BAD_NAMES) : random.pick(NAMES))
}

/** A length as it should be, or one that is a little or very much wrong. */
function length(random: Random, right: number): number {
  if (!random.oneIn(12)) return right
  return random.pick([0, Math.max(0, right - 1), right + 1, 0xffff, 0x10001, 0x7fffffff, 0xffffffff])
}

const sized = (random: Random, text: Buffer) => Buffer.concat([uint(length(random, text.length), 4), text])

function payloadOf(random: Random, option: number): Buffer {
  switch (option) {
    case OPT.EXPORT_NAME:
      return name(random)
    case OPT.INFO:
    case OPT.GO: {
      const infos = Array.from({ length: random.below(4) }, () => uint(random.below(6), 2))
      return Buffer.concat([sized(random, name(random)), uint(length(random, infos.length), 2), ...infos])
    }
    case OPT.LIST_META_CONTEXT:
    case OPT.SET_META_CONTEXT: {
      const queries = Array.from({ length: random.below(4) }, () =>
        sized(random, Buffer.from(random.pick(['base:allocation', 'base:', 'qemu:dirty', ':', '']))),
      )
      return Buffer.concat([sized(random, name(random)), uint(length(random, queries.length), 4), ...queries])
    }
    default:
      return random.oneIn(4) ? random.bytes(random.below(100)) : Buffer.alloc(0)
  }
}

function option(random: Random, code: number): Buffer {
  const payload = payloadOf(random, code)
  const magic = random.oneIn(60) ? random.bytes(8) : uint(0, 8)
  if (magic.every(byte => byte === 0)) magic.writeBigUInt64BE(IHAVEOPT)
  return Buffer.concat([magic, uint(code, 4), uint(length(random, payload.length), 4), payload])
}

/** An option in which nothing is wrong. */
const goodOption = (code: number, ...payload: readonly Buffer[]): Buffer => {
  const whole = Buffer.concat(payload)
  return Buffer.concat([Buffer.from('IHAVEOPT'), uint(code, 4), uint(whole.length, 4), whole])
}

const goodString = (text: string): Buffer => {
  const bytes = Buffer.from(text)
  return Buffer.concat([uint(bytes.length, 4), bytes])
}

const go = (target: string): Buffer => goodOption(OPT.GO, goodString(target), uint(0, 2))

/** A handshake in which nothing is wrong, for a disk that hardly anybody else asks for. */
function goodHandshake(random: Random, extended: boolean): Buffer {
  const target = `own-${random.below(64)}`
  const parts = [uint(3, 4)]
  if (extended || random.oneIn(2))
    parts.push(goodOption(extended ? OPT.EXTENDED_HEADERS : OPT.STRUCTURED_REPLY))
  if (random.oneIn(2)) {
    parts.push(
      goodOption(OPT.SET_META_CONTEXT, goodString(target), uint(1, 4), goodString('base:allocation')),
    )
  }
  return Buffer.concat([...parts, go(target)])
}

function hostileHandshake(random: Random, extended: boolean): Buffer {
  const parts = [random.oneIn(20) ? random.bytes(4) : uint(random.pick([0, 1, 2, 3]), 4)]
  if (random.oneIn(30)) parts.push(random.bytes(random.below(200_000)))
  for (let count = random.below(8); count > 0; count--) {
    parts.push(option(random, random.pick(OPTIONS as unknown as readonly [number, ...number[]])))
  }
  if (random.oneIn(4)) return Buffer.concat(parts)
  if (extended || random.oneIn(2))
    parts.push(option(random, extended ? OPT.EXTENDED_HEADERS : OPT.STRUCTURED_REPLY))
  if (random.oneIn(2)) parts.push(option(random, OPT.SET_META_CONTEXT))
  return Buffer.concat([...parts, go(random.pick(NAMES))])
}

const KIB = 1024
const MIB = KIB * KIB

function request(random: Random, diskSize: number, extended: boolean): Buffer {
  const picked = random.pick(COMMANDS as unknown as readonly [number, ...number[]])
  // What comes behind DISC is not looked at.
  const type = picked === CMD.DISC && !random.oneIn(5) ? CMD.READ : picked
  const flags = random.oneIn(4) ? random.below(0x10000) : random.pick([0, 1, 2, 4, 8, 16, 32])
  const hasPayload = type === CMD.WRITE || (extended && (flags & 32) !== 0)
  const sizes = [0, 1, 511, 512, 4096, 4097, 64 * KIB] as const
  // A payload that is not sent in full swallows the requests behind it.
  const size =
    hasPayload && !random.oneIn(20)
      ? random.pick(sizes)
      : random.pick([...sizes, MIB, MIB + 1, 3 * MIB, 32 * MIB + 1, 0xffffffff])
  const around = random.pick([
    0,
    1,
    4095,
    4096,
    diskSize - 4096,
    diskSize - 1,
    diskSize,
    diskSize + 1,
    2 ** 53,
    2 ** 63,
    // Not as a number: that would be another one.
    2n ** 64n - 1n,
  ])
  const magic = random.oneIn(200) ? random.below(2 ** 32) : extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC
  const header = [uint(magic, 4), uint(flags, 2), uint(type, 2), random.bytes(8), uint(around, 8)]
  const announced = extended
    ? uint(random.oneIn(hasPayload ? 60 : 20) ? random.pick([2n ** 63n, 2n ** 64n - 1n]) : size, 8)
    : uint(size, 4)
  const payload = hasPayload
    ? Buffer.alloc(Math.min(random.oneIn(40) ? random.below(size + 1) : size, 256 * KIB), 0x5a)
    : Buffer.alloc(0)
  return Buffer.concat([...header, announced, payload])
}

/** The first so many bytes are cut into small pieces; the rest would only take long. */
const MOST_TORN = 2000

/** Cuts bytes into pieces, at places where a parser may have forgotten that they can be cut. */
function cut(random: Random, bytes: Buffer): Buffer[] {
  const pieces: Buffer[] = []
  for (let at = 0; at < bytes.length; ) {
    const next = at + 1 + random.below(at < MOST_TORN ? random.pick([4, 40, 4000]) : MIB)
    pieces.push(bytes.subarray(at, next))
    at = next
  }
  return pieces
}

/** The stream of a seed, for a server whose disks have this size in bytes. */
export function streamOf(seed: number, diskSize: number): Stream {
  const random = seededRandom(seed)
  const extended = random.oneIn(3)
  // Half of them go straight to where requests are parsed; few would get there with mistakes on the way.
  const parts = [(random.oneIn(2) ? goodHandshake : hostileHandshake)(random, extended)]
  for (let count = random.below(30); count > 0; count--) parts.push(request(random, diskSize, extended))
  const leaves = random.pick(['end', 'reset', 'waits'] as const)
  const lingers = random.pick([0, 0, 30, 200])
  return { pieces: cut(random, Buffer.concat(parts)), lingers, leaves, reads: !random.oneIn(4) }
}
