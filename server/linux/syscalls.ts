/**
 * The system calls that Node's `fs` and `net` lack, through koffi. Lengths and offsets are bytes, as
 * numbers below 2^53; an address is that of memory which the caller keeps alive for the call's length.
 *
 * Functions named `try...` return the bare result, -1 having its reason in `lastErrno()`, for callers
 * that count allocations. The others throw SystemCallError.
 */
import koffi from 'koffi'
import { ERRNO, SystemCallError } from './errno.ts'

/** How many calls may wait in the thread pool at once; the disk queue (disk-queue.ts) keeps below it. */
export const MAX_ASYNC_CALLS = 32

// Every asynchronous call gets a stack and a heap of its own. Those that are kept for reuse cost nothing
// a call; ours need next to nothing of either.
koffi.config({
  ...koffi.config(),
  async_stack_size: 65_536,
  async_heap_size: 16_384,
  resident_async_pools: MAX_ASYNC_CALLS,
  max_async_calls: 4 * MAX_ASYNC_CALLS,
})

/** The C library of this process, for the modules of this folder. */
export const libc = koffi.load(null)

/** Called when an asynchronous call ends: `error` only if the call could not be made at all. */
export type CallDone = (error: Error | null, result: number) => void

export type SystemCall<Arguments extends number[]> = {
  (...args: Arguments): number
  async(...args: [...Arguments, CallDone]): void
}

/** A function of the C library that takes and returns numbers, for the modules of this folder. */
export function declare<Arguments extends number[]>(prototype: string): SystemCall<Arguments> {
  return libc.func(prototype) as unknown as SystemCall<Arguments>
}

const preadv2 = declare<[number, number, number, number, number]>(
  'int64_t preadv64v2(int fd, int64_t iov, int count, int64_t offset, int flags)',
)
const fcntl = declare<[number, number, number]>('int fcntl64(int fd, int command, int64_t argument)')
const ioctl = declare<[number, number, number]>('int ioctl(int fd, uint64_t request, int64_t argument)')
/** ioctl(2), to be called by `async` where it may take long. The argument is a number or an address, by the request. */
export const deviceControl: SystemCall<[fd: number, request: number, argument: number]> = ioctl
/** Request of `deviceControl`: makes the descriptor's file share all blocks with that of the descriptor given (ioctl_ficlone(2)). */
export const FICLONE = 0x40049409
const send = declare<[number, number, number, number]>(
  'int64_t send(int fd, int64_t address, int64_t length, int flags)',
)
const recv = declare<[number, number, number, number]>(
  'int64_t recv(int fd, int64_t address, int64_t length, int flags)',
)
const sendmsg = declare<[number, number, number]>('int64_t sendmsg(int fd, int64_t message, int flags)')
const nanosleep = declare<[number, number]>('int nanosleep(int64_t time, int64_t rest)')
const prctl = declare<[number, number]>('int prctl(int option, uint64_t argument)')
const setsockopt = declare<[number, number, number, number, number]>(
  'int setsockopt(int fd, int level, int name, int64_t value, uint32_t length)',
)
const getsockopt = declare<[number, number, number, number, number]>(
  'int getsockopt(int fd, int level, int name, int64_t value, int64_t length)',
)
const poll = declare<[number, number, number]>('int poll(int64_t descriptors, uint64_t count, int timeout)')
const getrusage = declare<[number, number]>('int getrusage(int who, int64_t usage)')
const renameat2 = libc.func(
  'int renameat2(int oldDirectory, const char *from, int newDirectory, const char *to, uint32_t flags)',
) as unknown as (
  oldDirectory: number,
  from: string,
  newDirectory: number,
  to: string,
  flags: number,
) => number

