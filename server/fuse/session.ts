/**
 * The file system of one regular file: a request of the kernel in, a reply out, without I/O of its own. What
 * the calls mean is QEMU's FUSE export, so that either can stand in for the other.
 */
import { ERRNO } from '../linux/errno.ts'
import {
  FATTR,
  FUSE_KERNEL_MINOR_VERSION,
  FUSE_KERNEL_VERSION,
  FUSE_ROOT_ID,
  INIT_FLAG,
  INIT_FLAG2,
  O_DSYNC,
  O_TRUNC,
  OLDEST_MINOR,
  OPCODE,
  S_IFREG,
} from './constants.ts'
import { type FuseDisk, PENDING } from './disk.ts'
import { type Exchange, MAX_DATA } from './exchange.ts'
import { planFallocate } from './fallocate.ts'
import {
  checkRequest,
  encodeAttributes,
  encodeHeader,
  encodeInit,
  encodeOffset,
  encodeOpen,
  encodeStatfs,
  encodeWritten,
  FALLOCATE_IN,
  FuseProtocolError,
  IN,
  INIT_IN,
  IO_IN,
  LSEEK_IN,
  OPEN_IN,
  SETATTR_IN,
  u64,
  WRITE_DATA,
} from './protocol.ts'

/** What the file allows. */
export interface SessionTerms {
  readonly writable: boolean
  /** Writes and truncations may make the file longer. */
  readonly growable: boolean
  /** Other users may have access, so that an owner and bits for them make sense. */
  readonly allowOther: boolean
  /** `FileState` below, shared by all readers of the device. */
  readonly state: Int32Array<SharedArrayBuffer>
}

/** Words of the state that all readers share. */
export const STATE = { MODE: 0, UID: 1, GID: 2, OPEN: 3, WORDS: 4 } as const

/** Memory for the state of a file of this owner: 0400, or 0600 if it can be written. */
export function newState(writable: boolean, uid: number, gid: number): Int32Array<SharedArrayBuffer> {
  const state = new Int32Array(new SharedArrayBuffer(4 * STATE.WORDS))
  state[STATE.MODE] = writable ? 0o600 : 0o400
  state[STATE.UID] = uid
  state[STATE.GID] = gid
  return state
}

/** Reads that the kernel does ahead, and writes it does behind: how many may be under way, and when it slows down. */
const MAX_BACKGROUND = 128
const CONGESTION_THRESHOLD = 96

const SEEK_DATA = 3
const SEEK_HOLE = 4

/** No reply: the kernel wants none. */
export const NO_REPLY = 0

export class Session {
  readonly #disk: FuseDisk
  readonly #terms: SessionTerms
  readonly #interrupt: ((exchange: Exchange) => number) | undefined

  /** `interrupt` handles an INTERRUPT: the process of a request has got a signal. It returns as `handle` does. */
  constructor(disk: FuseDisk, terms: SessionTerms, interrupt?: (exchange: Exchange) => number) {
    this.#disk = disk
    this.#terms = terms
    this.#interrupt = interrupt
  }

