/**
 * The bytes to and from a server, over TCP or a unix socket, in the clear or by TLS. What is read goes to a
 * buffer that all connections share, or straight to where the receiver wants it; what is written goes out by
 * send(2) at once as far as the socket takes it.
 */
import { connect as connectSocket, type OnReadOpts, type Socket } from 'node:net'
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls'
import { codeOf, ERRNO, SystemCallError, toError } from '../linux/errno.ts'
import type { Passage } from '../linux/passage.ts'
import {
  addressOf,
  configureTcp,
  configureUnix,
  type Liveness,
  lastErrno,
  tryReceive,
  trySend,
  trySendBoth,
} from '../linux/syscalls.ts'
import { ConnectionError, TlsError } from './errors.ts'
import { describeAddress, type NbdAddress } from './uri.ts'

/** A vanished server is noticed after 10 + 3 * 5 = 25 s, well before the 30 s that requests wait for a reconnect. */
const LIVENESS: Liveness = { idle: 10, interval: 5, probes: 3, unacknowledged: 25 }
/** Bytes of requests that a unix socket holds: a large write is sent in one piece. */
const UNIX_REQUESTS = 2 ** 18

// Safe to share, because libuv fills it and calls back without a pause between.
const shared = Buffer.allocUnsafeSlow(256 * 2 ** 10)
const sharedAddress = addressOf(shared)
/** Parts of it, by their length: what is read at once while data is on its way that is not to come with it. */
const parts = new Map<number, Buffer>()
const MAX_PARTS = 256

function partOf(length: number): Buffer {
  const known = parts.get(length)
  if (known !== undefined) return known
  const part = shared.subarray(0, length)
  if (parts.size < MAX_PARTS) parts.set(length, part)
  return part
}

/** What listens to a wire. */
export interface WireReceiver {
  /** Bytes have come; they are only valid during the call. */
  receive(bytes: Buffer, start: number, end: number): void
  /** Where the next bytes should be put, if that is known. */
  target(): Buffer | undefined
  /** So many bytes were put where `target` said. */
  filled(length: number): void
  /** Most bytes that should be read at once while there is no target. */
  readonly most: number
  /** The connection is over: the server closed it, it broke, or a call of this object threw. Called once. */
  closed(error: Error): void
}

const IGNORE: WireReceiver = {
  most: Number.POSITIVE_INFINITY,
  receive: () => undefined,
  target: () => undefined,
  filled: () => undefined,
  closed: () => undefined,
}

/** Why nothing was connected to, by the code of the error. */
const CONNECT_REASONS: ReadonlyMap<string, string> = new Map([
  ['ECONNREFUSED', 'nobody listens there'],
  ['ENOENT', 'there is no such socket'],
  ['ENOTSOCK', 'that is no socket'],
  ['EACCES', 'that needs more rights'],
  ['ENOTFOUND', 'the host name is not known'],
  ['EAI_AGAIN', 'the host name cannot be looked up now'],
  ['EHOSTUNREACH', 'there is no way to the host'],
  ['ENETUNREACH', 'there is no way to the network'],
  ['ETIMEDOUT', 'the host does not answer'],
  ['ECONNRESET', 'the connection was closed at once'],
])

export class Wire {
  readonly address: NbdAddress
  #socket: Socket
  #tls: TLSSocket | undefined
  #isSecure = false
  #fd = -1
  #receiver: WireReceiver | undefined
  #target: Buffer | undefined
  #isClosed = false
  #isWriting = false

