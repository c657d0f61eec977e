/**
 * A way for data from one socket to another that leaves it with the kernel (splice(2)). The data goes into a pipe, behind
 * the header of its reply, and out of it when all of it has come. Until then it can be thrown away. It can be taken into
 * memory at any time, where it does not come in one piece or a socket is full.
 */
import { ERRNO } from './errno.ts'
import { addressOf, declare, lastErrno } from './syscalls.ts'

const splice = declare<[number, number, number, number, number, number]>(
  'int64_t splice(int from, int64_t fromOffset, int to, int64_t toOffset, uint64_t length, uint32_t flags)',
)
const pipe2 = declare<[number, number]>('int pipe2(int64_t ends, int flags)')
const fcntl = declare<[number, number, number]>('int fcntl64(int fd, int command, int64_t argument)')
const read = declare<[number, number, number]>('int64_t read(int fd, int64_t address, uint64_t length)')
const write = declare<[number, number, number]>('int64_t write(int fd, int64_t address, uint64_t length)')
const close = declare<[number]>('int close(int fd)')

const O_NONBLOCK_CLOEXEC = 0x80800
const F_SETPIPE_SZ = 1031
const SPLICE_F_NONBLOCK = 2
/** Places of a pipe are what counts, one for each packet or part of one; 4096 bytes each give one place. */
const PIPE_BYTES = 2 ** 20
/** Pipes in all, in use and idle: two descriptors each. A read that gets none goes through memory. */
const MAX_PIPES = 16

interface Pipe {
  readonly readEnd: number
  readonly writeEnd: number
}

const ends = Buffer.allocUnsafeSlow(8)
const endsAddress = addressOf(ends)
const idle: Pipe[] = []
let pipes = 0
/** The system does not let data be moved like this, or not between these sockets. */
let isRefused = false

/** How many replies have gone from socket to socket, and how many were taken into memory on their way. */
export const passages = { sent: 0, taken: 0 }

/** Notes an error number that says that it will not do at all. */
function noteRefusal(errno: number): number {
  isRefused ||= errno === ERRNO.EINVAL || errno === ERRNO.ENOSYS || errno === ERRNO.EPERM
  return errno
}

function takePipe(): Pipe | undefined {
  const reused = idle.pop()
  if (reused !== undefined || pipes >= MAX_PIPES) return reused
  // No more descriptors: memory will do.
  if (pipe2(endsAddress, O_NONBLOCK_CLOEXEC) !== 0) return undefined
  const pipe = { readEnd: ends.readInt32LE(0), writeEnd: ends.readInt32LE(4) }
  // Users who have many pipes may not have such large ones; it then holds less.
  fcntl(pipe.writeEnd, F_SETPIPE_SZ, PIPE_BYTES)
  pipes++
  return pipe
}

function closePipe(pipe: Pipe): void {
  pipes--
  close(pipe.readEnd)
  close(pipe.writeEnd)
}

/** For the data of one READ. `buffer` has room for what comes from `headStart` on: the reply's header, and behind it the data. */
export class Passage {
  readonly #buffer: Buffer
  readonly #headStart: number
  readonly #dataStart: number
  /** Index behind the data. */
  readonly end: number
  #pipe: Pipe | undefined
  /** What has gone into the pipe, and out of it: indexes of the buffer, as if it were there. */
  #in = 0
  #out = 0
  #isOver = false

  /** The header stands in the buffer already, from `headStart` to `dataStart`. `length`: bytes of data. */
  constructor(buffer: Buffer, headStart: number, dataStart: number, length: number) {
    this.#buffer = buffer
    this.#headStart = headStart
    this.#dataStart = dataStart
    this.end = dataStart + length
  }

  /** Data is on its way through the pipe. */
  get isOpen(): boolean {
    return this.#pipe !== undefined
  }

  /** All of it is in the pipe. */
  get isWhole(): boolean {
    return this.#pipe !== undefined && this.#in === this.end
  }

  /** All of the data comes next. False: it has to go into memory, since there is no pipe for it now. */
  open(): boolean {
    if (this.#isOver || isRefused || this.#pipe !== undefined) return false
    const pipe = takePipe()
    if (pipe === undefined) return false
    this.#pipe = pipe
    this.#in = this.#headStart
    this.#out = this.#headStart
    this.#put(addressOf(this.#buffer) + this.#headStart, this.#dataStart - this.#headStart)
    if (this.#in === this.#dataStart) return true
    this.discard()
    return false
  }

  #put(address: number, length: number): void {
    const put = write((this.#pipe as Pipe).writeEnd, address, length)
    if (put > 0) this.#in += put
  }

  /** Moves data out of a socket: returns how many bytes that were, 0 where there is none now or no more goes in. */
  fill(socket: number): number {
    const pipe = this.#pipe
    if (pipe === undefined) return 0
    // The end of the stream, or an error, is for the event loop to find.
    const moved = splice(socket, 0, pipe.writeEnd, 0, this.end - this.#in, SPLICE_F_NONBLOCK)
    if (moved < 0) noteRefusal(lastErrno())
    if (moved <= 0) return 0
    this.#in += moved
    return moved
  }

  /** Puts data in that has been received already. False: not all of it went in, and it has to go into memory. */
  append(bytes: Buffer, start: number, end: number): boolean {
    const before = this.#in
    this.#put(addressOf(bytes) + start, end - start)
    if (this.#in - before === end - start) return true
    // What went in has to be put where it belongs with the rest of it.
    const part = this.#in - before
    this.toMemory()
    this.#in -= part
    return false
  }

  /** Takes what is in the pipe into the buffer, where it belongs: from the returned index to the end of what has come. */
  toMemory(): number {
    const from = this.#out
    const pipe = this.#pipe
    if (pipe === undefined) return from
    const address = addressOf(this.#buffer)
    while (this.#out < this.#in) {
      const taken = read(pipe.readEnd, address + this.#out, this.#in - this.#out)
      if (taken <= 0) break
      this.#out += taken
    }
    passages.taken++
    this.#leavePipe()
    return from
  }

  /** Takes the next bytes that are in the pipe, at most so many, into the buffer: returns where they are. */
  take(most: number): [from: number, to: number] {
    const from = this.#out
    const pipe = this.#pipe as Pipe
    const taken = read(pipe.readEnd, addressOf(this.#buffer) + from, Math.min(most, this.#in - from))
    if (taken > 0) this.#out += taken
    return [from, this.#out]
  }

  /** The socket does not take data in this way, and it has to go by memory. */
  get isRefused(): boolean {
    return isRefused
  }

  /** Moves header and data into a socket, as far as that takes them. Returns 0 when all is sent, or an error number. */
  send(socket: number): number {
    const pipe = this.#pipe as Pipe
    while (this.#out < this.#in) {
      const moved = splice(pipe.readEnd, 0, socket, 0, this.#in - this.#out, SPLICE_F_NONBLOCK)
      if (moved <= 0) return moved < 0 ? noteRefusal(lastErrno()) : ERRNO.EPIPE
      this.#out += moved
    }
    passages.sent++
    this.#leavePipe()
    return 0
  }

  #leavePipe(): void {
    const pipe = this.#pipe
    if (pipe === undefined) return
    this.#pipe = undefined
    if (this.#out === this.#in) idle.push(pipe)
    else closePipe(pipe)
  }

  /** Throws away what has come: it will come again. */
  discard(): void {
    this.#leavePipe()
  }

  /** The read is over, or nobody waits for it any more: whoever still fills it does so in memory. */
  close(): void {
    this.#isOver = true
    this.#leavePipe()
  }
}
