/** An NBD client: one export, by promises or, for callers that count allocations, by completions. */
import { toError } from '../linux/errno.ts'
import type { Passage } from '../linux/passage.ts'
import { CMD, CMD_FLAG } from '../protocol/constants.ts'
import { ClosedError, InvalidRequestError } from './errors.ts'
import type { BlockSizes, ExportFlags, ExportInfo } from './export-info.ts'
import { clipExtents, type Extent } from './extents.ts'
import { type Link, openLink } from './link.ts'
import { type Completion, type Operation, OperationPool } from './operation.ts'
import { type ConnectOptions, limitsOf } from './options.ts'
import { promised } from './promised.ts'
import { checkAlignment, checkBuffer, checkRange, needAbility, needWritable } from './request-checks.ts'
import { sendInParts } from './split.ts'
import { type Issue, unaligned } from './unaligned.ts'
import { type NbdUri, parseNbdUri } from './uri.ts'

export type { Extent } from './extents.ts'
export type { Completion } from './operation.ts'
export type { ConnectOptions } from './options.ts'

/** Options of operations that change the export. */
export interface WriteOptions {
  /** Durable before the operation ends (FUA). */
  readonly fua?: boolean
}

export interface ZeroOptions extends WriteOptions {
  /** The range may become a hole. */
  readonly mayPunch?: boolean
  /** Fail with ENOTSUP at once unless it is faster than writing zeroes. */
  readonly fast?: boolean
}

const NO_BYTES = Buffer.alloc(0)
/** Longest TRIM or WRITE_ZEROES that is sent at once, in bytes: a server may take its time for more. */
const MAX_RANGE = 2 ** 30
/** Longest BLOCK_STATUS that compact headers can say, in bytes: whole blocks of any size. */
const MAX_COMPACT_STATUS = 2 ** 32 - 65_536

/**
 * An open export. Offsets and lengths are bytes. Each operation exists twice: `pread` returns a promise;
 * `startPread` throws where it cannot begin, and otherwise tells `completion` later, once, without
 * allocating. Buffers are lent to the client until the operation ends.
 *
 * Errors have a `code`: that of the server's answer (RequestError), EINVAL, EROFS, ENOTSUP, ENOSPC for what
 * cannot be sent (InvalidRequestError), that of the connection where it is lost (ConnectionError).
 */
export class NbdClient {
  readonly #link: Link
  readonly #pool: OperationPool
  readonly #emulate: Issue | undefined
  /** Longest READ or WRITE that is sent as one request. */
  readonly #most: number
  readonly #stopListening: () => void
  #closing: Promise<void> | undefined
  /** Operations of several requests that are not over; `close` lets them go on. */
  #composites = 0
  readonly #compositesOver = Promise.withResolvers<void>()

