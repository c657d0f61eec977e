/**
 * A client that outlives its connection. When that breaks, requests wait while a new one is made, and what
 * was not answered is sent again; every NBD command may be sent twice.
 *
 * What is promised:
 * - A request ends within `retryMs` of its first loss, plus the time that the server takes to answer it, or
 *   fails. Nothing waits for ever.
 * - What FLUSH or FUA acknowledged before a loss is never lost.
 * - Nothing acknowledged is lost by a server process that died while its host lived: what it had written is
 *   in the host's page cache, and the next FLUSH, by whatever process, makes it durable.
 * - If the host itself went down, writes that were acknowledged and not flushed may be gone, as with a local
 *   disk. Over the wire the two cannot be told apart. With `strictFlush` the first FLUSH after such a loss
 *   fails (EIO), so that no FLUSH ever covers what may be gone.
 * - If the export is less than it was (size, read-only, abilities, block sizes), everything fails (ESTALE)
 *   from then on. One that has grown has its new size.
 *
 * What is not: a server that goes on with the requests of a broken connection after it has accepted the
 * next one may carry out an old write after a newer one. Servers that lock a disk for its writer do not.
 */
import { performance } from 'node:perf_hooks'
import { setTimeout as delay } from 'node:timers/promises'
import { toError } from '../linux/errno.ts'
import { CMD, CMD_FLAG, NBD_ERRNO } from '../protocol/constants.ts'
import { NbdClient } from './client.ts'
import { type Connection, type ConnectionLimits, openConnection } from './connection.ts'
import {
  BrokenServerError,
  ClosedError,
  ConnectionError,
  ExportChangedError,
  InvalidRequestError,
  RequestError,
} from './errors.ts'
import { type ExportInfo, lossBetween } from './export-info.ts'
import { answerOf, type Link } from './link.ts'
import { type Operation, OperationPool } from './operation.ts'
import { boundedOption, type ConnectOptions, limitsOf } from './options.ts'
import { type NbdUri, parseNbdUri } from './uri.ts'

/** Options of `connectReconnecting`. */
export interface ReconnectOptions extends ConnectOptions {
  /** How long requests wait for a lost server, in ms. Default 30,000. It is looked for also after that. */
  readonly retryMs?: number
  /** Fail the first FLUSH after writes that were acknowledged may have gone with the server's host. Default false. */
  readonly strictFlush?: boolean
  /** Why a new connection cannot be had: is that for ever? Then everything fails by it. Default: it never is. */
  readonly isFinal?: (error: Error) => boolean
  /** Told when the connection is lost, with the reason. */
  readonly onLost?: (error: Error) => void
  /** Told when it is there again, after so many ms. */
  readonly onReconnected?: (afterMs: number) => void
}

const FIRST_DELAY = 50
const LONGEST_DELAY = 2000

/** Pause before the attempt of this number (from 0), in ms: doubled each time, and blurred by half of it. */
export function backoff(attempt: number, random: number): number {
  const full = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** Math.min(attempt, 16))
  return full * (0.5 + random / 2)
}

const changesData = (command: number): boolean =>
  command === CMD.WRITE || command === CMD.WRITE_ZEROES || command === CMD.TRIM

class ReconnectingLink implements Link {
  readonly #uri: NbdUri
  readonly #limits: ConnectionLimits
  readonly #pool: OperationPool
  readonly #options: ReconnectOptions
  readonly #retryMs: number
  readonly #abort = new AbortController()
  readonly #closed = Promise.withResolvers<void>()
  #info: ExportInfo | undefined
  #connection: Connection | undefined
  /** Operations that no connection has. */
  #waiting: Operation[] = []
  /** Since when there is no connection, in ms of `performance.now()`, and the end of patience with that. */
  #lostAt = 0
  #patience: NodeJS.Timeout | undefined
  #outOfPatience: Error | undefined
  /** Why the last attempt, or the connection before it, failed. */
  #lastFailure: Error | undefined
  /** Attempts since an operation was answered. */
  #attempts = 0
  #isClosing = false
  /** Why the link is of no more use. */
  #end: Error | undefined
  /** Writes acknowledged, and how many of them a FLUSH has covered. */
  #acknowledged = 0
  #flushed = 0
  #mayHaveLost = false

