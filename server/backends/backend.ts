/**
 * The interface between the server and whatever holds a disk's bytes. The built-in backends implement
 * exactly this, and so does a module of the user's own.
 */
import type { Passage } from '../linux/passage.ts'

/** Version of this interface that a backend must name in `apiVersion`. */
export const API_VERSION = 1

/**
 * Returned by an operation that finishes later by `completion.complete()`. It spares the promise that
 * an `async` operation costs; a module that does not count microseconds need not know it. It is in the
 * registry of symbols, so that a module from elsewhere need not import it.
 */
export const PENDING: unique symbol = Symbol.for('ondemand-disk.pending')

/** Handed to each operation. `complete` may be called once, and only after the operation returned `PENDING`. */
export interface Completion {
  /** Ends the operation: without an argument as done, with an error (its `code` decides the wire's errno) as failed. */
  complete(error?: unknown): void
}

/** What an operation returns: nothing when it is done, a promise, or `PENDING`. A thrown error or a rejection fails it. */
export type Outcome = void | Promise<void> | typeof PENDING

/** Part of a disk that is of one kind. `hole`: no storage is allocated. `zero`: reads as zeroes. */
export interface Extent {
  /** Bytes, at least 1. */
  readonly length: number
  readonly hole: boolean
  readonly zero: boolean
}

/** What is known when a client opens a disk. */
export interface OpenContext {
  /** The client will not be allowed to write. */
  readonly readOnly: boolean
  /** The client's address as people read it, for messages: `10.0.0.7`, `unix:4711`. */
  readonly client: string
  /** Bytes that the client asked for by `name:4G`; a backend that cannot make disks ignores it. */
  readonly requestedSize?: number
  /** Aborted when the client has gone or the server stops: waiting for it is pointless from then on. */
  readonly signal: AbortSignal
}

/** What `WRITE_ZEROES` asks for beside the range. */
export interface ZeroFlags {
  /** The range may become a hole (the wire's NO_HOLE is absent). */
  readonly mayPunch: boolean
  /** Fail with ENOTSUP at once, and change nothing, unless it is faster than writing zeroes. */
  readonly fast: boolean
}

/** Preferred transfer sizes in bytes, as `NBD_INFO_BLOCK_SIZE` has them: powers of two, minimum <= preferred <= maximum. */
export interface BlockSizes {
  readonly minimum: number
  readonly preferred: number
  readonly maximum: number
}

/**
 * A backend: functions over a handle that `open` makes, one handle a connection.
 * Offsets and lengths are bytes, are within the disk, and are numbers below 2^53. Errors carry a `code`
 * such as `ENOSPC`; anything else reaches the client as EIO.
 */
export interface Backend<Handle = unknown> {
  readonly apiVersion: number
  /** `pread` can use a passage, which takes an allocation to offer. Not for modules of the user's own. Default: it cannot. */
  readonly usesPassages?: boolean

  /** Opens, and makes if need be, the disk of this export name. */
  open(exportName: string, context: OpenContext): Handle | Promise<Handle>
  /** Size in bytes. Asked once a connection. */
  getSize(handle: Handle): number | Promise<number>
  /**
   * Size in bytes at this moment, for disks that may grow while they are open: asked when a client asks for what lies
   * behind the size that is known. Must return in microseconds. Default: the size stays.
   */
  sizeNow?(handle: Handle): number
  /**
   * Reads `length` bytes at `offset` into `target` from index `start`. The target is lent until the operation ends.
   * `passage`, only where `usesPassages`: another way for all of the data.
   */
  pread(
    handle: Handle,
    target: Buffer,
    start: number,
    length: number,
    offset: number,
    completion: Completion,
    passage?: Passage,
  ): Outcome

  /**
   * Reads what can be had without waiting, and returns how many bytes from the beginning of the range
   * that was, 0 to `length`; the rest is asked of `pread`. Must return in microseconds.
   */
  preadNow?(handle: Handle, target: Buffer, start: number, length: number, offset: number): number
  /** The same for writing: the bytes written from the beginning of the range; the rest is asked of `pwrite`. */
  pwriteNow?(handle: Handle, source: Buffer, start: number, length: number, offset: number): number

  /**
   * Writes `length` bytes of `source` from index `start` to `offset`. The source is lent until the operation
   * ends, and not to be changed. `fua`, here and below: durable before it ends; true only after `canFua`.
   */
  pwrite?(
    handle: Handle,
    source: Buffer,
    start: number,
    length: number,
    offset: number,
    completion: Completion,
    fua?: boolean,
  ): Outcome
  /** Makes all writes that ended before this call durable. */
  flush?(handle: Handle, completion: Completion): Outcome
  /** Says that the range is not needed; its contents become undefined. */
  trim?(handle: Handle, length: number, offset: number, completion: Completion, fua?: boolean): Outcome
  /** Makes the range read as zeroes. ENOTSUP: this range only by writing. */
  zero?(
    handle: Handle,
    length: number,
    offset: number,
    flags: ZeroFlags,
    completion: Completion,
    fua?: boolean,
  ): Outcome
  /** Brings the range into the cache. */
  cache?(handle: Handle, length: number, offset: number, completion: Completion): Outcome
  /** Kinds of the range's parts from `offset` on, at least one, at most `limit`; they may end before or after the range's end. */
  extents?(
    handle: Handle,
    length: number,
    offset: number,
    limit: number,
  ): readonly Extent[] | Promise<readonly Extent[]>