  /** For `connect` and `connectReconnecting`. */
  constructor(link: Link, pool: OperationPool, options: ConnectOptions) {
    this.#link = link
    this.#pool = pool
    const { minimum, maximum } = link.info.blockSizes
    const part = Math.min(options.partSize ?? maximum, maximum)
    this.#most = Math.max(minimum, part - (part % minimum))
    if (options.unaligned === 'read-modify-write' && minimum > 1) {
      const issue: Issue = (command, flags, buffer, start, length, offset) =>
        promised(completion => this.#issue(command, flags, buffer, start, length, offset, completion))
      this.#emulate = unaligned(issue, minimum)
    }
    const abort = () => this.destroy(toError(options.signal?.reason))
    options.signal?.addEventListener('abort', abort)
    this.#stopListening = () => options.signal?.removeEventListener('abort', abort)
    if (options.signal?.aborted) abort()
  }

  get info(): ExportInfo {
    return this.#link.info
  }

  /** Bytes. */
  get size(): number {
    return this.#link.info.size
  }

  get flags(): ExportFlags {
    return this.#link.info.flags
  }

  get blockSizes(): BlockSizes {
    return this.#link.info.blockSizes
  }

  get description(): string | undefined {
    return this.#link.info.description
  }

  get canonicalName(): string | undefined {
    return this.#link.info.canonicalName
  }

  /** Reads `length` bytes at `offset` into `target` from index `start`. */
  pread(target: Buffer, start: number, length: number, offset: number): Promise<void> {
    return promised(completion => this.startPread(target, start, length, offset, completion))
  }

  /** `passage`: where the data may be when the operation ends, all of it, in place of the target. */
  startPread(
    target: Buffer,
    start: number,
    length: number,
    offset: number,
    completion: Completion,
    passage?: Passage,
  ): void {
    checkBuffer(target, start, length)
    this.#start(CMD.READ, 0, target, start, length, offset, completion, passage)
  }

  /** Writes `length` bytes of `source` from index `start` to `offset`. */
  pwrite(
    source: Buffer,
    start: number,
    length: number,
    offset: number,
    options: WriteOptions = {},
  ): Promise<void> {
    return promised(completion =>
      this.startPwrite(source, start, length, offset, options.fua === true, completion),
    )
  }

  startPwrite(
    source: Buffer,
    start: number,
    length: number,
    offset: number,
    fua: boolean,
    completion: Completion,
  ): void {
    checkBuffer(source, start, length)
    needWritable(this.info)
    this.#start(CMD.WRITE, this.#fua(fua), source, start, length, offset, completion)
  }

  /** Makes everything durable that was acknowledged before this call. */
  flush(): Promise<void> {
    return promised(completion => this.startFlush(completion))
  }

  startFlush(completion: Completion): void {
    this.#checkOpen()
    needAbility(this.flags.canFlush, 'FLUSH')
    this.#send(CMD.FLUSH, 0, NO_BYTES, 0, 0, 0, completion)
  }

  /** Says that the range is not needed; its contents become undefined. */
  trim(length: number, offset: number, options: WriteOptions = {}): Promise<void> {
    return promised(completion => this.startTrim(length, offset, options.fua === true, completion))
  }

  startTrim(length: number, offset: number, fua: boolean, completion: Completion): void {
    needWritable(this.info)
    needAbility(this.flags.canTrim, 'TRIM')
    this.#start(CMD.TRIM, this.#fua(fua), NO_BYTES, 0, length, offset, completion)
  }

  /** Makes the range read as zeroes. */
  zero(length: number, offset: number, options: ZeroOptions = {}): Promise<void> {
    return promised(completion => this.startZero(length, offset, options, completion))
  }

  startZero(length: number, offset: number, options: ZeroOptions, completion: Completion): void {
    needWritable(this.info)
    needAbility(this.flags.canZero, 'WRITE_ZEROES')
    if (options.fast) needAbility(this.flags.canFastZero, 'fast WRITE_ZEROES')
    const flags =
      this.#fua(options.fua === true) |
      (options.mayPunch ? 0 : CMD_FLAG.NO_HOLE) |
      (options.fast ? CMD_FLAG.FAST_ZERO : 0)
    this.#start(CMD.WRITE_ZEROES, flags, NO_BYTES, 0, length, offset, completion)
  }

  /** Brings the range into the server's cache. */
  cache(length: number, offset: number): Promise<void> {
    return promised(completion => this.startCache(length, offset, completion))
  }

  startCache(length: number, offset: number, completion: Completion): void {
    needAbility(this.flags.canCache, 'CACHE')
    this.#start(CMD.CACHE, 0, NO_BYTES, 0, length, offset, completion)
  }

  /**
   * Kinds of the range's parts from `offset` on: at least one, at most `limit`. They may end before the
   * range does, or behind it, but not behind the export.
   */
  async extents(length: number, offset: number, limit: number = 2 ** 16): Promise<readonly Extent[]> {
    this.#checkOpen()
    needAbility(this.flags.canExtents, 'BLOCK_STATUS')
    checkRange(this.info, CMD.BLOCK_STATUS, length, offset)
    if (length < 1 || !(limit >= 1)) {
      throw new InvalidRequestError(
        'EINVAL',
        'Extents can be asked for a range of 1 byte or more, and 1 extent or more.',
      )
    }
    const { minimum } = this.blockSizes
    if (this.#emulate === undefined) checkAlignment(this.blockSizes, length, offset)
    const skipped = offset % minimum
    const whole = Math.ceil((length + skipped) / minimum) * minimum
    const asked = this.info.extendedHeaders ? whole : Math.min(whole, MAX_COMPACT_STATUS)
    const extents: Extent[] = []
    await promised(completion => {
      const operation = this.#pool.take()
      operation.extents = extents
      operation.limit = limit
      const flags = limit === 1 ? CMD_FLAG.REQ_ONE : 0
      this.#submit(operation, CMD.BLOCK_STATUS, flags, NO_BYTES, 0, asked, offset - skipped, completion)
    })
    return clipExtents(extents, skipped, this.size - offset)
  }

  /**
   * Opens the export anew, where the client outlives its connection: its size is then what the server says now.
   * What was started goes on.
   */
  renew(): void {
    this.#checkOpen()
    this.#link.renew?.()
  }

  /**
   * Says that all operations which came together have been started. They are sent then at the latest, and one that is
   * alone may end before this returns, which takes some microseconds.
   */
  endBatch(): void {
    this.#link.endBatch()
  }

  /** Waits for what was started, says goodbye to the server, and closes. Nothing can be started any more. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    if (this.#composites > 0) await this.#compositesOver.promise
    await this.#link.close()
    this.#stopListening()
  }

  #checkOpen(): void {
    if (this.#closing !== undefined) throw new ClosedError()
  }

  /** An operation of several requests begins; tell what is returned when it is over. */
  #beginComposite(completion: Completion): Completion {
    this.#composites++
    return {
      complete: error => {
        this.#composites--
        if (this.#composites === 0 && this.#closing !== undefined) this.#compositesOver.resolve()
        if (error === undefined) completion.complete()
        else completion.complete(error)
      },
    }
  }

  /** Closes at once: what was started and is not over fails with `error`. */
  destroy(error: Error = new ClosedError()): void {
    this.#stopListening()
    this.#link.destroy(error)
  }

  #fua(wanted: boolean): number {
    if (!wanted) return 0
    needAbility(this.flags.canFua, 'FUA')
    return CMD_FLAG.FUA
  }

  #start(
    command: number,
    flags: number,
    buffer: Buffer,
    start: number,
    length: number,
    offset: number,
    completion: Completion,
    passage?: Passage,
  ): void {
    this.#checkOpen()
    checkRange(this.info, command, length, offset)
    if (this.#emulate === undefined) {
      checkAlignment(this.blockSizes, length, offset)
      this.#issue(command, flags, buffer, start, length, offset, completion, passage)
      return
    }
    const composite = this.#beginComposite(completion)
    this.#emulate(command, flags, buffer, start, length, offset).then(
      () => composite.complete(),
      error => composite.complete(error),
    )
  }

  #issue(
    command: number,
    flags: number,
    buffer: Buffer,
    start: number,
    length: number,
    offset: number,
    completion: Completion,
    passage?: Passage,
  ): void {
    const isRange = command === CMD.TRIM || command === CMD.WRITE_ZEROES
    const most = isRange ? MAX_RANGE : this.#most
    if (length === 0) {
      // What a server does with no bytes is not specified.
      process.nextTick(() => completion.complete())
    } else if (length <= most) {
      this.#send(command, flags, buffer, start, length, offset, completion, passage)
    } else {
      const send = (at: number, part: number, ended: Completion) =>
        this.#send(command, flags, buffer, start + at, part, offset + at, ended)
      const isFast = (flags & CMD_FLAG.FAST_ZERO) !== 0
      const composite = this.#beginComposite(completion)
      try {
        sendInParts(length, most, send, composite, isFast ? 1 : undefined)
      } catch (error) {
        this.#composites--
        throw error
      }
    }
  }

  #send(
    command: number,
    flags: number,
    buffer: Buffer,
    start: number,
    length: number,
    offset: number,
    completion: Completion,
    passage?: Passage,
  ): void {
    const operation = this.#pool.take()
    operation.passage = passage
    this.#submit(operation, command, flags, buffer, start, length, offset, completion)
  }

  #submit(
    operation: Operation,
    command: number,
    flags: number,
    buffer: Buffer,
    start: number,
    length: number,
    offset: number,
    completion: Completion,
  ): void {
    operation.command = command
    operation.flags = flags
    operation.buffer = buffer
    operation.start = start
    operation.length = length
    operation.offset = offset
    operation.completion = completion
    try {
      this.#link.submit(operation)
    } catch (error) {
      this.#pool.giveBack(operation)
      throw error
    }
  }
}

/**
 * Opens an export. If the connection breaks, what is not answered fails, and the client is of no more use;
 * see `connectReconnecting` for one that goes on.
 * @throws UriError, ConnectionError, TlsError, RefusedError, BrokenServerError, InvalidRequestError for options;
 * the reason of `options.signal`
 */
export async function connect(uri: string | NbdUri, options: ConnectOptions = {}): Promise<NbdClient> {
  const limits = limitsOf(options)
  const pool = new OperationPool(2 * limits.maxInFlight)
  const parsed = typeof uri === 'string' ? parseNbdUri(uri) : uri
  return new NbdClient(await openLink(parsed, limits, pool, options.signal), pool, options)
}
