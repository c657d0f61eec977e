/**
 * Reads by io_uring: what one turn of the event loop asks for is handed to the kernel by few calls, waits there
 * without a thread, and comes back in one wake-up. Where the kernel has no io_uring, or a container's seccomp
 * profile refuses it, there is no ring, and callers use the thread pool.
 */
import { Socket } from 'node:net'
import koffi from 'koffi'
import { ERRNO, SystemCallError } from './errno.ts'
import { addressOf, lastErrno } from './syscalls.ts'

const libc = koffi.load(null)
const declare = (prototype: string) => libc.func(prototype) as unknown as (...args: number[]) => number

const setup = declare('int64_t syscall(int64_t number, uint32_t entries, int64_t params)')
const enter = declare(
  'int64_t syscall(int64_t number, int fd, uint32_t submit, uint32_t wait, uint32_t flags, int64_t signals, int64_t size)',
)
const register = declare(
  'int64_t syscall(int64_t number, int fd, uint32_t operation, int64_t argument, uint32_t count)',
)
const mmap = declare(
  'int64_t mmap64(int64_t address, int64_t length, int protection, int flags, int fd, int64_t offset)',
)
const eventfd = declare('int eventfd(uint32_t value, int flags)')
const pipe2 = declare('int pipe2(int64_t descriptors, int flags)')
const dup3 = declare('int dup3(int from, int to, int flags)')
const close = declare('int close(int fd)')

/** The same numbers on every architecture. */
const [SYS_SETUP, SYS_ENTER, SYS_REGISTER] = [425, 426, 427]
const IORING_FEAT_SINGLE_MMAP = 1 << 0
const IORING_SETUP_COOP_TASKRUN = 1 << 8
const IORING_SETUP_SINGLE_ISSUER = 1 << 12
const IORING_REGISTER_EVENTFD = 4
const IORING_OP_READ = 22
const IORING_ENTER_GETEVENTS = 1 << 0
const IORING_ENTER_EXT_ARG = 1 << 3
const WAIT_FLAGS = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG
/** In the flags of the completion queue: no event is to be sent. */
const IORING_CQ_EVENTFD_DISABLED = 1 << 0
/** Length of a struct io_uring_getevents_arg, and of it with a struct __kernel_timespec behind it, in bytes. */
const [WAIT_LENGTH, WAIT_WITH_TIME] = [24, 40]
/** Words of these. */
const [WAIT_TIME_ADDRESS, SECONDS, NANOSECONDS] = [4, 6, 8]
/** Flag of an entry, in the word that begins with the operation: leave it to a thread of the kernel's at once. */
const IOSQE_ASYNC = (1 << 4) << 8
const IORING_OFF_SQES = 0x10000000
const [PROT_READ_WRITE, MAP_SHARED_POPULATE] = [3, 0x8001]
const CLOEXEC = 0o2000000
const NONBLOCK = 0o4000
const TWO_POW_32 = 2 ** 32

/** Most reads that may be under way at once. */
export const RING_ENTRIES = 256

/**
 * Most reads that are handed over by one call. Each costs the kernel some 10 us until it is with the disk, in which
 * the event loop stands still; between two calls, others have their turn.
 */
const MAX_AT_ONCE = 8

/**
 * Reads from this size on, in bytes, are made by a thread of the kernel's: where the page cache has the data, copying
 * it would hold the event loop.
 */
const LARGE = 64 * 2 ** 10

/** struct io_uring_params and where in it the offsets into the rings begin. */
const [PARAMS_LENGTH, SQ_OFFSETS, CQ_OFFSETS] = [120, 40, 80]
/** Words of a struct io_uring_sqe and of a struct io_uring_cqe. */
const [SQE_WORDS, CQE_WORDS] = [16, 4]
const SQE_USER_DATA = 8

/** Whoever waits for a read. */
export interface RingWaiter {
  /** Bytes that were read, or a negative error number. */
  read(result: number): void
}

/** Maps `length` bytes of the ring; the mapping lasts as long as the process. */
function map(fd: number, length: number, offset: number): Uint32Array {
  const address = mmap(0, length, PROT_READ_WRITE, MAP_SHARED_POPULATE, fd, offset)
  if (address === -1) throw new SystemCallError('mmap', lastErrno())
  return new Uint32Array(koffi.view(BigInt(address), length))
}

/**
 * Has libuv wait for an event descriptor. It accepts descriptors of pipes only, but looks at that once, when it
 * takes the number over; what the number stands for from then on is read in the same way.
 */