/** pread(2); EINTR and short reads are the caller's. */
export const pread = declare<[fd: number, address: number, length: number, offset: number]>(
  'int64_t pread64(int fd, int64_t address, int64_t length, int64_t offset)',
)
/** pwrite(2); EINTR and short writes are the caller's. */
export const pwrite = declare<[fd: number, address: number, length: number, offset: number]>(
  'int64_t pwrite64(int fd, int64_t address, int64_t length, int64_t offset)',
)
/** fdatasync(2). */
export const fdatasync = declare<[fd: number]>('int fdatasync(int fd)')
/** flock(2): its locks are others than those of lockFile, and need no permission to write. */
export const flock = declare<[fd: number, operation: number]>('int flock(int fd, int operation)')
/** Exclusive, or a failure by EWOULDBLOCK, which is EAGAIN. */
export const LOCK_EX_NB = 2 | 4
/** fsync(2). */
export const fsync = declare<[fd: number]>('int fsync(int fd)')
/** fallocate(2) with the FALLOC_FL_ flags below. */
export const fallocate = declare<[fd: number, mode: number, offset: number, length: number]>(
  'int fallocate64(int fd, int mode, int64_t offset, int64_t length)',
)
/** ftruncate(2). */
export const ftruncate = declare<[fd: number, length: number]>('int ftruncate64(int fd, int64_t length)')
/** lseek(2); the file position it moves is used by nobody, so calls on one descriptor do not disturb each other. */
export const lseek = declare<[fd: number, offset: number, whence: number]>(
  'int64_t lseek64(int fd, int64_t offset, int whence)',
)
/** posix_fadvise(3): returns the error number itself. */
export const fadvise = declare<[fd: number, offset: number, length: number, advice: number]>(
  'int posix_fadvise64(int fd, int64_t offset, int64_t length, int advice)',
)

export const FALLOC_FL_KEEP_SIZE = 0x01
export const FALLOC_FL_PUNCH_HOLE = 0x02
export const FALLOC_FL_ZERO_RANGE = 0x10
export const SEEK_END = 2
export const SEEK_DATA = 3
export const SEEK_HOLE = 4
export const POSIX_FADV_WILLNEED = 3

/** Error number of the last call of this module that returned -1 (inside a CallDone: of the call that ended). */
export function lastErrno(): number {
  return koffi.errno()
}

/** Address of a buffer's first byte. The buffer must not be garbage while the address is in use. */
export function addressOf(buffer: Uint8Array): number {
  return Number(koffi.address(buffer))
}

/** Memory for one `struct iovec`, `struct flock` or socket option at a time: all callers are synchronous. */
const scratch = Buffer.allocUnsafeSlow(64)
const scratchWords = new Uint32Array(scratch.buffer, scratch.byteOffset, 16)
const scratchAddress = addressOf(scratch)

const RWF_NOWAIT = 0x08
const TWO_POW_32 = 2 ** 32

/**
 * preadv2(2) with RWF_NOWAIT: reads what the page cache holds, never waits for a disk.
 * Returns the bytes read, which may be fewer than asked for, or -1 (EAGAIN: nothing is cached;
 * EOPNOTSUPP: this file system cannot tell).
 */
export function tryPreadCached(fd: number, address: number, length: number, offset: number): number {
  scratchWords[0] = address % TWO_POW_32
  scratchWords[1] = Math.floor(address / TWO_POW_32)
  scratchWords[2] = length
  scratchWords[3] = 0
  return preadv2(fd, scratchAddress, 1, offset, RWF_NOWAIT)
}

const MSG_DONTWAIT = 0x40
const MSG_NOSIGNAL = 0x4000

/** send(2) without waiting and without SIGPIPE. Returns the bytes taken, or -1 (EAGAIN: the socket is full). */
export function trySend(fd: number, address: number, length: number): number {
  return send(fd, address, length, MSG_DONTWAIT | MSG_NOSIGNAL)
}

/** struct msghdr, and behind it two struct iovec. */
const message = new BigUint64Array(11)
const messageWords = new Uint32Array(message.buffer)
const messageAddress = addressOf(new Uint8Array(message.buffer))
const [MESSAGE_IOVECS, MESSAGE_COUNT, IOVECS] = [4, 6, 14]

function putAddress(word: number, address: number): void {
  messageWords[word] = address % TWO_POW_32
  messageWords[word + 1] = Math.floor(address / TWO_POW_32)
}

putAddress(MESSAGE_IOVECS, messageAddress + 4 * IOVECS)
messageWords[MESSAGE_COUNT] = 2

/** Like `trySend`, for bytes of two places in one call, so that they wake the receiver once. Lengths are below 2^32. */
export function trySendBoth(
  fd: number,
  firstAddress: number,
  firstLength: number,
  secondAddress: number,
  secondLength: number,
): number {
  putAddress(IOVECS, firstAddress)
  messageWords[IOVECS + 2] = firstLength
  putAddress(IOVECS + 4, secondAddress)
  messageWords[IOVECS + 6] = secondLength
  return sendmsg(fd, messageAddress, MSG_DONTWAIT | MSG_NOSIGNAL)
}

