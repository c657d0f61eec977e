/**
 * Messages of the FUSE protocol (linux/fuse.h), as 32-bit words in the byte order of the machine: every
 * field begins on a multiple of four bytes. A request is fuse_in_header (10 words) and a body, a reply is
 * fuse_out_header (4 words) and a body. Nothing here allocates.
 */
import {
  FOPEN_DIRECT_IO,
  FOPEN_PARALLEL_DIRECT_WRITES,
  IN_HEADER_SIZE,
  OPCODE,
  OUT_HEADER_SIZE,
  WRITE_IN_SIZE,
} from './constants.ts'

/** The kernel broke the protocol: nothing more can be said to it. */
export class FuseProtocolError extends Error {
  override readonly name = 'FuseProtocolError'
  readonly code = 'EPROTO'
}

const TWO_POW_32 = 2 ** 32

/** The 64-bit field at this word, as a number; fields beyond 2^53 lose their last bits. */
export function u64(words: Uint32Array, index: number): number {
  return (words[index] ?? 0) + (words[index + 1] ?? 0) * TWO_POW_32
}

function setU64(words: Uint32Array, index: number, value: number): void {
  words[index] = value % TWO_POW_32
  words[index + 1] = Math.floor(value / TWO_POW_32)
}

// --- Requests

/** Words of fuse_in_header. */
export const IN = { LEN: 0, OPCODE: 1, UNIQUE: 2, NODEID: 4, PID: 8 } as const
const BODY = IN_HEADER_SIZE / 4

/** Words of the bodies, each after its structure. */
export const INIT_IN = {
  MAJOR: BODY,
  MINOR: BODY + 1,
  READAHEAD: BODY + 2,
  FLAGS: BODY + 3,
  FLAGS2: BODY + 4,
}
export const SETATTR_IN = { VALID: BODY, SIZE: BODY + 4, MODE: BODY + 17, UID: BODY + 19, GID: BODY + 20 }
export const OPEN_IN = { FLAGS: BODY }
/** fuse_read_in and fuse_write_in are alike up to here. */
export const IO_IN = { OFFSET: BODY + 2, SIZE: BODY + 4, FLAGS: BODY + 8 }
export const FALLOCATE_IN = { OFFSET: BODY + 2, LENGTH: BODY + 4, MODE: BODY + 6 }
export const LSEEK_IN = { OFFSET: BODY + 2, WHENCE: BODY + 4 }
export const INTERRUPT_IN = { UNIQUE: BODY }

/** Where the data of a WRITE begins, in bytes. */
export const WRITE_DATA = IN_HEADER_SIZE + WRITE_IN_SIZE

/** Bytes of a request's fixed body, by opcode; those that are not read here are not listed. */
const LEAST_BODY: ReadonlyMap<number, number> = new Map([
  [OPCODE.INIT, 16],
  [OPCODE.SETATTR, 88],
  [OPCODE.OPEN, 8],
  [OPCODE.READ, 40],
  [OPCODE.WRITE, WRITE_IN_SIZE],
  [OPCODE.FALLOCATE, 32],
  [OPCODE.LSEEK, 24],
  [OPCODE.INTERRUPT, 8],
])

/**
 * Checks that `length` bytes which were read from the device are one whole request.
 * @param mostData the largest READ and WRITE that were negotiated, in bytes
 * @throws FuseProtocolError
 */
export function checkRequest(words: Uint32Array, length: number, mostData: number): void {
  if (length < IN_HEADER_SIZE || words[IN.LEN] !== length) {
    throw new FuseProtocolError(
      `The kernel sent ${length} bytes that say they are ${length < 4 ? 'nothing' : words[IN.LEN]}.`,
    )
  }
  const opcode = words[IN.OPCODE] ?? 0
  const body = length - IN_HEADER_SIZE
  if (opcode === OPCODE.WRITE || opcode === OPCODE.READ) {
    const size = words[IO_IN.SIZE] ?? 0
    const wanted = opcode === OPCODE.WRITE ? WRITE_IN_SIZE + size : 40
    if (body < 40 || size > mostData || body !== wanted) {
      throw new FuseProtocolError(
        `The kernel sent a ${opcode === OPCODE.WRITE ? 'WRITE' : 'READ'} of ${size} bytes in ${length}.`,
      )
    }
    return
  }
  if (body < (LEAST_BODY.get(opcode) ?? 0)) {
    throw new FuseProtocolError(
      `The kernel sent request ${opcode} with a body of ${body} bytes, which is too short.`,
    )
  }
}

