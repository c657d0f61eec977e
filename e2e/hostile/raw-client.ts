/**
 * A client of raw bytes for the differential test: hostile options and requests, and what became of them as a short
 * text that can be compared between servers. Written from the protocol's text; it knows no server's code.
 */
import { connect, type Socket } from 'node:net'

/** Milliseconds in which a server has to answer or hang up. */
const PATIENCE = 10_000

const uint = (bytes: number) => (value: number | bigint) => {
  const buffer = Buffer.alloc(8)
  buffer.writeBigUInt64BE(BigInt(value))
  return buffer.subarray(8 - bytes)
}
export const u16 = uint(2)
export const u32 = uint(4)
export const u64 = uint(8)

export const bytes = (...parts: readonly (Uint8Array | string)[]): Buffer =>
  Buffer.concat(parts.map(part => (typeof part === 'string' ? new TextEncoder().encode(part) : part)))

/** A string with its length in front. */
export const counted = (text: Uint8Array | string): Buffer => bytes(u32(Buffer.from(text).length), text)

/** An option; `length` may lie. */
export const option = (
  code: number,
  payload: Uint8Array = Buffer.alloc(0),
  length = payload.length,
): Buffer => bytes('IHAVEOPT', u32(code), u32(length), payload)

/** Payload of GO and INFO. */
export const goFor = (name: Uint8Array | string, ...infos: readonly number[]): Buffer =>
  bytes(counted(name), u16(infos.length), ...infos.map(u16))

/** Payload of LIST_META_CONTEXT and SET_META_CONTEXT. */
export const contexts = (name: string, ...queries: readonly string[]): Buffer =>
  bytes(counted(name), u32(queries.length), ...queries.map(counted))

/** Fields of a request. */
export interface RequestFields {
  readonly flags?: number
  readonly offset?: number | bigint
  readonly length?: number
  readonly payload?: Uint8Array
}

/** Says whose reply it is: that of the request that is tried, or of the READ that proves what came of it. */
const [TRIED, PROOF] = [0x11n, 0x22n]
const READ = 0
const PROOF_LENGTH = 512

const requestBytes = (type: number, cookie: bigint, fields: RequestFields): Buffer => {
  const { flags = 0, offset = 0, length = 0, payload = Buffer.alloc(0) } = fields
  return bytes(u32(0x25609513), u16(flags), u16(type), u64(cookie), u64(offset), u32(length), payload)
}

/** Takes bytes from a socket as they are asked for. */
interface Reader {
  readonly socket: Socket
  /** Undefined once the server has hung up before so many bytes. */
  take(length: number): Promise<Buffer | undefined>
}

async function open(path: string): Promise<Reader> {
  const socket = connect({ path })
  /** Put together only when enough is there: to do so with each chunk would copy 32 MiB five hundred times. */
  let received: Buffer[] = []
  let available = 0
  let isOver = false
  let isLate = false
  let wake = () => {}
  const over = () => {
    isOver = true
    wake()
  }
  socket.setTimeout(PATIENCE, () => {
    isLate = true
    wake()
  })
  socket.on('data', (chunk: Buffer) => {
    received.push(chunk)
    available += chunk.length
    wake()
  })
  // A server that hangs up on bytes that it has not read resets the connection: that is an end like any other.
  socket.on('error', over)
  socket.on('close', over)
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve)
    socket.once('error', reject)
  })
  return {
    socket,
    async take(length) {
      while (available < length) {
        if (isLate) throw new Error(`The server neither answers nor hangs up within ${PATIENCE} ms.`)
        if (isOver) return undefined
        await new Promise<void>(resolve => {
          wake = resolve
        })
      }
      const all = Buffer.concat(received)
      received = [all.subarray(length)]
      available -= length
      return all.subarray(0, length)
    },
  }
}

const REPLIES: ReadonlyMap<number, string> = new Map([
  [1, 'ACK'],
  [2, 'SERVER'],
  [3, 'INFO'],
  [4, 'META_CONTEXT'],
  [2 ** 31 + 1, 'UNSUP'],
  [2 ** 31 + 2, 'POLICY'],
  [2 ** 31 + 3, 'INVALID'],
  [2 ** 31 + 4, 'PLATFORM'],
  [2 ** 31 + 5, 'TLS_REQD'],
  [2 ** 31 + 6, 'UNKNOWN'],
  [2 ** 31 + 7, 'SHUTDOWN'],
  [2 ** 31 + 8, 'BLOCK_SIZE_REQD'],
  [2 ** 31 + 9, 'TOO_BIG'],
  [2 ** 31 + 10, 'EXT_HEADER_REQD'],
])
const ERRORS: ReadonlyMap<number, string> = new Map([
  [0, 'ok'],
  [1, 'EPERM'],
  [5, 'EIO'],
  [12, 'ENOMEM'],
  [22, 'EINVAL'],
  [28, 'ENOSPC'],
  [75, 'EOVERFLOW'],
  [95, 'ENOTSUP'],
  [108, 'ESHUTDOWN'],
])

