/**
 * A client for tests: bytes over a raw socket. Everything is encoded here by hand, from the text of the
 * protocol, so that a mistake in the server's own codecs cannot hide behind the same mistake on this side.
 */
import { connect, type Socket } from 'node:net'
import { onTestFinished } from 'vitest'

/** A raw connection. */
export interface RawClient {
  readonly socket: Socket
  send(...parts: readonly Uint8Array[]): void
  /** The next bytes, once so many have come; fails when the connection ends before that. */
  take(length: number): Promise<Buffer>
  /** Bytes that have come and were not taken. */
  readonly pending: number
  /** All bytes that come until the server hangs up. */
  rest(): Promise<Buffer>
  /** Resolves when the server has hung up; true if it reset the connection. */
  readonly over: Promise<boolean>
  /** Stops and starts reading: what is not read fills the socket's buffers. */
  pause(): void
  resume(): void
  /** Hangs up in order (FIN). */
  hangUp(): void
  /** Hangs up at once (RST). */
  reset(): void
}

/** Wraps a connected socket, which is destroyed when the test ends. */
export function wrap(socket: Socket): RawClient {
  const chunks: Buffer[] = []
  let pending = 0
  let wanted = 0
  let isOver = false
  let wake = () => {}
  let wasReset = false
  socket.setNoDelay(true)
  socket.on('data', (chunk: Buffer) => {
    chunks.push(chunk)
    pending += chunk.length
    if (pending >= wanted) wake()
  })
  const over = new Promise<boolean>(resolve => {
    socket.on('error', error => {
      wasReset ||= (error as NodeJS.ErrnoException).code === 'ECONNRESET'
    })
    const end = () => {
      isOver = true
      wake()
      resolve(wasReset)
    }
    socket.on('end', end)
    socket.on('close', end)
  })
  const wait = async (length: number) => {
    while (pending < length && !isOver) {
      wanted = length
      await new Promise<void>(resolve => {
        wake = resolve
      })
    }
  }
  const cut = (length: number): Buffer => {
    const all = chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks)
    chunks.length = 0
    if (length < all.length) chunks.push(all.subarray(length))
    pending -= length
    return all.subarray(0, length)
  }
  onTestFinished(() => {
    socket.destroy()
  })
  return {
    socket,
    over,
    get pending() {
      return pending
    },
    send(...parts) {
      for (const part of parts) socket.write(part)
    },
    async take(length) {
      await wait(length)
      if (pending < length) throw new Error(`The server hung up after ${pending} of ${length} bytes.`)
      return cut(length)
    },
    async rest() {
      await wait(Number.POSITIVE_INFINITY)
      return cut(pending)
    },
    pause: () => socket.pause(),
    resume: () => socket.resume(),
    hangUp: () => socket.end(),
    reset: () => socket.resetAndDestroy(),
  }
}

/** Connects to a port of this machine, or to a unix socket. */
export async function connectRaw(to: number | string): Promise<RawClient> {
  const socket =
    typeof to === 'number'
      ? connect({ port: to, host: '127.0.0.1', allowHalfOpen: true })
      : connect({ path: to, allowHalfOpen: true })
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve)
    socket.once('error', reject)
  })
  return wrap(socket)
}

// --- Handshake

const u16 = (value: number) => Buffer.from([value >> 8, value & 0xff])
export const u32 = (value: number) => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}
export const u64 = (value: number | bigint) => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes
}
const counted = (text: string | Uint8Array) => {
  const bytes = typeof text === 'string' ? Buffer.from(text) : text
  return Buffer.concat([u32(bytes.length), bytes])
}

/** FIXED_NEWSTYLE and NO_ZEROES. */
export const CLIENT_FLAGS = u32(3)

/** An option: IHAVEOPT, its number, length and payload. `length` may lie. */
export function option(type: number, payload: Uint8Array = Buffer.alloc(0), length = payload.length): Buffer {
  return Buffer.concat([Buffer.from('IHAVEOPT'), u32(type), u32(length), payload])
}

/** Payload of GO and INFO. */
export const goPayload = (name: string | Uint8Array, ...infos: readonly number[]) =>
  Buffer.concat([counted(name), u16(infos.length), ...infos.map(u16)])

/** Payload of SET_META_CONTEXT and LIST_META_CONTEXT. */
export const metaPayload = (name: string, ...queries: readonly string[]) =>
  Buffer.concat([counted(name), u32(queries.length), ...queries.map(counted)])

export const GO = 7
export const INFO = 6
export const ACK = 1
export const ERR = { UNSUP: 1, POLICY: 2, INVALID: 3, PLATFORM: 4, UNKNOWN: 6, SHUTDOWN: 7 } as const