/** recv(2) without waiting. Returns the bytes received, 0 at the end of the stream, or -1 (EAGAIN: there are none). */
export function tryReceive(fd: number, address: number, length: number): number {
  return recv(fd, address, length, MSG_DONTWAIT)
}

/** Gives the processor to a thread that waits for it; returns at once where there is none. */
export const yieldProcessor = declare<[]>('int sched_yield()')

const PR_SET_TIMERSLACK = 29
let slackIsSet = false

/** Puts this thread to sleep for so many microseconds, at most 1000: it is the event loop that stands still. */
export function nap(micros: number): void {
  if (!slackIsSet) {
    slackIsSet = true
    // The kernel would otherwise round every sleep up by 50 us.
    prctl(PR_SET_TIMERSLACK, 1)
  }
  scratchWords.fill(0, 0, 4)
  scratchWords[2] = Math.min(micros, 1000) * 1000
  nanosleep(scratchAddress, 0)
}

const RUSAGE_THREAD = 1
/** struct rusage, and where in it ru_nvcsw stands: behind two times and twelve counters. */
const rusage = Buffer.alloc(144)
const rusageAddress = addressOf(rusage)
const RU_NVCSW = 128

/** How often the calling thread has gone to sleep by itself, and not lost the processor to another; modulo 2^32. */
export function voluntarySwitches(): number {
  if (getrusage(RUSAGE_THREAD, rusageAddress) !== 0) throw new SystemCallError('getrusage', lastErrno())
  return rusage.readUInt32LE(RU_NVCSW)
}

const F_OFD_SETLK = 37
const LOCK_TYPES = { read: 0, write: 1, none: 2 } as const

function setLock(fd: number, type: keyof typeof LOCK_TYPES, start = 0, length = 0): boolean {
  scratch.fill(0, 0, 32)
  scratch.writeInt16LE(LOCK_TYPES[type], 0)
  scratchWords[2] = start % TWO_POW_32
  scratchWords[3] = Math.floor(start / TWO_POW_32)
  scratchWords[4] = length
  if (fcntl(fd, F_OFD_SETLK, scratchAddress) === 0) return true
  const errno = lastErrno()
  if (errno === ERRNO.EAGAIN || errno === ERRNO.EACCES) return false
  throw new SystemCallError('fcntl(F_OFD_SETLK)', errno)
}

/**
 * Locks the whole file for this open file description (fcntl F_OFD_SETLK), without waiting. A lock
 * already held is converted. False if another open file description, of any process, is in the way.
 */
export function lockFile(fd: number, type: 'read' | 'write'): boolean {
  return setLock(fd, type)
}

/** Locks one byte in the same way, for writing. The byte need not be there. */
export function lockByte(fd: number, offset: number): boolean {
  return setLock(fd, 'write', offset, 1)
}

/** Gives a lock of lockFile back; closing the last descriptor does the same. */
export function unlockFile(fd: number): void {
  setLock(fd, 'none')
}

const BLKGETSIZE64 = 0x80081272

/** Size of a block device in bytes. */
export function blockDeviceSize(fd: number): number {
  if (ioctl(fd, BLKGETSIZE64, scratchAddress) !== 0)
    throw new SystemCallError('ioctl(BLKGETSIZE64)', lastErrno())
  return Number(scratch.readBigUInt64LE(0))
}

const AT_FDCWD = -100
const RENAME_NOREPLACE = 1

/** renameat2(2) with RENAME_NOREPLACE: EEXIST where `to` exists already, EINVAL where the file system cannot do it. */
export function renameNoReplace(from: string, to: string): void {
  if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) !== 0) {
    throw new SystemCallError('renameat2', lastErrno(), `${from} to ${to}`)
  }
}

const SOL_SOCKET = 1
const SO_PEERCRED = 17
const IPPROTO_TCP = 6
const TCP_NODELAY = 1
const TCP_KEEPIDLE = 4
const TCP_KEEPINTVL = 5
const TCP_KEEPCNT = 6
const TCP_USER_TIMEOUT = 18
const SO_KEEPALIVE = 9