/** An option that nobody knows, by which is seen that the server is still in step. */
const UNKNOWN_OPTION = 0x7777

async function optionReply(reader: Reader): Promise<{ option: number; type: number } | undefined> {
  const head = await reader.take(20)
  if (head === undefined) return undefined
  if ((await reader.take(head.readUInt32BE(16))) === undefined) return undefined
  if (head.readBigUInt64BE(0) !== 0x3e889045565a9n) throw new Error('This is no reply to an option.')
  return { option: head.readUInt32BE(8), type: head.readUInt32BE(12) }
}

/**
 * Sends bytes after the greeting and tells which replies came to them, repetitions once, up to the end of the
 * connection (`closed`) or to the answer of an option that follows. `flags` are the client's.
 */
export async function tryOptions(path: string, sent: Uint8Array, flags = 3): Promise<string> {
  const reader = await open(path)
  try {
    if ((await reader.take(18)) === undefined) return 'closed'
    reader.socket.write(bytes(u32(flags), sent, option(UNKNOWN_OPTION)))
    const seen: string[] = []
    for (;;) {
      const reply = await optionReply(reader)
      if (reply?.option === UNKNOWN_OPTION) return seen.join(', ') || 'nothing'
      const name = reply === undefined ? 'closed' : (REPLIES.get(reply.type) ?? `type ${reply.type}`)
      if (seen.at(-1) !== name) seen.push(name)
      if (reply === undefined) return seen.join(', ')
    }
  } finally {
    reader.socket.destroy()
  }
}

/** What the handshake before a request agrees on. */
export interface Agreed {
  readonly structured?: boolean
  readonly allocation?: boolean
}

async function attach(reader: Reader, name: string, agreed: Agreed): Promise<void> {
  await reader.take(18)
  const options: Buffer[] = []
  if (agreed.structured) options.push(option(8))
  if (agreed.allocation) options.push(option(10, contexts(name, 'base:allocation')))
  reader.socket.write(bytes(u32(3), ...options, option(7, goFor(name))))
  for (;;) {
    const reply = await optionReply(reader)
    if (reply === undefined || reply.type >= 2 ** 31) throw new Error(`No handshake: ${reply?.type}`)
    if (reply.option === 7 && reply.type === 1) return
  }
}

/**
 * Cookie and error of the next reply, once it is complete; undefined at the end of the connection. A simple reply
 * without an error has so many bytes of data.
 */
async function requestReply(
  reader: Reader,
  dataLength: number,
): Promise<{ cookie: bigint; error: number } | undefined> {
  let error = 0
  for (;;) {
    const head = await reader.take(16)
    if (head === undefined) return undefined
    const cookie = head.readBigUInt64BE(8)
    if (head.readUInt32BE(0) === 0x67446698) {
      error = head.readUInt32BE(4)
      const data = error === 0 ? dataLength : 0
      return (await reader.take(data)) === undefined ? undefined : { cookie, error }
    }
    if (head.readUInt32BE(0) !== 0x668e33ef) throw new Error(`This is no reply: ${head.toString('hex')}`)
    const length = (await reader.take(4))?.readUInt32BE(0)
    const payload = length === undefined ? undefined : await reader.take(length)
    if (payload === undefined) return undefined
    if (head.readUInt16BE(6) >= 0x8000) error ||= payload.readUInt32BE(0)
    if ((head.readUInt16BE(4) & 1) !== 0) return { cookie, error }
  }
}

/**
 * Sends a request, or raw bytes, to the disk of this name and tells its error (`ok` if there is none), or `closed`
 * if the server hung up, having answered or not.
 */
export async function tryRequest(
  path: string,
  name: string,
  agreed: Agreed,
  request: { readonly type: number; readonly fields?: RequestFields } | Uint8Array,
): Promise<string> {
  const reader = await open(path)
  try {
    await attach(reader, name, agreed)
    const isRaw = request instanceof Uint8Array
    const dataLength = !isRaw && request.type === READ ? (request.fields?.length ?? 0) : 0
    reader.socket.write(isRaw ? request : requestBytes(request.type, TRIED, request.fields ?? {}))
    const reply = await requestReply(reader, dataLength)
    if (reply === undefined) return 'closed'
    if (!isRaw && reply.cookie !== TRIED) throw new Error(`The reply has the cookie ${reply.cookie}.`)
    const outcome = ERRORS.get(reply.error) ?? `error ${reply.error}`
    reader.socket.write(requestBytes(READ, PROOF, { length: PROOF_LENGTH }))
    const proof = await requestReply(reader, PROOF_LENGTH)
    // Whether what was answered before is still seen is a matter of chance.
    if (proof === undefined) return 'closed'
    if (proof.cookie !== PROOF || proof.error !== 0) throw new Error(`After ${outcome} it is out of step.`)
    return outcome
  } finally {
    reader.socket.destroy()
  }
}