/** A reply to an option. `error` is the number of a REP_ERR_ without its high bit. */
export interface OptionReply {
  readonly option: number
  readonly type: number
  readonly error: number | undefined
  readonly payload: Buffer
  /** The payload as text. */
  readonly text: string
}

/** Takes one reply to an option. */
export async function takeOptionReply(client: RawClient): Promise<OptionReply> {
  const head = await client.take(20)
  if (head.readBigUInt64BE(0) !== 0x3e889045565a9n) throw new Error('This is no reply to an option.')
  const type = head.readUInt32BE(12)
  const payload = await client.take(head.readUInt32BE(16))
  const error = type >= 2 ** 31 ? type - 2 ** 31 : undefined
  return { option: head.readUInt32BE(8), type, error, payload, text: payload.toString() }
}

/** Takes replies up to and with the first that is not SERVER, INFO or META_CONTEXT. */
export async function takeOptionReplies(client: RawClient): Promise<OptionReply[]> {
  const replies = [await takeOptionReply(client)]
  while ([2, 3, 4].includes(replies.at(-1)?.type ?? 0)) replies.push(await takeOptionReply(client))
  return replies
}

/** Sends an option and takes all replies to it. */
export async function ask(client: RawClient, type: number, payload?: Uint8Array): Promise<OptionReply[]> {
  client.send(option(type, payload))
  return takeOptionReplies(client)
}

/** The last reply to an option: its acknowledgement, or its error. */
export async function outcome(client: RawClient, type: number, payload?: Uint8Array): Promise<OptionReply> {
  return (await ask(client, type, payload)).at(-1) as OptionReply
}

/** Takes the greeting and sends the client's flags. */
export async function greet(client: RawClient, flags = CLIENT_FLAGS): Promise<RawClient> {
  await client.take(18)
  client.send(flags)
  return client
}

/** What a client wants of the handshake. */
export interface Wishes {
  /** Structured replies. */
  readonly structured?: boolean
  /** The context base:allocation, which needs structured replies. */
  readonly allocation?: boolean
  /** Extended headers, in place of structured replies. */
  readonly extended?: boolean
}

/** Size and flags that INFO_EXPORT told. */
export interface Announced {
  readonly size: number
  readonly flags: number
}

/** From the greeting to the transmission phase. */
export async function attach(client: RawClient, name: string, wishes: Wishes = {}): Promise<Announced> {
  await greet(client)
  if (wishes.extended) await ask(client, 11)
  else if (wishes.structured || wishes.allocation) await ask(client, 8)
  if (wishes.allocation) await ask(client, 10, metaPayload(name, 'base:allocation'))
  const replies = await ask(client, GO, goPayload(name))
  const last = replies.at(-1) as OptionReply
  if (last.type !== ACK) throw new Error(`GO failed: ${last.text}`)
  const info = replies.find(({ type, payload }) => type === 3 && payload.readUInt16BE(0) === 0)
  if (info === undefined) throw new Error('GO did not tell the size.')
  return { size: Number(info.payload.readBigUInt64BE(2)), flags: info.payload.readUInt16BE(10) }
}

// --- Transmission

export const READ = 0
export const WRITE = 1
export const DISC = 2
export const FLUSH = 3
export const TRIM = 4
export const CACHE = 5
export const WRITE_ZEROES = 6
export const BLOCK_STATUS = 7
export const FLAG = { FUA: 1, NO_HOLE: 2, DF: 4, REQ_ONE: 8, FAST_ZERO: 16, PAYLOAD_LEN: 32 } as const

/** The fields of a request that are not 0. */
export interface RequestFields {
  readonly flags?: number
  readonly cookie?: number | bigint
  readonly offset?: number | bigint
  readonly length?: number
}

/** A request's header. */
export function request(type: number, { flags = 0, cookie = 0, offset = 0, length = 0 }: RequestFields = {}) {
  return Buffer.concat([u32(0x25609513), u16(flags), u16(type), u64(cookie), u64(offset), u32(length)])
}

/** A WRITE with its payload. */
export const write = (data: Uint8Array, fields: Omit<RequestFields, 'length'> = {}) =>
  Buffer.concat([request(WRITE, { ...fields, length: data.length }), data])

/** The fields of a request with extended header: 64 bits of length. */
export interface ExtendedFields extends Omit<RequestFields, 'length'> {
  readonly length?: number | bigint
}

/** A request with extended header; `length` is that of a payload if the flags say PAYLOAD_LEN. */
export function extendedRequest(
  type: number,
  { flags = 0, cookie = 0, offset = 0, length = 0 }: ExtendedFields = {},
) {
  return Buffer.concat([u32(0x21e41c71), u16(flags), u16(type), u64(cookie), u64(offset), u64(length)])
}