function watchEvents(event: number, onEvent: () => void): Socket {
  const ends = new Int32Array(2)
  if (pipe2(addressOf(new Uint8Array(ends.buffer)), CLOEXEC | NONBLOCK) !== 0) {
    throw new SystemCallError('pipe2', lastErrno())
  }
  const [reading = -1, writing = -1] = ends
  const buffer = Buffer.allocUnsafeSlow(8)
  const onread = {
    buffer,
    callback: () => {
      onEvent()
      return true
    },
  }
  const socket = new Socket({ fd: reading, readable: true, writable: false, onread })
  if (dup3(event, reading, CLOEXEC) < 0) throw new SystemCallError('dup3', lastErrno())
  close(writing)
  close(event)
  return socket.unref()
}

export class IoRing {
  readonly #fd: number
  readonly #ring: Uint32Array
  readonly #signed: Int32Array
  readonly #entries: Uint32Array
  /** Indexes of words in the ring. */
  readonly #sqTail: number
  readonly #sqMask: number
  readonly #cqHead: number
  readonly #cqTail: number
  readonly #cqMask: number
  readonly #cqes: number
  readonly #cqFlags: number
  /** How long `wait` is to sleep, as the kernel wants to be told. */
  readonly #limit = new Uint32Array(WAIT_WITH_TIME / 4)
  readonly #limitAddress = addressOf(new Uint8Array(this.#limit.buffer))
  readonly #events: Socket
  readonly #waiters: (RingWaiter | undefined)[] = []
  readonly #freeSlots: number[] = []
  readonly #onImmediate = () => {
    this.#scheduled = false
    this.#submit(false)
  }
  #prepared = 0
  #scheduled = false
  #underWay = 0
  /** Calls of the kernel, for tests that want to know whether reads share them. */
  calls = 0
  /** How often the event loop was told that something came back; for tests. */
  wakeUps = 0

  /** @throws SystemCallError where there is no io_uring */
  constructor() {
    const params = Buffer.alloc(PARAMS_LENGTH)
    params.writeUInt32LE(IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SINGLE_ISSUER, 8)
    const fd = setup(SYS_SETUP, RING_ENTRIES, addressOf(params))
    if (fd < 0) throw new SystemCallError('io_uring_setup', lastErrno())
    this.#fd = fd
    if ((params.readUInt32LE(20) & IORING_FEAT_SINGLE_MMAP) === 0) {
      throw new SystemCallError('io_uring_setup', ERRNO.EOPNOTSUPP)
    }
    const [sqEntries, cqEntries] = [params.readUInt32LE(0), params.readUInt32LE(4)]
    const sq = (index: number) => params.readUInt32LE(SQ_OFFSETS + 4 * index)
    const cq = (index: number) => params.readUInt32LE(CQ_OFFSETS + 4 * index)
    const length = Math.max(sq(6) + 4 * sqEntries, cq(5) + 4 * CQE_WORDS * cqEntries)
    this.#ring = map(fd, length, 0)
    this.#signed = new Int32Array(this.#ring.buffer)
    this.#entries = map(fd, 4 * SQE_WORDS * sqEntries, IORING_OFF_SQES)
    this.#sqTail = sq(1) / 4
    this.#sqMask = sqEntries - 1
    this.#cqHead = cq(0) / 4
    this.#cqTail = cq(1) / 4
    this.#cqMask = cqEntries - 1
    this.#cqes = cq(5) / 4
    this.#cqFlags = cq(6) / 4
    const timeAddress = this.#limitAddress + WAIT_LENGTH
    this.#limit[WAIT_TIME_ADDRESS] = timeAddress % TWO_POW_32
    this.#limit[WAIT_TIME_ADDRESS + 1] = timeAddress / TWO_POW_32
    // Entry n of the queue is always entry n of the array.
    for (let index = 0; index < sqEntries; index++) this.#ring[sq(6) / 4 + index] = index
    for (let slot = sqEntries - 1; slot >= 0; slot--) this.#freeSlots.push(slot)
    const event = eventfd(0, CLOEXEC | NONBLOCK)
    if (event < 0) throw new SystemCallError('eventfd', lastErrno())
    const argument = new Int32Array([event])
    if (
      register(SYS_REGISTER, fd, IORING_REGISTER_EVENTFD, addressOf(new Uint8Array(argument.buffer)), 1) !== 0
    ) {
      throw new SystemCallError('io_uring_register', lastErrno())
    }
    this.#events = watchEvents(event, () => {
      this.wakeUps++
      this.#reap()
    })
  }

  /**
   * Reads into memory that the waiter keeps alive, and calls it later. At most RING_ENTRIES may be under way; the
   * caller counts. `mayBlock`: asking for it could hold the event loop, which is left to a thread of the kernel's then.
   */
  read(
    fd: number,
    address: number,
    length: number,
    offset: number,
    waiter: RingWaiter,
    mayBlock = false,
  ): void {
    const slot = this.#freeSlots.pop()
    if (slot === undefined) throw new RangeError('More reads than the ring has entries are under way.')
    this.#waiters[slot] = waiter
    const tail = (this.#ring[this.#sqTail] as number) + this.#prepared
    const at = (tail & this.#sqMask) * SQE_WORDS
    const entries = this.#entries
    entries[at] = mayBlock || length >= LARGE ? IORING_OP_READ | IOSQE_ASYNC : IORING_OP_READ
    entries[at + 1] = fd
    entries[at + 2] = offset % TWO_POW_32
    entries[at + 3] = offset / TWO_POW_32
    entries[at + 4] = address % TWO_POW_32
    entries[at + 5] = address / TWO_POW_32
    entries[at + 6] = length
    entries[at + 7] = 0
    entries[at + SQE_USER_DATA] = slot
    entries[at + 9] = 0
    entries.fill(0, at + 10, at + SQE_WORDS)
    this.#prepared++
    if (this.#underWay === 0) this.#events.ref()
    this.#underWay++
    this.#schedule()
  }

  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(this.#onImmediate)
  }

  /** Reads that have not come back. */
  get underWay(): number {
    return this.#underWay
  }

  /**
   * Hands over what is prepared and sleeps in the same call until something comes back, or until then, in ms of
   * `performance.now()`: it is the event loop that stands still. True when nothing is under way any more.
   */
  wait(until: number): boolean {
    // The event would be a call to send it, a turn of the event loop and a call to read it, for nothing.
    Atomics.store(this.#ring, this.#cqFlags, IORING_CQ_EVENTFD_DISABLED)
    for (
      let left = until - performance.now();
      this.#underWay > 0 && left > 0;
      left = until - performance.now()
    ) {
      this.#limit[SECONDS] = left / 1000
      this.#limit[NANOSECONDS] = (left % 1000) * 1e6
      this.#submit(true)
    }
    Atomics.store(this.#ring, this.#cqFlags, 0)
    // What came since the last look was not told by an event.
    this.#reap()
    return this.#underWay === 0
  }

  #submit(mayWait: boolean): void {
    let left = Math.min(this.#prepared, MAX_AT_ONCE)
    this.#prepared -= left
    if (this.#prepared > 0) this.#schedule()
    Atomics.store(this.#ring, this.#sqTail, (this.#ring[this.#sqTail] as number) + left)
    let errno = 0
    let waits = mayWait
    while ((left > 0 || waits) && errno === 0) {
      const taken = this.#enter(left, waits)
      // Also where it was the sleep that failed, or has taken its time.
      waits = false
      if (taken > 0) left -= taken
      else if (left > 0 && (taken === 0 || lastErrno() !== ERRNO.EINTR)) {
        errno = taken === 0 ? ERRNO.EAGAIN : lastErrno()
      }
    }
    if (left > 0) this.#takeBack(left + this.#prepared, left, errno)
    // What was in the page cache after all is there already.
    this.#reap()
  }

  #enter(count: number, waits: boolean): number {
    this.calls++
    return waits
      ? enter(SYS_ENTER, this.#fd, count, 1, WAIT_FLAGS, this.#limitAddress, WAIT_LENGTH)
      : enter(SYS_ENTER, this.#fd, count, 0, 0, 0, 0)
  }

  /** The kernel has not taken the last `shown` reads, for want of memory: they fail, and so do all that follow. */
  #takeBack(count: number, shown: number, errno: number): void {
    const tail = ((this.#ring[this.#sqTail] as number) - shown) >>> 0
    Atomics.store(this.#ring, this.#sqTail, tail)
    this.#prepared = 0
    const slots = Array.from(
      { length: count },
      (_, index) => this.#entries[((tail + index) & this.#sqMask) * SQE_WORDS + SQE_USER_DATA] as number,
    )
    for (const slot of slots) this.#end(slot, -errno)
  }

  #end(slot: number, result: number): void {
    const waiter = this.#waiters[slot] as RingWaiter
    this.#waiters[slot] = undefined
    this.#freeSlots.push(slot)
    this.#underWay--
    if (this.#underWay === 0) this.#events.unref()
    waiter.read(result)
  }

  #reap(): void {
    const ring = this.#ring
    let head = ring[this.#cqHead] as number
    while (head !== Atomics.load(ring, this.#cqTail)) {
      const at = this.#cqes + (head & this.#cqMask) * CQE_WORDS
      const slot = ring[at] as number
      const result = this.#signed[at + 2] as number
      head = (head + 1) >>> 0
      Atomics.store(ring, this.#cqHead, head)
      this.#end(slot, result)
    }
  }
}

let ring: IoRing | undefined
let isRefused = false

/** The ring of this process; undefined where there is none. */
export function ioRing(): IoRing | undefined {
  if (ring !== undefined || isRefused) return ring
  try {
    ring = new IoRing()
  } catch {
    isRefused = true
  }
  return ring
}