  private constructor(address: NbdAddress) {
    this.address = address
    const onread: OnReadOpts = {
      buffer: () => this.#nextBuffer(),
      callback: (length, bytes) => this.#received(length, bytes),
    }
    this.#socket = connectSocket(
      address.kind === 'unix'
        ? { path: address.path, allowHalfOpen: true, onread }
        : { host: address.host, port: address.port, noDelay: true, allowHalfOpen: true, onread },
    )
  }

  /**
   * Connects.
   * @throws ConnectionError; the reason of `signal` where that is aborted
   */
  static async connect(address: NbdAddress, signal: AbortSignal): Promise<Wire> {
    signal.throwIfAborted()
    const wire = new Wire(address)
    const socket = wire.#socket
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once('connect', resolve)
        // Stays for good: a socket that is torn down may tell of more than one error.
        socket.on('error', reject)
        signal.addEventListener('abort', () => socket.destroy(toError(signal.reason)), { once: true })
      })
    } catch (cause) {
      socket.destroy()
      if (signal.aborted) throw signal.reason
      const code = codeOf(cause) ?? 'EIO'
      const reason = CONNECT_REASONS.get(code) ?? code
      throw new ConnectionError(code, `Cannot connect to ${describeAddress(address)}: ${reason}.`, { cause })
    }
    wire.#adopt()
    return wire
  }

  /** Takes the connected socket into use. */
  #adopt(): void {
    const socket = this.#socket
    const handle = (socket as unknown as { _handle: { fd?: number } | null })._handle
    this.#fd = handle?.fd ?? -1
    if (this.#fd >= 0) {
      try {
        if (this.address.kind === 'tcp') configureTcp(this.#fd, LIVENESS)
        else configureUnix(this.#fd, UNIX_REQUESTS)
      } catch (error) {
        // Broken already: the socket tells so by itself, and in its own words.
        if (!(error instanceof SystemCallError)) throw error
      }
    }
    this.#watch(socket)
  }

  #watch(socket: Socket): void {
    let failure: Error | undefined
    const isCurrent = () => socket === this.#socket
    socket.on('error', error => {
      failure ??= error
    })
    socket.on('end', () => {
      if (isCurrent()) this.destroy(this.#lost(undefined))
    })
    socket.on('close', () => {
      if (isCurrent()) this.destroy(this.#lost(failure))
    })
  }

  #lost(cause: Error | undefined): Error {
    const where = describeAddress(this.address)
    const reason = cause === undefined ? 'the server closed the connection' : cause.message
    if (this.#tls !== undefined && !this.#isSecure) {
      return new TlsError(codeOf(cause) ?? 'ECONNRESET', `TLS with ${where} failed: ${reason}.`, { cause })
    }
    return new ConnectionError(codeOf(cause) ?? 'ECONNRESET', `Lost the NBD server at ${where}: ${reason}.`, {
      cause,
    })
  }

  /** Says who listens from now on. */
  listen(receiver: WireReceiver): void {
    this.#receiver = receiver
  }

  /** Goes over to TLS on the same socket. Nothing may be written until `started` is called; failure ends the connection. */
  startTls(options: ConnectionOptions, started: () => void): void {
    this.#fd = -1
    const socket = connectTls({ ...options, socket: this.#socket })
    this.#tls = socket
    this.#socket = socket
    this.#watch(socket)
    socket.on('secureConnect', () => {
      if (this.#isClosed) return
      this.#isSecure = true
      socket.on('data', (bytes: Buffer) => this.#receivedByTls(bytes))
      try {
        started()
      } catch (error) {
        this.destroy(toError(error))
      }
    })
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  /**
   * Gives the socket bytes that it takes at once; returns how many that were. The rest is for `write`.
   * Ends the connection where it is broken.
   */
  trySend(bytes: Buffer, start: number, end: number, address: number = addressOf(bytes)): number {
    if (this.#fd < 0 || this.#isWriting || this.#isClosed) return 0
    return this.#sent(trySend(this.#fd, address + start, end - start))
  }

  /** The same for bytes in two places, the first of which are at `firstAddress`. */
  trySendBoth(firstAddress: number, firstLength: number, second: Buffer, start: number, end: number): number {
    if (!this.isPlain || this.#isWriting) return 0
    const address = addressOf(second) + start
    return this.#sent(trySendBoth(this.#fd, firstAddress, firstLength, address, end - start))
  }

  /** Bytes are sent as they are, and some may be sent at once. */
  get isPlain(): boolean {
    return this.#fd >= 0 && !this.#isClosed
  }

  #sent(sent: number): number {
    if (sent >= 0) return sent
    const errno = lastErrno()
    if (errno !== ERRNO.EAGAIN && errno !== ERRNO.EINTR) {
      const error = new SystemCallError('send', errno)
      process.nextTick(() => this.destroy(this.#lost(error)))
    }
    return 0
  }

  /**
   * Takes what has come, without waiting for the event loop to find it. Returns whether there was something; the end of
   * the stream, or an error, is for the event loop. Not possible under TLS.
   */
  receiveNow(): boolean {
    // The event loop has been told where the next bytes go.
    if (this.#fd < 0 || this.#isClosed || this.#target !== undefined) return false
    const most = Math.min(this.#receiver?.most ?? 0, shared.length)
    const length = tryReceive(this.#fd, sharedAddress, most)
    if (length <= 0) return false
    this.#received(length, shared)
    return true
  }

  /** Takes up to so many bytes that have come, valid until the next ones; undefined where there are none to be had. */
  take(most: number): Buffer | undefined {
    if (this.#fd < 0 || this.#isClosed) return undefined
    const length = tryReceive(this.#fd, sharedAddress, Math.min(most, shared.length))
    return length > 0 ? partOf(length) : undefined
  }

  /** Moves data that has come into a passage, past this process's memory: returns how many bytes, 0 for none. */
  fill(passage: Passage): number {
    return this.#fd < 0 || this.#isClosed ? 0 : passage.fill(this.#fd)
  }

  /** Writes bytes when the socket takes them, and says so. They may not change until then. */
  write(bytes: Buffer, done?: () => void): void {
    this.#isWriting = true
    this.#socket.write(bytes, error => {
      this.#isWriting = this.#socket.writableLength > 0
      // An error ends the connection by itself.
      if (!error) done?.()
    })
  }

  /**
   * Stops reading, for somebody else who goes on with the socket in the clear, and returns its descriptor. That is
   * valid until `release`.
   */
  handOver(): number {
    this.#receiver = IGNORE
    this.#socket.pause()
    return this.#fd
  }

  /** Lets go of a socket that was handed over, which stays connected for whoever has it now. */
  release(): void {
    this.#isClosed = true
    this.#fd = -1
    this.#socket.destroy()
  }

  /**
   * Sends what is written and ends the connection politely; what still comes is ignored. A server that does
   * not hang up within `timeout` ms is left.
   */
  end(timeout: number): void {
    const closed = this.#receiver?.closed
    this.#receiver = { ...IGNORE, closed: error => closed?.(error) }
    const socket = this.#socket
    socket.end()
    // Not the timeout of the socket, which starts anew with each byte that the server sends.
    const timer = setTimeout(() => socket.destroy(), timeout)
    timer.unref()
    socket.once('close', () => clearTimeout(timer))
  }

  /** Ends the connection at once; what was written and not sent is lost. The receiver hears of it before this returns. */
  destroy(error: Error): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#fd = -1
    this.#target = undefined
    const socket = this.#socket
    // A reset, so that a request which the kernel has not sent yet does not reach the server after its replay
    // has. While a socket is being shut down libuv refuses that, and Node would never close it.
    if (this.#tls === undefined && this.address.kind === 'tcp' && !socket.writableEnded)
      socket.resetAndDestroy()
    else socket.destroy()
    this.#receiver?.closed(error)
  }

  #nextBuffer(): Buffer {
    this.#target = this.#receiver?.target()
    if (this.#target !== undefined) return this.#target
    const most = this.#receiver?.most ?? 0
    return most < shared.length ? partOf(Math.max(most, 1)) : shared
  }

  #receivedByTls(bytes: Buffer): void {
    if (this.#isClosed) return
    try {
      this.#receiver?.receive(bytes, 0, bytes.length)
    } catch (error) {
      this.destroy(toError(error))
    }
  }

  #received(length: number, bytes: Uint8Array): boolean {
    if (this.#isClosed) return false
    try {
      if (bytes === this.#target) this.#receiver?.filled(length)
      else this.#receiver?.receive(shared, 0, length)
    } catch (error) {
      this.destroy(toError(error))
    }
    return true
  }
}