  /**
   * Handles the request of `length` bytes in `exchange`. Returns the bytes of the reply that stands there now,
   * `NO_REPLY`, or `PENDING`: then `finish` makes the reply when the exchange ends.
   * @throws FuseProtocolError
   */
  handle(exchange: Exchange, length: number): number {
    const { request } = exchange
    checkRequest(request, length, MAX_DATA)
    const opcode = request[IN.OPCODE]
    switch (opcode) {
      case OPCODE.READ:
        return this.finish(exchange, this.#read(exchange))
      case OPCODE.WRITE:
        return this.finish(exchange, this.#write(exchange))
      case OPCODE.FORGET:
      case OPCODE.BATCH_FORGET:
        return NO_REPLY
      case OPCODE.INTERRUPT:
        // Without anybody who listens the kernel learns not to send any.
        if (this.#interrupt === undefined) return this.#fail(exchange, ERRNO.ENOSYS)
        return this.#interrupt(exchange)
      case OPCODE.INIT:
        return this.#init(exchange)
      case OPCODE.DESTROY:
        return encodeHeader(exchange.reply, request, 0, 0)
      case OPCODE.STATFS:
        return this.#succeed(
          exchange,
          encodeStatfs(exchange.reply, this.#disk.size(), this.#disk.usage().allocated),
        )
      case OPCODE.LOOKUP:
        // The root is a file, so there is nothing in it.
        return this.#fail(exchange, ERRNO.ENOENT)
      case OPCODE.GETATTR:
      case OPCODE.SETATTR:
      case OPCODE.OPEN:
      case OPCODE.RELEASE:
      case OPCODE.FLUSH:
      case OPCODE.FSYNC:
      case OPCODE.FALLOCATE:
      case OPCODE.LSEEK:
        if (u64(request, IN.NODEID) !== FUSE_ROOT_ID) return this.#fail(exchange, ERRNO.ENOENT)
        return this.finish(exchange, this.#start(exchange, opcode))
      default:
        return this.#fail(exchange, ERRNO.ENOSYS)
    }
  }

  /** Makes the reply to a request whose operation has this result; returns as `handle` does. */
  finish(exchange: Exchange, result: number): number {
    if (result === PENDING) return PENDING
    if (result < 0) return this.#fail(exchange, -result)
    const { request, reply } = exchange
    switch (request[IN.OPCODE]) {
      case OPCODE.READ:
        return this.#succeed(exchange, result)
      case OPCODE.WRITE:
        return this.#succeed(exchange, encodeWritten(reply, result))
      case OPCODE.LSEEK:
        return this.#succeed(exchange, encodeOffset(reply, result))
      case OPCODE.OPEN:
        Atomics.add(this.#terms.state, STATE.OPEN, 1)
        return this.#succeed(exchange, encodeOpen(reply))
      case OPCODE.GETATTR:
      case OPCODE.SETATTR:
        return this.#succeed(exchange, this.#attributes(reply))
      default:
        return this.#succeed(exchange, 0)
    }
  }

  #succeed({ reply, request }: Exchange, bodyLength: number): number {
    return encodeHeader(reply, request, 0, bodyLength)
  }

  #fail({ reply, request }: Exchange, errno: number): number {
    return encodeHeader(reply, request, -errno, 0)
  }

  #init(exchange: Exchange): number {
    const { request, reply } = exchange
    const major = request[INIT_IN.MAJOR] ?? 0
    const minor = request[INIT_IN.MINOR] ?? 0
    if (major < FUSE_KERNEL_VERSION || (major === FUSE_KERNEL_VERSION && minor < OLDEST_MINOR)) {
      throw new FuseProtocolError(
        `The kernel speaks FUSE ${major}.${minor}; ${FUSE_KERNEL_VERSION}.${OLDEST_MINOR} is needed.`,
      )
    }
    const offered = request[INIT_IN.FLAGS] ?? 0
    const wanted =
      INIT_FLAG.ASYNC_READ |
      INIT_FLAG.ATOMIC_O_TRUNC |
      INIT_FLAG.BIG_WRITES |
      INIT_FLAG.ASYNC_DIO |
      INIT_FLAG.MAX_PAGES |
      INIT_FLAG.INIT_EXT
    const isExtended = (offered & INIT_FLAG.INIT_EXT) !== 0
    // A kernel that is newer sends INIT again once it knows what we speak.
    const body = encodeInit(reply, FUSE_KERNEL_VERSION, {
      minor: Math.min(minor, FUSE_KERNEL_MINOR_VERSION),
      maxReadahead: request[INIT_IN.READAHEAD] ?? 0,
      flags: offered & wanted,
      flags2: isExtended ? (request[INIT_IN.FLAGS2] ?? 0) & INIT_FLAG2.DIRECT_IO_ALLOW_MMAP : 0,
      maxBackground: MAX_BACKGROUND,
      congestionThreshold: CONGESTION_THRESHOLD,
      maxWrite: MAX_DATA,
      maxPages: MAX_DATA / 4096,
    })
    return this.#succeed(exchange, body)
  }

  #attributes(reply: Uint32Array): number {
    const { state } = this.#terms
    const disk = this.#disk
    return encodeAttributes(reply, FUSE_ROOT_ID, {
      size: disk.size(),
      ...disk.usage(),
      mode: S_IFREG | Atomics.load(state, STATE.MODE),
      uid: Atomics.load(state, STATE.UID),
      gid: Atomics.load(state, STATE.GID),
      blockSize: disk.blockSize,
    })
  }

  #read(exchange: Exchange): number {
    const { request } = exchange
    const offset = u64(request, IO_IN.OFFSET)
    return this.#disk.read(exchange, request[IO_IN.SIZE] ?? 0, offset)
  }

  #write(exchange: Exchange): number {
    const { request } = exchange
    if (!this.#terms.writable) return -ERRNO.EACCES
    const offset = u64(request, IO_IN.OFFSET)
    let length = request[IO_IN.SIZE] ?? 0
    if (!this.#terms.growable) {
      const left = this.#disk.size() - offset
      if (left <= 0) return 0
      if (length > left) length = left
    }
    const durable = ((request[IO_IN.FLAGS] ?? 0) & O_DSYNC) !== 0
    return this.#disk.write(exchange, WRITE_DATA, length, offset, durable)
  }