function trySocketOption(fd: number, level: number, name: number, value: number): boolean {
  scratch.writeInt32LE(value, 0)
  return setsockopt(fd, level, name, scratchAddress, 4) === 0
}

function setSocketOption(fd: number, level: number, name: number, value: number): void {
  if (!trySocketOption(fd, level, name, value)) {
    throw new SystemCallError(`setsockopt(${level}, ${name})`, lastErrno())
  }
}

/** When a silent TCP peer counts as gone. All in seconds. */
export interface Liveness {
  /** Silence before the first probe. */
  readonly idle: number
  readonly interval: number
  readonly probes: number
  /** How long sent data may stay unacknowledged. */
  readonly unacknowledged: number
}

/** Sets TCP_NODELAY, and makes the kernel end the connection of a peer that has vanished. */
export function configureTcp(fd: number, liveness: Liveness): void {
  setSocketOption(fd, IPPROTO_TCP, TCP_NODELAY, 1)
  setSocketOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1)
  setSocketOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, liveness.idle)
  setSocketOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, liveness.interval)
  setSocketOption(fd, IPPROTO_TCP, TCP_KEEPCNT, liveness.probes)
  setSocketOption(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, liveness.unacknowledged * 1000)
}

const TCP_NOTSENT_LOWAT = 25

/**
 * Lets a TCP socket take no more while so many bytes are not on their way yet; those that are, of which the network
 * decides, do not count. False where the socket is of another kind.
 */
export function limitUnsent(fd: number, bytes: number): boolean {
  return trySocketOption(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, bytes)
}

const SO_SNDBUF = 7

/**
 * Lets a unix socket hold so many bytes that wait to be received, and as many again for the kernel's own records. The
 * kernel cuts the number down to net.core.wmem_max.
 */
export function configureUnix(fd: number, bytes: number): void {
  setSocketOption(fd, SOL_SOCKET, SO_SNDBUF, bytes)
}

/** Process at the other end of a connected unix socket, as it was when it connected (SO_PEERCRED). */
export function peerProcess(fd: number): { pid: number; uid: number; gid: number } {
  scratch.writeUInt32LE(12, 32)
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, scratchAddress, scratchAddress + 32) !== 0) {
    throw new SystemCallError('getsockopt(SO_PEERCRED)', lastErrno())
  }
  return { pid: scratch.readInt32LE(0), uid: scratch.readUInt32LE(4), gid: scratch.readUInt32LE(8) }
}

const SO_TYPE = 3
const SO_ACCEPTCONN = 30
const SO_DOMAIN = 39
const AF_UNIX = 1
const SOCK_STREAM = 1

function socketOption(fd: number, name: number): number {
  scratch.writeUInt32LE(4, 32)
  if (getsockopt(fd, SOL_SOCKET, name, scratchAddress, scratchAddress + 32) !== 0) {
    throw new SystemCallError(`getsockopt(${name})`, lastErrno())
  }
  return scratch.readInt32LE(0)
}

/** Whether clients can be accepted from a socket, and whether these are of this machine (AF_UNIX). */
export function socketKind(fd: number): { readonly accepts: boolean; readonly isUnix: boolean } {
  const accepts = socketOption(fd, SO_TYPE) === SOCK_STREAM && socketOption(fd, SO_ACCEPTCONN) !== 0
  return { accepts, isUnix: socketOption(fd, SO_DOMAIN) === AF_UNIX }
}

const POLLERR = 0x008
const POLLHUP = 0x010
const POLLRDHUP = 0x2000

/**
 * What has become of a socket's peer, asked of the kernel without reading. `finished`: it sends no more, whether
 * it still reads or not. `gone`: the connection is over.
 */
export function peerState(fd: number): 'there' | 'finished' | 'gone' {
  // struct pollfd: descriptor, events that are asked for, events that there are.
  scratch.writeInt32LE(fd, 0)
  scratch.writeInt16LE(POLLRDHUP, 4)
  scratch.writeInt16LE(0, 6)
  if (poll(scratchAddress, 1, 0) < 0) throw new SystemCallError('poll', lastErrno())
  const events = scratch.readInt16LE(6)
  if ((events & (POLLERR | POLLHUP)) !== 0) return 'gone'
  return (events & POLLRDHUP) !== 0 ? 'finished' : 'there'
}
