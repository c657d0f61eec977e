/** Mounting and what FUSE needs of the kernel beside files: mount(2), umount2(2), /dev/fuse. */
import { ERRNO, SystemCallError } from './errno.ts'
import { addressOf, declare, lastErrno, libc } from './syscalls.ts'

const mountCall = libc.func(
  'int mount(const char *source, const char *target, const char *type, uint64_t flags, const char *data)',
) as unknown as (source: string, target: string, type: string, flags: number, data: string) => number
const umountCall = libc.func('int umount2(const char *target, int flags)') as unknown as {
  (target: string, flags: number): number
  async(target: string, flags: number, done: (error: Error | null, result: number) => void): void
}
const ioctl = declare<[fd: number, request: number, argument: number]>(
  'int ioctl(int fd, uint64_t request, int64_t argument)',
)
const dup3 = declare<[from: number, to: number, flags: number]>('int dup3(int from, int to, int flags)')
const socketpairCall = declare<[domain: number, type: number, protocol: number, pair: number]>(
  'int socketpair(int domain, int type, int protocol, int64_t pair)',
)
const recvmsgCall = declare<[fd: number, message: number, flags: number]>(
  'int64_t recvmsg(int fd, int64_t message, int flags)',
)

/** read(2); blocks where the descriptor does. */
export const readInto = declare<[fd: number, address: number, length: number]>(
  'int64_t read(int fd, int64_t address, uint64_t length)',
)
/** write(2); blocks where the descriptor does. */
export const writeFrom = declare<[fd: number, address: number, length: number]>(
  'int64_t write(int fd, int64_t address, uint64_t length)',
)

export const MS_RDONLY = 0x1
export const MS_NOSUID = 0x2
export const MS_NODEV = 0x4
export const MS_NOATIME = 0x400

/** mount(2). @throws SystemCallError */
export function mount(source: string, target: string, type: string, flags: number, data: string): void {
  if (mountCall(source, target, type, flags, data) !== 0)
    throw new SystemCallError('mount', lastErrno(), target)
}

export const MNT_FORCE = 1
/** Takes the name away at once; the mount itself goes with its last user. */
export const MNT_DETACH = 2
/** Does not follow a link at the end of the path. */
const UMOUNT_NOFOLLOW = 8

/** umount2(2), off the event loop: the kernel may ask the file system's own process first. @throws SystemCallError */
export function umount(target: string, flags: number): Promise<void> {
  return new Promise((resolve, reject) => {
    umountCall.async(target, flags | UMOUNT_NOFOLLOW, (error, result) => {
      if (error !== null) reject(error)
      else if (result !== 0) reject(new SystemCallError('umount', lastErrno(), target))
      else resolve()
    })
  })
}

const argument = Buffer.allocUnsafeSlow(8)
const argumentAddress = addressOf(argument)
const FUSE_DEV_IOC_CLONE = 0x8004e500

/** Makes a freshly opened /dev/fuse one more descriptor of the connection of `original`. @throws SystemCallError */
export function cloneFuseDevice(fresh: number, original: number): void {
  argument.writeUInt32LE(original, 0)
  if (ioctl(fresh, FUSE_DEV_IOC_CLONE, argumentAddress) !== 0) {
    throw new SystemCallError('ioctl(FUSE_DEV_IOC_CLONE)', lastErrno())
  }
}

const O_CLOEXEC = 0x80000

/** Lets descriptor `to` stand for what `from` stands for. @throws SystemCallError */
export function replaceDescriptor(from: number, to: number): void {
  if (dup3(from, to, O_CLOEXEC) < 0) throw new SystemCallError('dup3', lastErrno())
}

const AF_UNIX = 1
const SOCK_STREAM = 1

/** Two connected unix sockets, which are not handed to children by themselves. @throws SystemCallError */
export function socketPair(): readonly [number, number] {
  if (socketpairCall(AF_UNIX, SOCK_STREAM | O_CLOEXEC, 0, argumentAddress) !== 0) {
    throw new SystemCallError('socketpair', lastErrno())
  }
  return [argument.readInt32LE(0), argument.readInt32LE(4)]
}

const MSG_CMSG_CLOEXEC = 0x40000000
const SOL_SOCKET = 1
const SCM_RIGHTS = 1

/** Waits for a descriptor that is sent over a unix socket; undefined: the other end sent none. @throws SystemCallError */
export function receiveDescriptor(socket: number): number | undefined {
  // struct msghdr (56 bytes), struct iovec (16), one byte of data, struct cmsghdr with one int (24).
  const memory = Buffer.alloc(128)
  const base = addressOf(memory)
  const [iovec, data, control] = [64, 80, 96]
  memory.writeBigUInt64LE(BigInt(base + iovec), 16)
  memory.writeBigUInt64LE(1n, 24)
  memory.writeBigUInt64LE(BigInt(base + control), 32)
  memory.writeBigUInt64LE(24n, 40)
  memory.writeBigUInt64LE(BigInt(base + data), iovec)
  memory.writeBigUInt64LE(1n, iovec + 8)
  let received: number
  do received = recvmsgCall(socket, base, MSG_CMSG_CLOEXEC)
  while (received < 0 && lastErrno() === ERRNO.EINTR)
  if (received < 0) throw new SystemCallError('recvmsg', lastErrno())
  const isDescriptor =
    memory.readBigUInt64LE(40) >= 20n &&
    memory.readInt32LE(control + 8) === SOL_SOCKET &&
    memory.readInt32LE(control + 12) === SCM_RIGHTS
  return isDescriptor ? memory.readInt32LE(control + 16) : undefined
}
