/**
 * A client's socket: bytes in by one receive buffer that all clients share, bytes out by send(2)
 * directly, and what the socket does not take kept until it does.
 */
import { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { ERRNO, SystemCallError } from '../linux/errno.ts'
import { LINGER_TURN_MS, type Lingerers, Lingering } from '../linux/lingering.ts'
import {
  addressOf,
  lastErrno,
  nap,
  peerState,
  tryReceive,
  trySend,
  yieldProcessor,
} from '../linux/syscalls.ts'
import type { DescriptorHandle } from './handle.ts'
import { Passing, type PassingReply } from './passing.ts'
import type { Receiver } from './receiver.ts'
import { type TlsAcceptor, tlsFailure } from './tls.ts'
import { Burst, RECORD_LENGTH, receiveRecords, sendRecords, shortenQueue } from './tls-stream.ts'

/** Most bytes that one read of a socket brings. */
const RECEIVE_BYTES = 2 ** 20
/** What a client may leave unconsumed and still be read: its half request or half option, in bytes. */
export const MAX_LEFTOVER = 128 * 2 ** 10

// Leftovers are copied in front of the next read, so that a message always lies in one piece.
const shared = Buffer.allocUnsafeSlow(MAX_LEFTOVER + RECEIVE_BYTES)
const area = shared.subarray(MAX_LEFTOVER)
const areaAddress = addressOf(area)
/** Where a message's head is received, and little of its data to copy, while the receiver expects large data. */
const headArea = area.subarray(0, 16 * 2 ** 10)

/** TLS takes everything at once and hands it on later, so that only more than this means a slow client. Bytes. */
const TLS_BACKLOG = 256 * 2 ** 10
/** How long a client may take to read our last bytes, in ms. */
const CLOSE_TIMEOUT_MS = 5000

/** Who was the last to wait for more requests, and when, in ms. */
let napper: Channel | undefined
let nappedAt = 0
/** How long the wait of one connection serves the others too, in ms. */
const NAP_SERVES_MS = 0.1
/** All connections: one that looks for its next request keeps the others waiting. */
const lingerers: Lingerers = { last: undefined }

export class Channel {
  readonly fd: number
  /** The plain socket, and TLS on top of it once that is established. */
  #socket: Socket
  #secured: TLSSocket | undefined
  readonly #passing: Passing
  readonly #lingering = new Lingering(lingerers)
  #burst: Burst | undefined
  #closeTimer: NodeJS.Timeout | undefined
  #receiver: Receiver | undefined
  /** Bytes received and not yet consumed. */
  #leftover: Buffer | undefined
  /** What the receiver wants to have filled by the read of the socket that comes next. */
  #target: Buffer | undefined
  #ended = false
  #endIsAnnounced = false
  #closing = false
  #closed = false
  #error: Error | undefined
  readonly #onWritten = () => {
    if (!this.#closing && this.#socket.writableLength === 0) this.#receiver?.drained()
  }

  /** `onClose` is called once, when the connection is over, after the receiver. */
  constructor(handle: DescriptorHandle, onClose: () => void) {
    this.fd = handle.fd
    this.#passing = new Passing(this.fd, this.#onWritten)
    this.#socket = new Socket({
      handle,
      allowHalfOpen: true,
      // The buffer is shared, which is safe because libuv fills it and calls back without a pause between.
      onread: {
        buffer: () => this.#nextBuffer(),
        callback: (length: number, bytes: Uint8Array) =>
          bytes === this.#target ? this.#filled(length) : this.#received(length),
      },
    } as unknown as ConstructorParameters<typeof Socket>[0])
    this.#socket.on('close', () => {
      this.#closed = true
      if (napper === this) napper = undefined
      this.#forget()
      clearTimeout(this.#closeTimer)
      this.#receiver?.closed(this.#error)
      onClose()
    })
    this.#listen(this.#socket)
  }

  #listen(socket: Socket): void {
    socket
      .on('end', () => {
        this.#burst?.flush()
        this.#ended = true
        this.#announceEnd()
      })
      .on('error', error => {
        this.#error ??= this.#secured ? tlsFailure(error) : error
        // TLS that breaks after its handshake leaves the connection open by itself.
        socket.destroy()
      })
  }

  /**
   * Goes over to TLS after `lastWords`, the last bytes in plain text. Nothing is read between these and the
   * TLS handshake, and nothing may have been left unconsumed (CVE-2021-3716).
   * @returns the subject of the client's certificate, if it showed one
   * @throws TlsError
   */
  async secure(acceptor: TlsAcceptor, lastWords: Buffer): Promise<string | undefined> {
    const plain = this.#socket
    plain.pause()
    this.send(lastWords, 0, lastWords.length)
    plain.removeAllListeners('end')
    shortenQueue(this.fd)
    const { socket, distinguishedName } = await acceptor.accept(plain)
    this.#socket = socket
    this.#secured = socket
    this.#listen(socket)
    const burst = new Burst((bytes, length) => {
      this.#offer(bytes, 0, length)
      this.#balance()
    })
    this.#burst = burst
    receiveRecords(socket, (bytes, length) => this.#decrypted(burst, bytes, length))
    return distinguishedName
  }

  /** Starts reading. */
  start(receiver: Receiver): void {
    this.#receiver = receiver
    this.#socket.resume()
  }

  /** Hands the connection to the next phase, which gets what its predecessor left once `proceed` is called. */
  handOver(receiver: Receiver): void {
    this.#receiver = receiver
  }

  /** Bytes that the socket has not taken yet. */
  get backlog(): number {
    return this.#socket.writableLength
  }

  /** So much is waiting that nothing should be added: `drained` is called when it has gone. */
  get congested(): boolean {
    return this.#passing.isUnderWay || this.#socket.writableLength > (this.#secured ? TLS_BACKLOG : 0)
  }

  /** What has become of the client, which also shows while nothing is read. */
  get peerState(): 'there' | 'finished' | 'gone' {
    return this.#socket.destroyed ? 'gone' : peerState(this.fd)
  }

  /** The connection is encrypted. */
  get isSecured(): boolean {
    return this.#secured !== undefined
  }

  get ended(): boolean {
    return this.#ended
  }

  get closed(): boolean {
    return this.#closed
  }

  /** Sends bytes at once, or keeps a copy of those that the socket does not take. */
  send(bytes: Buffer, start: number, end: number, address: number = addressOf(bytes)): void {
    this.#send(bytes, start, end, address, undefined)
  }

  /** Sends bytes that belong to `owner`, and lets it have them back when the socket has taken them. */
  sendLent(bytes: Buffer, start: number, end: number, owner: { release(): void }): void {
    if (!this.#send(bytes, start, end, addressOf(bytes), owner)) owner.release()
  }

  /** Sends a reply whose bytes are in a passage, and releases its owner when the socket has taken them. */
  sendPassage(reply: PassingReply): void {
    this.#passing.send(this.#socket, reply)
  }

  /** True: the socket has still to take some of the owner's bytes. */
  #send(
    bytes: Buffer,
    start: number,
    end: number,
    address: number,
    owner: { release(): void } | undefined,
  ): boolean {
    // A broken socket has given its descriptor back before it says so, and another one may have it now.
    if (this.#closing || this.#socket.destroyed || start === end) return false
    this.#passing.end(this.#socket)
    if (this.#secured !== undefined) {
      return sendRecords(this.#secured, bytes, start, end, this.#onWritten, owner)
    }
    let at = start
    if (this.#socket.writableLength === 0) {
      const sent = trySend(this.fd, address + start, end - start)
      if (sent === end - start) return false
      if (sent > 0) {
        at += sent
      } else {
        const errno = lastErrno()
        if (errno !== ERRNO.EAGAIN && errno !== ERRNO.EINTR) {
          this.destroy(new SystemCallError('send', errno))
          return false
        }
      }
    }
    // Not by 'drain', which only follows a write of more than the high-water mark.
    const rest = bytes.subarray(at, end)
    if (owner === undefined) {
      this.#socket.write(Buffer.from(rest), this.#onWritten)
      return false
    }
    // Called also where the socket breaks.
    this.#socket.write(rest, () => {
      owner.release()
      this.#onWritten()
    })
    return true
  }

  /** Offers the receiver its leftover again, and goes on reading if it is not blocked. */
  proceed(): void {
    if (this.#closed || this.#closing) return
    const leftover = this.#leftover
    if (leftover !== undefined) {
      this.#leftover = undefined
      this.#offer(leftover, 0, leftover.length, true)
    }
    this.#balance()
    this.#announceEnd()
  }

  /** TLS is read to its end also while the receiver is blocked, which still has to get its leftover then. */
  #announceEnd(): void {
    if (!this.#ended || this.#endIsAnnounced || this.#closing) return
    if (this.#leftover !== undefined && this.#receiver?.blocked) return
    this.#endIsAnnounced = true
    this.#receiver?.ended()
  }

  /** Sends what is kept, then ends the connection; nothing more is received. A client that does not read it is cut off after a while. */
  close(): void {
    if (this.#closing || this.#closed) return
    this.#passing.end(this.#socket)
    this.#closing = true
    this.#forget()
    this.#socket.end()
    this.#closeTimer = setTimeout(() => this.#socket.destroy(), CLOSE_TIMEOUT_MS)
    // Read to the end and dropped: closing with unread bytes would reset the connection and lose our last reply.
    this.#socket.resume()
  }

  /** Ends the connection at once. */
  destroy(error?: Error): void {
    this.#error ??= error
    this.#closing = true
    this.#forget()
    this.#socket.destroy()
  }

  #forget(): void {
    this.#leftover = undefined
    this.#burst?.drop()
  }

  #decrypted(burst: Burst, bytes: Buffer, length: number): void {
    const leftover = this.#leftover
    if (this.#closing) return
    if (leftover !== undefined && leftover.length > MAX_LEFTOVER) {
      // The rest of one read of the socket, which is paused already.
      this.#leftover = Buffer.concat([leftover, bytes.subarray(0, length)])
    } else if (burst.isEmpty && length < RECORD_LENGTH) {
      bytes.copy(area, 0, 0, length)
      this.#received(length)
    } else {
      if (burst.isEmpty) {
        this.#leftover = undefined
        burst.begin(leftover)
      }
      burst.add(bytes, length)
    }
  }

  /** Lets what is on its way arrive; returns how many bytes there are then. */
  #gather(length: number, micros: number): number {
    // While one connection waits, the others' requests gather as well.
    const now = performance.now()
    if (napper !== this && now - nappedAt < NAP_SERVES_MS) return length
    napper = this
    nappedAt = now
    nap(micros)
    // The end of the stream, or an error, is there for libuv's own read to find.
    return length + Math.max(0, tryReceive(this.fd, areaAddress + length, RECEIVE_BYTES - length))
  }

  #nextBuffer(): Buffer {
    this.#target = undefined
    const payload = this.#receiver?.payload
    if (this.#closing || this.#leftover !== undefined || payload === undefined) return area
    this.#target = payload.target()
    return this.#target ?? (payload.isInPlace ? headArea : area)
  }

  #filled(length: number): boolean {
    if (this.#closing) return true
    try {
      this.#receiver?.filled?.(length)
    } catch (error) {
      this.destroy(error instanceof Error ? error : new Error('The receiver failed.', { cause: error }))
      return true
    }
    this.#balance()
    return true
  }

  #received(arrived: number): boolean {
    const end = performance.now() + LINGER_TURN_MS
    let length = arrived
    do {
      this.#take(length)
      length = this.#linger(end)
    } while (length > 0)
    return true
  }

  /** Could the next request be there in a moment? */
  get #mayLinger(): boolean {
    const receiver = this.#receiver
    if (!receiver?.expectsMore || receiver.blocked || this.#leftover !== undefined) return false
    return !this.#closing && this.#secured === undefined && !this.congested
  }

  /** Looks for the next request of a client that has one at a time under way; returns the bytes that came. */
  #linger(end: number): number {
    if (!this.#mayLinger) {
      this.#lingering.passed()
      return 0
    }
    const until = Math.min(this.#lingering.until(), end)
    if (until === 0) return 0
    for (;;) {
      const length = tryReceive(this.fd, areaAddress, RECEIVE_BYTES)
      if (length > 0) this.#lingering.answered()
      // The end of the stream is for libuv to find.
      if (length >= 0) return length
      if (performance.now() >= until) return 0
      // The client may need it to send what is looked for.
      yieldProcessor()
    }
  }

  #take(arrived: number): void {
    if (this.#closing) return
    const wait = this.#secured === undefined ? (this.#receiver?.gathering?.micros ?? 0) : 0
    const length = wait > 0 && arrived < RECEIVE_BYTES / 2 ? this.#gather(arrived, wait) : arrived
    const leftover = this.#leftover
    const start = MAX_LEFTOVER - (leftover?.length ?? 0)
    if (leftover !== undefined) {
      leftover.copy(shared, start)
      this.#leftover = undefined
    }
    this.#offer(shared, start, MAX_LEFTOVER + length)
    this.#balance()
  }

  #offer(buffer: Buffer, start: number, end: number, isOwn = false): void {
    const receiver = this.#receiver
    if (receiver === undefined) return
    let consumed: number
    try {
      consumed = receiver.receive(buffer, start, end)
    } catch (error) {
      this.destroy(error instanceof Error ? error : new Error('The receiver failed.', { cause: error }))
      return
    }
    if (consumed === end || this.#closing) return
    const rest = buffer.subarray(consumed, end)
    this.#leftover = isOwn ? rest : Buffer.from(rest)
  }

  #balance(): void {
    if (this.#closing) return
    const full = this.#leftover !== undefined && this.#leftover.length > MAX_LEFTOVER
    if (this.#receiver?.blocked || full) this.#socket.pause()
    else if (this.#socket.isPaused()) this.#socket.resume()
  }
}
