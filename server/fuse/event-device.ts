/**
 * The device served by the event loop, for disks whose operations end later: requests are read as they come,
 * many are under way at once, and each reply goes out when its operation ends.
 */
import { closeSync, readFileSync } from 'node:fs'
import { Socket } from 'node:net'
import { ERRNO } from '../linux/errno.ts'
import { LINGER_TURN_MS, Lingering } from '../linux/lingering.ts'
import { readInto, replaceDescriptor, socketPair } from '../linux/mount.ts'
import { lastErrno, yieldProcessor } from '../linux/syscalls.ts'
import { sendReply } from './device.ts'
import { PENDING } from './disk.ts'
import { Exchange, FOR_SOCKETS } from './exchange.ts'
import { encodeHeader, IN, INTERRUPT_IN } from './protocol.ts'
import { NO_REPLY, type Session } from './session.ts'

/** Requests that are under way at once; the kernel keeps the others. */
const MAX_EXCHANGES = 128

/** A device that is being served. */
export interface EventDevice {
  /** Resolves when the file is unmounted; rejects when the kernel breaks the protocol. */
  readonly ended: Promise<void>
  /** Ends the service: what waits is told so by the kernel. */
  close(): void
}

/** How often a process that has got a signal while it waits is looked at again, in ms. */
const INTERRUPT_MS = 500

/** Has SIGKILL been sent to this thread, or is it gone? Other signals must not end a read or a write of a file. */
function isKilled(pid: number): boolean {
  try {
    const masks = readFileSync(`/proc/${pid}/status`, 'latin1').matchAll(/^S(?:ig|hd)Pnd:\s*([0-9a-f]+)$/gm)
    return [...masks].some(([, mask]) => (Number.parseInt(mask?.slice(-4) ?? '', 16) & (1 << (9 - 1))) !== 0)
  } catch {
    return pid !== 0
  }
}

/** Errors of a read that mean the end of the connection; ENOENT is a request that its end overtook. */
const ENDS: readonly (string | undefined)[] = ['ENODEV', 'ECONNABORTED', 'ENOENT']

class EventLoopDevice implements EventDevice {
  readonly ended: Promise<void>
  readonly #session: Session
  readonly #device: number
  readonly #socket: Socket
  readonly #endBatch: () => void
  readonly #resolve: () => void
  readonly #reject: (error: unknown) => void
  readonly #all: Exchange[] = []
  readonly #free: Exchange[] = []
  readonly #lingering = new Lingering({ last: undefined })
  /** What the next request is read into; without it nothing is read. */
  #next: Exchange | undefined
  #isPaused = false
  #isOver = false