  /**
   * All operations that came together have been started. A backend that gathers what it has to send can send it now,
   * and end operations whose answer comes at once. Must return in microseconds. `isLone`: there is one operation, and no
   * other client has been active for some ms, so that a few hundred microseconds of waiting hold nobody up.
   */
  endBatch?(handle: Handle, isLone: boolean): void

  // What this handle can do, asked once after `open`. Without the callback of an operation it is never asked.
  /** May this handle be written? Default: there is a `pwrite`. */
  canWrite?(handle: Handle): boolean
  /** Default: there is a `flush`. */
  canFlush?(handle: Handle): boolean
  /** Do `pwrite`, `trim` and `zero` obey `fua`? Default: they do not, and a `flush` follows them. */
  canFua?(handle: Handle): boolean
  /** Default: there is a `trim`. */
  canTrim?(handle: Handle): boolean
  /** May `zero` be called? Default: there is one. Where it may not, zeroes are written. */
  canZero?(handle: Handle): boolean
  /** Does `zero` obey `fast`? Default: no. */
  canFastZero?(handle: Handle): boolean
  /** May `cache` be called? Default: there is one. Where it may not, clients' wishes are ignored. */
  canCache?(handle: Handle): boolean
  /** Do all connections to one name see one disk, of which a flush on any covers the writes of all? Default: no. */
  canMultiConn?(handle: Handle): boolean
  /** Is the disk one that seeks? Default: no. */
  isRotational?(handle: Handle): boolean
  /** Default: any size will do. */
  blockSizes?(handle: Handle): BlockSizes
  /** A sentence about the disk, for people. Default: none. */
  exportDescription?(handle: Handle): string | undefined

  /** Names that clients may ask for. Default: none are listed. */
  listExports?(): readonly Listed[] | Promise<readonly Listed[]>
  /** The name that the empty one stands for. Default: the empty one reaches `open` and `probe` itself. */
  defaultExport?(): string | Promise<string>
  /**
   * Size that the disk of this name has, or would have if it were made now, without making it; undefined
   * where only making it can tell.
   */
  probe?(
    exportName: string,
    requestedSize?: number,
  ): ProbeResult | undefined | Promise<ProbeResult | undefined>
  /** Ends the use of a handle; every operation on it has ended before. */
  close?(handle: Handle): void | Promise<void>
}

/** A name that clients may ask for, where there is one with a sentence about its disk, for people. */
export type Listed = string | { readonly name: string; readonly description: string }

export const nameOf = (listed: Listed): string => (typeof listed === 'string' ? listed : listed.name)

/** What `probe` can say of a disk that is not opened. */
export interface ProbeResult {
  readonly size: number
  /** What `exportDescription` would answer for the opened disk. */
  readonly description?: string | undefined
  /** What the callbacks of these names would answer for the opened disk, where they would not say yes. */
  readonly capabilities?: Partial<Capabilities>
}

/**
 * What a client may ask of an open disk, with all that the layer adds: what the transmission flags and the
 * block sizes of the handshake follow from.
 */
export interface Capabilities {
  readonly canWrite: boolean
  readonly canFlush: boolean
  readonly canFua: boolean
  /** `fua` costs less than a flush, and goes with the operation. Otherwise one flush may follow many. */
  readonly fuaIsNative: boolean
  readonly canTrim: boolean
  readonly canZero: boolean
  readonly canFastZero: boolean
  readonly canCache: boolean
  readonly canMultiConn: boolean
  readonly isRotational: boolean
  /** `minimum`: other offsets and lengths are refused. `maximum`: no more reaches the backend in one piece. */
  readonly blockSizes: BlockSizes
}

/** A backend in which nothing is left out: what the connection works with. */
export type FilledBackend<Handle = unknown> = Backend<Handle> &
  Required<
    Pick<
      Backend<Handle>,
      | 'preadNow'
      | 'pwriteNow'
      | 'pwrite'
      | 'flush'
      | 'trim'
      | 'zero'
      | 'cache'
      | 'endBatch'
      | 'extents'
      | 'probe'
      | 'close'
    >
  >

/**
 * What `fillIn` of layer.ts makes of a backend: nothing is left out, and all rules of this page are kept
 * whatever the backend does. Only offsets and lengths of `preadNow` and `pwriteNow` are the caller's to check,
 * and what they do not transfer must be asked of `pread` and `pwrite` next.
 */
export interface LayeredBackend extends FilledBackend {
  open(exportName: string, context: OpenContext): Promise<unknown>
  getSize(handle: unknown): number
  /** Asks whether the disk has grown, and returns its size, which `getSize` tells from then on. It never shrinks. */
  renewSize(handle: unknown): number
  capabilities(handle: unknown): Capabilities
  description(handle: unknown): string | undefined
  /** Undefined: only opening can tell. */
  probe(exportName: string, requestedSize?: number, readOnly?: boolean): Promise<Probed | undefined>
  listExports(): Promise<readonly Listed[]>
  defaultExport(): Promise<string>
  /**
   * The client takes no more replies. Operations that are still under way after a while fail with an
   * AbandonedError; memory that was lent to one of these must never be used again.
   */
  leave(handle: unknown): void
  /** @throws UnfinishedError: the backend is still at work on the disk, and `settled` tells when it is not. */
  close(handle: unknown): Promise<void>
}

/** What is known of a disk that is not opened. */
export interface Probed {
  readonly size: number
  readonly capabilities: Capabilities
  /** A sentence about it, for people. */
  readonly description?: string | undefined
}
