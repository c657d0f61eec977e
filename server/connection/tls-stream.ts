/**
 * Bytes in and out of a TLS socket in large pieces and pooled buffers. Node by itself allocates 64 KiB for each
 * record that it decrypts, and would be handed a fresh copy of each reply; collecting these costs more than the
 * encryption.
 */
import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { limitUnsent } from '../linux/syscalls.ts'
import { giveBuffer, MAX_DATA, takeBuffer } from './buffers.ts'

/** Most bytes of a TLS record: a client that has more to send fills it. */
export const RECORD_LENGTH = 16_384
/** Most bytes that are gathered before they are handed on. */
const BURST_LENGTH = 512 * 2 ** 10

/** How much the kernel may have that is not on its way to the client yet, in bytes. */
const MAX_UNSENT = 128 * 2 ** 10

/**
 * Keeps what waits in a TCP socket short. A client that decrypts is slower than we are, so that megabytes would lie there:
 * cold by the time it comes to them, as are the buffers that it has got ready for their data.
 */
export function shortenQueue(fd: number): void {
  // A unix socket has no such limit, and less room.
  limitUnsent(fd, MAX_UNSENT)
}

/** Takes the first `length` bytes of a buffer, which is only lent for the call. */
export type TakeBytes = (bytes: Buffer, length: number) => void

/** Most bytes that Node hands over at once, however it comes by them. */
const CHUNK_LENGTH = 4 * RECORD_LENGTH

// One for all connections: it is filled and taken without a pause between.
const decrypted = Buffer.allocUnsafeSlow(CHUNK_LENGTH)

/**
 * Hands on what a TLS socket decrypts, record by record, out of a buffer that all connections share. A few more
 * may come after the socket has been paused. False: this Node has no such buffers, and allocates one a record.
 */
export function receiveRecords(socket: TLSSocket, take: TakeBytes): boolean {
  // What Node's own option `onread` sets, which a TLS socket on top of another one does not take.
  const inside = socket as unknown as Record<symbol, unknown>
  const symbolOf = (name: string) =>
    Object.getOwnPropertySymbols(socket).find(({ description }) => description === name)
  const [buffer, callback, next] = [symbolOf('kBuffer'), symbolOf('kBufferCb'), symbolOf('kBufferGen')]
  const { _handle: handle } = socket as unknown as { _handle: { useUserBuffer?(area: Buffer): void } | null }
  socket.on('data', (chunk: Buffer) => take(chunk, chunk.length))
  if (!buffer || !callback || !next || handle?.useUserBuffer === undefined) return false
  inside[buffer] = decrypted
  inside[callback] = (length: number) => take(decrypted, length)
  inside[next] = null
  handle.useUserBuffer(decrypted)
  return true
}

/** The socket below; Node tells which only in this property. */
export const plainOf = (socket: TLSSocket) => (socket as unknown as { _parent?: Socket })._parent

/** This Node was seen to encrypt what an idle TLS socket is given before `write` returns. */
let encryptsAtOnce = false

/**
 * Writes bytes that may change as soon as this returns; `onWritten` is called after each piece. What an idle socket gets is
 * encrypted at once. Behind other bytes the socket keeps it as it is: then it is copied, or lent by `owner`.
 * @returns whether the owner will have its bytes back later
 */
export function sendRecords(
  socket: TLSSocket,
  bytes: Buffer,
  start: number,
  end: number,
  onWritten: () => void,
  owner?: { release(): void },
): boolean {
  const isIdle = socket.writableLength === 0
  if (isIdle && encryptsAtOnce) {
    socket.write(bytes.subarray(start, end), onWritten)
    return false
  }
  if (owner !== undefined) {
    // Called also where the socket breaks.
    socket.write(bytes.subarray(start, end), () => {
      owner.release()
      onWritten()
    })
    return true
  }
  const below = plainOf(socket)
  const sentBelow = below?.bytesWritten ?? 0
  for (let at = start; at < end; at += MAX_DATA) {
    const length = Math.min(MAX_DATA, end - at)
    const copy = takeBuffer(length)
    bytes.copy(copy, 0, at, at + length)
    socket.write(copy.subarray(0, length), () => {
      giveBuffer(copy)
      onWritten()
    })
  }
  // More than the first piece has gone to the socket below already: nothing but that piece, encrypted.
  if (isIdle && below !== undefined)
    encryptsAtOnce = below.bytesWritten - sentBelow > Math.min(MAX_DATA, end - start)
  return false
}

/**
 * Gathers the full records of one turn of the event loop, so that a large request is handed on in a few large
 * pieces. A record that is not full ends the wait.
 */
export class Burst {
  readonly #deliver: TakeBytes
  readonly #onImmediate = () => this.flush()
  #buffer: Buffer | undefined
  #length = 0

  constructor(deliver: TakeBytes) {
    this.#deliver = deliver
  }

  /** Nothing is gathered. */
  get isEmpty(): boolean {
    return this.#buffer === undefined
  }

  /** Begins with what an earlier delivery has left over: much less than a burst. */
  begin(leftover: Buffer | undefined): void {
    this.#buffer = takeBuffer(BURST_LENGTH)
    this.#length = leftover?.copy(this.#buffer) ?? 0
    setImmediate(this.#onImmediate)
  }

  /** Adds a record, and delivers if it is the last one or another might not fit. */
  add(bytes: Buffer, length: number): void {
    this.#length += bytes.copy(this.#buffer as Buffer, this.#length, 0, length)
    if (length < RECORD_LENGTH || this.#length + CHUNK_LENGTH > BURST_LENGTH) this.flush()
  }

  /** Delivers what is gathered. */
  flush(): void {
    const buffer = this.#buffer
    if (buffer === undefined) return
    this.#buffer = undefined
    this.#deliver(buffer, this.#length)
    giveBuffer(buffer)
  }

  /** Forgets what is gathered. */
  drop(): void {
    if (this.#buffer !== undefined) giveBuffer(this.#buffer)
    this.#buffer = undefined
  }
}