/** A WRITE with extended header and its payload. */
export const extendedWrite = (
  data: Uint8Array,
  { flags = 0, ...fields }: Omit<RequestFields, 'length'> = {},
) =>
  Buffer.concat([
    extendedRequest(WRITE, { ...fields, flags: flags | FLAG.PAYLOAD_LEN, length: data.length }),
    data,
  ])

/** A simple reply, without its data. */
export interface SimpleReply {
  readonly error: number
  readonly cookie: bigint
}

/** Takes the 16 bytes of a simple reply. */
export async function takeSimple(client: RawClient): Promise<SimpleReply> {
  const head = await client.take(16)
  if (head.readUInt32BE(0) !== 0x67446698) throw new Error(`This is no simple reply: ${head.toString('hex')}`)
  return { error: head.readUInt32BE(4), cookie: head.readBigUInt64BE(8) }
}

/** A chunk of a structured or extended reply. */
export interface Chunk {
  readonly done: boolean
  readonly type: number
  readonly cookie: bigint
  /** Of an extended reply only: the offset of the request. */
  readonly offset?: bigint
  readonly payload: Buffer
}

/** Takes one chunk, structured or extended. */
export async function takeChunk(client: RawClient): Promise<Chunk> {
  const head = await client.take(20)
  const common = {
    done: (head.readUInt16BE(4) & 1) === 1,
    type: head.readUInt16BE(6),
    cookie: head.readBigUInt64BE(8),
  }
  switch (head.readUInt32BE(0)) {
    case 0x668e33ef:
      return { ...common, payload: await client.take(head.readUInt32BE(16)) }
    case 0x6e8a278c: {
      const rest = await client.take(12)
      const offset = Buffer.concat([head.subarray(16), rest.subarray(0, 4)]).readBigUInt64BE(0)
      return { ...common, offset, payload: await client.take(Number(rest.readBigUInt64BE(4))) }
    }
    default:
      throw new Error(`This is no chunk: ${head.toString('hex')}`)
  }
}

/** Takes the chunks of one reply; nothing of another may come between. */
export async function takeStructured(client: RawClient): Promise<Chunk[]> {
  const chunks = [await takeChunk(client)]
  while (!chunks.at(-1)?.done) chunks.push(await takeChunk(client))
  return chunks
}

/** Wire error of a simple or structured reply that has no data; 0 for success. */
export async function takeError(client: RawClient): Promise<number> {
  const magic = (await client.take(4)).readUInt32BE(0)
  if (magic === 0x67446698) return (await client.take(12)).readUInt32BE(0)
  const isExtended = magic === 0x6e8a278c
  const head = await client.take(isExtended ? 28 : 16)
  const payload = await client.take(isExtended ? Number(head.readBigUInt64BE(20)) : head.readUInt32BE(12))
  if ((head.readUInt16BE(0) & 1) === 0) throw new Error('This reply has more chunks.')
  return head.readUInt16BE(2) === 0x8001 ? payload.readUInt32BE(0) : 0
}

/** Puts the data of a READ together from its chunks, as the range that was asked for; an error chunk throws. */
export function assemble(chunks: readonly Chunk[], offset: number, length: number): Buffer {
  const data = Buffer.alloc(length, 0xee)
  let covered = 0
  for (const { type, payload } of chunks) {
    if (type === 0) continue
    const at = type === 1 || type === 2 ? Number(payload.readBigUInt64BE(0)) - offset : 0
    if (type === 1) {
      payload.copy(data, at, 8)
      covered += payload.length - 8
    } else if (type === 2) {
      const hole = payload.readUInt32BE(8)
      data.fill(0, at, at + hole)
      covered += hole
    } else throw new Error(`Chunk of type ${type}: error ${payload.readUInt32BE(0)}`)
  }
  if (covered !== length) throw new Error(`The chunks hold ${covered} of ${length} bytes.`)
  return data
}

/** Sends a request and takes its wire error; for requests whose reply has no data. */
export async function errorOf(client: RawClient, bytes: Uint8Array): Promise<number> {
  client.send(bytes)
  return takeError(client)
}

/** Reads by a simple reply. */
export async function readSimple(client: RawClient, offset: number, length: number): Promise<Buffer> {
  client.send(request(READ, { offset, length }))
  const { error } = await takeSimple(client)
  if (error !== 0) throw new Error(`READ failed with ${error}`)
  return client.take(length)
}

/** Descriptor of the client's socket, to write to it without the event loop. */
export const descriptorOf = ({ socket }: RawClient): number =>
  (socket as unknown as { _handle: { fd: number } })._handle.fd