  constructor(uri: NbdUri, limits: ConnectionLimits, pool: OperationPool, options: ReconnectOptions) {
    this.#uri = uri
    this.#limits = limits
    this.#pool = pool
    this.#options = options
    this.#retryMs = boundedOption('retryMs', options.retryMs, 30_000, 2 ** 31 - 1)
  }

  /** The first connection, which is not tried twice. */
  async open(): Promise<void> {
    const connection = await this.#connect(this.#limits, this.#options.signal)
    this.#info = connection.info
    this.#connection = connection
  }

  get info(): ExportInfo {
    if (this.#info === undefined) throw new Error('The link is not open yet.')
    return this.#info
  }

  async #connect(limits: ConnectionLimits, signal: AbortSignal | undefined): Promise<Connection> {
    const connection: Connection = await openConnection(
      this.#uri,
      limits,
      {
        finished: operation => this.#finished(operation),
        lost: (operations, error) => {
          if (this.#connection === connection) this.#lost(operations, error)
        },
      },
      signal,
    )
    return connection
  }

  submit(operation: Operation): void {
    if (this.#end !== undefined) throw this.#end
    if (this.#isClosing) throw new ClosedError()
    operation.covers = this.#acknowledged
    if (this.#connection !== undefined) {
      this.#connection.submit(operation)
      return
    }
    if (this.#outOfPatience !== undefined) throw this.#outOfPatience
    if (this.#waiting.length >= this.#limits.maxWaiting) {
      throw new InvalidRequestError(
        'EAGAIN',
        `More than ${this.#limits.maxWaiting} requests wait to be sent.`,
      )
    }
    this.#waiting.push(operation)
  }

  endBatch(): void {
    this.#connection?.endBatch()
  }

  #finished(operation: Operation): void {
    if (operation.errno === NBD_ERRNO.ESHUTDOWN) {
      // It was not carried out; the connection is about to end, and the operation goes to the next.
      this.#keep(operation, answerOf(operation))
      return
    }
    this.#attempts = 0
    const error = answerOf(operation) ?? this.#noteDurability(operation)
    this.#pool.settle(operation, error)
  }

  /** Follows what is acknowledged and what is durable. Returns the error for a FLUSH that may not be believed. */
  #noteDurability(operation: Operation): Error | undefined {
    if (changesData(operation.command) && (operation.flags & CMD_FLAG.FUA) === 0) this.#acknowledged++
    if (operation.command !== CMD.FLUSH) return undefined
    this.#flushed = Math.max(this.#flushed, operation.covers)
    if (!this.#mayHaveLost) return undefined
    this.#mayHaveLost = false
    if (this.#options.strictFlush !== true) return undefined
    return new RequestError(
      'EIO',
      'The connection to the NBD server was lost before a flush; if its host went down, acknowledged writes are gone.',
    )
  }

  /** Keeps an operation for the next connection, unless it has waited long enough. */
  #keep(operation: Operation, error: Error | undefined): void {
    const now = performance.now()
    if (operation.lostAt === 0) operation.lostAt = now
    if (now - operation.lostAt < this.#retryMs) this.#waiting.push(operation)
    else this.#pool.settle(operation, this.#patienceError(error))
  }

  #patienceError(cause: Error | undefined): Error {
    const seconds = this.#retryMs / 1000
    return new ConnectionError(
      'ETIMEDOUT',
      `The NBD server could not be reached again within ${seconds} s.`,
      { cause },
    )
  }

  #lost(operations: Operation[], error: Error): void {
    this.#connection = undefined
    if (this.#acknowledged > this.#flushed) this.#mayHaveLost = true
    // It would break the protocol again when it is asked again.
    if (this.#end === undefined && error instanceof BrokenServerError) this.#end = error
    if (this.#end !== undefined) {
      this.#finish(this.#end, operations)
      return
    }
    for (const operation of operations) this.#keep(operation, error)
    if (this.#isClosing && this.#waiting.length === 0) {
      this.#finish(new ClosedError(), [])
      return
    }
    this.#lostAt = performance.now()
    this.#lastFailure = error
    this.#patience = setTimeout(() => this.#losePatience(), this.#retryMs)
    this.#options.onLost?.(error)
    void this.#reconnect()
  }

  /** Fails what waits, and what will come until there is a connection. */
  #losePatience(): void {
    const error = this.#patienceError(this.#lastFailure)
    this.#outOfPatience = error
    for (const operation of this.#takeWaiting()) this.#pool.settle(operation, error)
    if (this.#isClosing) this.#finish(new ClosedError(), [])
  }

  /** Tries until there is a connection or the link ends. */
  async #reconnect(): Promise<void> {
    while (this.#end === undefined) {
      const connection = await this.#attempt()
      if (connection === undefined) continue
      if (this.#end === undefined) this.#resume(connection)
      else connection.destroy(this.#end)
      return
    }
  }

  async #attempt(): Promise<Connection | undefined> {
    const { signal } = this.#abort
    try {
      const ms = backoff(this.#attempts++, Math.random())
      // While somebody waits, the process must not end.
      await delay(ms, undefined, { signal, ref: this.#outOfPatience === undefined })
      // The disk is there: a server that does not open it soon is better asked anew.
      return await this.#connect({ ...this.#limits, openTimeout: this.#limits.handshakeTimeout }, signal)
    } catch (error) {
      // The next attempt may do better. If none does in time, this is what is told.
      const failure = toError(error)
      this.#lastFailure = failure
      if (this.#end === undefined && this.#options.isFinal?.(failure)) this.#finish(failure, [])
      return undefined
    }
  }

  #resume(connection: Connection): void {
    const loss = lossBetween(this.info, connection.info)
    if (loss !== undefined) {
      void connection.close()
      this.#finish(new ExportChangedError(`The export changed while the NBD server was away: ${loss}.`), [])
      return
    }
    clearTimeout(this.#patience)
    this.#outOfPatience = undefined
    this.#info = { ...this.info, size: connection.info.size }
    this.#connection = connection
    for (const operation of this.#takeWaiting()) {
      try {
        connection.submit(operation)
      } catch (error) {
        this.#pool.settle(operation, toError(error))
      }
    }
    this.#options.onReconnected?.(performance.now() - this.#lostAt)
    if (this.#isClosing) void connection.close()
  }

  #takeWaiting(): Operation[] {
    const waiting = this.#waiting
    this.#waiting = []
    return waiting
  }

  renew(): void {
    this.#connection?.retire()
  }

  close(): Promise<void> {
    this.#isClosing = true
    if (this.#connection !== undefined) void this.#connection.close()
    else if (this.#waiting.length === 0) this.#finish(new ClosedError(), [])
    return this.#closed.promise
  }

  destroy(error: Error): void {
    if (this.#end !== undefined) return
    this.#end = error
    if (this.#connection !== undefined) this.#connection.destroy(error)
    else this.#finish(error, [])
  }

  /** The link is over: fails everything. */
  #finish(error: Error, operations: readonly Operation[]): void {
    this.#end ??= error
    clearTimeout(this.#patience)
    this.#abort.abort(error)
    for (const operation of [...operations, ...this.#takeWaiting()]) this.#pool.settle(operation, this.#end)
    this.#closed.resolve()
  }
}

/**
 * Opens an export, and opens it again whenever the connection is lost: see the top of this file. The first
 * connection is tried once.
 * @throws what `connect` throws
 */
export async function connectReconnecting(
  uri: string | NbdUri,
  options: ReconnectOptions = {},
): Promise<NbdClient> {
  const limits = limitsOf(options)
  const pool = new OperationPool(2 * limits.maxInFlight)
  const parsed = typeof uri === 'string' ? parseNbdUri(uri) : uri
  const link = new ReconnectingLink(parsed, limits, pool, options)
  await link.open()
  return new NbdClient(link, pool, options)
}
