/**
 * The device served by the event loop, for disks whose operations end later: requests are read as they come,
 * many are under way at once, and each reply goes out when its operation ends.
 */
import { closeSync } from 'node:fs'
import { Socket } from 'node:net'
import { ERRNO } from '../linux/errno.ts'
import { readInto, replaceDescriptor, socketPair } from '../linux/mount.ts'
import { lastErrno } from '../linux/syscalls.ts'
import { sendReply } from './device.ts'
import { PENDING } from './disk.ts'
import { Exchange } from './exchange.ts'
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

/** Errors of a read that mean the end of the connection; ENOENT is a request that its end overtook. */
const ENDS: readonly (string | undefined)[] = ['ENODEV', 'ECONNABORTED', 'ENOENT']

class EventLoopDevice implements EventDevice {
  readonly ended: Promise<void>
  readonly #session: Session
  readonly #device: number
  readonly #socket: Socket
  readonly #resolve: () => void
  readonly #reject: (error: unknown) => void
  readonly #free: Exchange[] = []
  #made = 0
  /** What the next request is read into; without it nothing is read. */
  #next: Exchange | undefined
  #isPaused = false
  #isOver = false

  /**
   * Node watches sockets only, so it is given a socket whose descriptor then becomes the device: libuv reads
   * that with read(2) like any stream, and no thread waits for it.
   */
  constructor(fd: number, session: Session) {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.ended = promise
    this.#resolve = resolve
    this.#reject = reject
    this.#session = session
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
    if (exchange !== undefined || this.#made === MAX_EXCHANGES) return exchange
    this.#made++
    return new Exchange((ended, result) => this.#finished(ended, result))
  }

  #received(length: number): boolean {
    try {
      this.#handle(length)
      this.#drain()
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
    if (length === PENDING) return
    if (length !== NO_REPLY && !this.#isOver) sendReply(this.#device, exchange, length)
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

  #resume(): void {
    if (this.#isOver) return
    try {
      this.#drain()
    } catch (error) {
      this.#end(error)
    }
    if (!this.#isPaused) this.#socket.resume()
  }

  /** Takes all requests that are there. */
  #drain(): void {
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

/** Serves the device, which must be open without blocking, and takes it over. Begins in the next turn of the loop. */
export function serveEvents(fd: number, session: Session): EventDevice {
  return new EventLoopDevice(fd, session)
}