  /**
   * Node watches sockets only, so it is given a socket whose descriptor then becomes the device: libuv reads
   * that with read(2) like any stream, and no thread waits for it.
   */
  constructor(fd: number, sessionOf: (interrupt: Interrupt) => Session, endBatch: () => void) {
    this.#endBatch = endBatch
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.ended = promise
    this.#resolve = resolve
    this.#reject = reject
    this.#session = sessionOf(exchange => this.#interrupt(exchange))
    const [device, peer] = socketPair()
    this.#device = device
    this.#next = this.#take()
    this.#socket = new Socket({
      fd: device,
      readable: true,
      writable: false,
      onread: {
        buffer: () => (this.#next as Exchange).input,
        callback: length => this.#received(length),
      },
    })
    replaceDescriptor(fd, device)
    closeSync(fd)
    closeSync(peer)
    this.#socket.on('error', (error: NodeJS.ErrnoException) => {
      this.#end(ENDS.includes(error.code) ? undefined : error)
    })
    this.#socket.on('close', () => this.#end())
  }

  close(): void {
    this.#end()
  }

  #end(error?: unknown): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#socket.destroy()
    if (error === undefined) this.#resolve()
    else this.#reject(error)
  }

  #take(): Exchange | undefined {
    const exchange = this.#free.pop()
    if (exchange !== undefined || this.#all.length === MAX_EXCHANGES) return exchange
    const made = new Exchange((ended, result) => this.#finished(ended, result), FOR_SOCKETS)
    this.#all.push(made)
    return made
  }

  #received(arrived: number): boolean {
    const end = performance.now() + LINGER_TURN_MS
    try {
      let length = arrived
      do {
        this.#handle(length)
        this.#drain()
        length = this.#linger(end)
      } while (length >= 0)
    } catch (error) {
      this.#end(error)
    }
    return true
  }

  #handle(length: number): void {
    const exchange = this.#next as Exchange
    this.#next = undefined
    this.#reply(exchange, this.#session.handle(exchange, length))
  }

  #reply(exchange: Exchange, length: number): void {
    exchange.isPending = length === PENDING
    if (exchange.isPending) return
    if (length !== NO_REPLY && !this.#isOver && !exchange.isAbandoned)
      sendReply(this.#device, exchange, length)
    exchange.isAbandoned = false
    this.#free.push(exchange)
  }

  #finished(exchange: Exchange, result: number): void {
    try {
      this.#reply(exchange, this.#session.finish(exchange, result))
    } catch (error) {
      this.#end(error)
    }
    if (!this.#isPaused) return
    this.#isPaused = false
    // Not from within: whoever ends an operation does not expect that the next begins.
    setImmediate(() => this.#resume())
  }

  /**
   * The process of a request that waits has got a signal. If that is SIGKILL, the process shall not wait for a
   * server that may never come back. The kernel tells of the first signal only, so it is asked to tell again.
   */
  #interrupt({ request: interrupt, reply }: Exchange): number {
    const [low = 0, high] = interrupt.subarray(INTERRUPT_IN.UNIQUE)
    const waiting = this.#all.find(
      ({ isPending, isAbandoned, request }) =>
        isPending && !isAbandoned && request[IN.UNIQUE] === low && request[IN.UNIQUE + 1] === high,
    )
    if (waiting === undefined) return NO_REPLY
    if (isKilled(waiting.request[IN.PID] ?? 0)) {
      waiting.isAbandoned = true
      sendReply(this.#device, waiting, encodeHeader(waiting.reply, waiting.request, -ERRNO.EINTR, 0))
      return NO_REPLY
    }
    const again = new Uint32Array(reply.subarray(0, encodeHeader(reply, interrupt, -ERRNO.EAGAIN, 0) / 4))
    setTimeout(() => this.#tellAgain(again), INTERRUPT_MS).unref()
    return NO_REPLY
  }

  #tellAgain(message: Uint32Array<ArrayBuffer>): void {
    if (this.#isOver) return
    const exchange = this.#take()
    if (exchange === undefined) return
    exchange.reply.set(message)
    try {
      sendReply(this.#device, exchange, message.byteLength)
    } catch (error) {
      this.#end(error)
    }
    this.#free.push(exchange)
  }

  #resume(): void {
    if (this.#isOver) return
    try {
      this.#drain()
    } catch (error) {
      this.#end(error)
    }
    if (!this.#isPaused) this.#socket.resume()
  }

  /** Nothing is under way: all have been answered. */
  get #isIdle(): boolean {
    return this.#free.length === this.#all.length - (this.#next === undefined ? 0 : 1)
  }

  /** Looks for the next request of a program that makes one at a time; returns its length, or -1. */
  #linger(end: number): number {
    if (this.#isOver || this.#next === undefined || !this.#isIdle) return -1
    const { inputAddress, input } = this.#next
    const until = Math.min(this.#lingering.until(), end)
    if (until === 0) return -1
    for (;;) {
      const length = readInto(this.#device, inputAddress, input.length)
      if (length >= 0) {
        this.#lingering.answered()
        return length
      }
      // The socket meets any other error by itself.
      if (lastErrno() !== ERRNO.EAGAIN && lastErrno() !== ERRNO.EINTR) return -1
      if (performance.now() >= until) return -1
      // The program that was answered may need it to ask again.
      yieldProcessor()
    }
  }

  /** Takes all requests that are there. */
  #drain(): void {
    this.#takeAll()
    if (!this.#isOver) this.#endBatch()
  }

  #takeAll(): void {
    while (!this.#isOver) {
      this.#next ??= this.#take()
      if (this.#next === undefined) {
        this.#isPaused = true
        this.#socket.pause()
        return
      }
      const { inputAddress, input } = this.#next
      const length = readInto(this.#device, inputAddress, input.length)
      if (length >= 0) this.#handle(length)
      // The socket meets any other error by itself.
      else if (lastErrno() !== ERRNO.EINTR) return
    }
  }
}

/** Told of an INTERRUPT, which stands in the exchange; returns the bytes of a reply, or `NO_REPLY`. */
export type Interrupt = (exchange: Exchange) => number

/**
 * Serves the device, which must be open without blocking, and takes it over. Begins in the next turn of the loop.
 * `endBatch` is called when all requests that came together have been handed over.
 */
export function serveEvents(
  fd: number,
  sessionOf: (interrupt: Interrupt) => Session,
  endBatch: () => void,
): EventDevice {
  return new EventLoopDevice(fd, sessionOf, endBatch)
}