// --- Replies. Each function writes a body and returns its bytes.

/** Words of fuse_out_header. */
const OUT = { LEN: 0, ERROR: 1, UNIQUE: 2 } as const
const OUT_BODY = OUT_HEADER_SIZE / 4

/** Writes the header of a reply, and returns the bytes of the whole. `error`: 0, or the negative error number. */
export function encodeHeader(
  words: Uint32Array,
  request: Uint32Array,
  error: number,
  bodyLength: number,
): number {
  const length = OUT_HEADER_SIZE + bodyLength
  words[OUT.LEN] = length
  words[OUT.ERROR] = error
  words[OUT.UNIQUE] = request[IN.UNIQUE] ?? 0
  words[OUT.UNIQUE + 1] = request[IN.UNIQUE + 1] ?? 0
  return length
}

/** What INIT settles. Sizes are bytes. */
export interface InitReply {
  readonly minor: number
  readonly maxReadahead: number
  readonly flags: number
  readonly flags2: number
  readonly maxBackground: number
  readonly congestionThreshold: number
  readonly maxWrite: number
  readonly maxPages: number
}

/** struct fuse_init_out. */
export function encodeInit(words: Uint32Array, major: number, reply: InitReply): number {
  words.fill(0, OUT_BODY, OUT_BODY + 16)
  words[OUT_BODY] = major
  words[OUT_BODY + 1] = reply.minor
  words[OUT_BODY + 2] = reply.maxReadahead
  words[OUT_BODY + 3] = reply.flags
  words[OUT_BODY + 4] = reply.maxBackground | (reply.congestionThreshold << 16)
  words[OUT_BODY + 5] = reply.maxWrite
  // Nanoseconds: the grain of times.
  words[OUT_BODY + 6] = 1
  words[OUT_BODY + 7] = reply.maxPages
  words[OUT_BODY + 8] = reply.flags2
  return 64
}

/** Attributes of the file. Sizes are bytes, times seconds since 1970 with a fraction. */
export interface Attributes {
  readonly size: number
  /** Allocated bytes. */
  readonly allocated: number
  readonly changedAt: number
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly blockSize: number
}

/** struct fuse_attr_out; the kernel may believe it for a second. */
export function encodeAttributes(words: Uint32Array, inode: number, attributes: Attributes): number {
  const { size, allocated, changedAt, mode, uid, gid, blockSize } = attributes
  words.fill(0, OUT_BODY, OUT_BODY + 26)
  words[OUT_BODY] = 1
  const at = OUT_BODY + 4
  setU64(words, at, inode)
  setU64(words, at + 2, size)
  setU64(words, at + 4, Math.ceil(allocated / 512))
  const seconds = Math.floor(changedAt)
  const nanoseconds = Math.floor((changedAt - seconds) * 1e9)
  for (let time = 0; time < 3; time++) {
    setU64(words, at + 6 + 2 * time, seconds)
    words[at + 12 + time] = nanoseconds
  }
  words[at + 15] = mode
  words[at + 16] = 1
  words[at + 17] = uid
  words[at + 18] = gid
  words[at + 20] = blockSize
  return 104
}

/** struct fuse_open_out: no page cache of the kernel's, and writes in parallel. */
export function encodeOpen(words: Uint32Array): number {
  words.fill(0, OUT_BODY, OUT_BODY + 4)
  words[OUT_BODY + 2] = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES
  return 16
}

/** struct fuse_write_out. */
export function encodeWritten(words: Uint32Array, bytes: number): number {
  words[OUT_BODY] = bytes
  words[OUT_BODY + 1] = 0
  return 8
}

/** struct fuse_lseek_out. */
export function encodeOffset(words: Uint32Array, offset: number): number {
  setU64(words, OUT_BODY, offset)
  return 8
}

/** struct fuse_statfs_out, for `df`: one file, of which `allocated` of `size` bytes are in use. */
export function encodeStatfs(words: Uint32Array, size: number, allocated: number): number {
  const block = 4096
  words.fill(0, OUT_BODY, OUT_BODY + 20)
  const blocks = Math.ceil(size / block)
  const free = Math.max(0, blocks - Math.ceil(allocated / block))
  setU64(words, OUT_BODY, blocks)
  setU64(words, OUT_BODY + 2, free)
  setU64(words, OUT_BODY + 4, free)
  setU64(words, OUT_BODY + 6, 1)
  words[OUT_BODY + 10] = block
  words[OUT_BODY + 11] = 255
  words[OUT_BODY + 12] = block
  return 80
}