  #start(exchange: Exchange, opcode: number): number {
    const { request } = exchange
    switch (opcode) {
      case OPCODE.OPEN: {
        // A disk that keeps its size keeps it also when it is opened for writing anew.
        const truncates = ((request[OPEN_IN.FLAGS] ?? 0) & O_TRUNC) !== 0 && this.#terms.growable
        return truncates ? this.#disk.truncate(exchange, 0) : 0
      }
      case OPCODE.RELEASE:
        Atomics.sub(this.#terms.state, STATE.OPEN, 1)
        return 0
      case OPCODE.FLUSH:
      case OPCODE.FSYNC:
        return this.#terms.writable ? this.#disk.flush(exchange) : 0
      case OPCODE.SETATTR:
        return this.#setAttributes(exchange)
      case OPCODE.FALLOCATE:
        return this.#fallocate(exchange)
      case OPCODE.LSEEK:
        return this.#seek(exchange)
      default:
        return 0
    }
  }

  #setAttributes(exchange: Exchange): number {
    const { request } = exchange
    const valid = request[SETATTR_IN.VALID] ?? 0
    const { writable, allowOther, state } = this.#terms
    const known =
      FATTR.SIZE | FATTR.MODE | FATTR.UID | FATTR.GID | FATTR.FH | FATTR.LOCKOWNER | FATTR.KILL_SUIDGID
    // What is left are times, which are those of the disk.
    if ((valid & ~known & ~FATTR.CTIME) !== 0) return -ERRNO.EOPNOTSUPP
    if ((valid & (FATTR.UID | FATTR.GID)) !== 0 && !allowOther) return -ERRNO.EOPNOTSUPP
    const mode = (request[SETATTR_IN.MODE] ?? 0) & 0o7777
    if ((valid & FATTR.MODE) !== 0) {
      if ((mode & 0o222) !== 0 && !writable) return -ERRNO.EROFS
      if ((mode & 0o077) !== 0 && !allowOther) return -ERRNO.EPERM
    }
    if ((valid & FATTR.SIZE) !== 0) {
      if (!writable) return -ERRNO.EACCES
      const size = u64(request, SETATTR_IN.SIZE)
      // First, since it is the one that can fail; the kernel never sends it along with the others.
      return size === this.#disk.size() ? 0 : this.#disk.truncate(exchange, size)
    }
    if ((valid & FATTR.MODE) !== 0) Atomics.store(state, STATE.MODE, mode)
    if ((valid & FATTR.UID) !== 0) Atomics.store(state, STATE.UID, request[SETATTR_IN.UID] ?? 0)
    if ((valid & FATTR.GID) !== 0) Atomics.store(state, STATE.GID, request[SETATTR_IN.GID] ?? 0)
    return 0
  }

  #fallocate(exchange: Exchange): number {
    const { request } = exchange
    if (!this.#terms.writable) return -ERRNO.EACCES
    const plan = planFallocate(
      request[FALLOCATE_IN.MODE] ?? 0,
      u64(request, FALLOCATE_IN.OFFSET),
      u64(request, FALLOCATE_IN.LENGTH),
      this.#disk.size(),
    )
    switch (plan.kind) {
      case 'refuse':
        return -plan.errno
      case 'nothing':
        return 0
      case 'allocate':
        return this.#disk.allocate(exchange, plan.length, plan.offset)
      case 'zero':
        if (plan.grownTo !== undefined) {
          const grown = this.#disk.truncate(exchange, plan.grownTo)
          // A disk whose size changes only later would need a second step; none of ours does.
          if (grown !== 0) return grown === PENDING ? -ERRNO.EOPNOTSUPP : grown
        }
        return this.#disk.zero(exchange, plan.length, plan.offset, plan.punch)
    }
  }

  #seek(exchange: Exchange): number {
    const { request } = exchange
    const offset = u64(request, LSEEK_IN.OFFSET)
    const whence = request[LSEEK_IN.WHENCE]
    // The kernel does the others by itself.
    if (whence !== SEEK_DATA && whence !== SEEK_HOLE) return -ERRNO.EINVAL
    if (offset >= this.#disk.size()) return -ERRNO.ENXIO
    return this.#disk.seek(exchange, offset, whence === SEEK_DATA ? 'data' : 'hole')
  }
}
