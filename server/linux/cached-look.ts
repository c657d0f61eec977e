/**
 * A look at files that never waits for a disk: the kernel answers from its memory, or not at all (openat2(2),
 * RESOLVE_CACHED, from Linux 5.12 on). Nothing is opened but the name itself, so that no FIFO is waited for, no driver
 * started and no scanner of files asked.
 */
import { type BigIntStats, closeSync, constants, fstatSync } from 'node:fs'
import { lstat, statfs } from 'node:fs/promises'
import { ERRNO } from './errno.ts'
import { addressOf, lastErrno, libc } from './syscalls.ts'

/** Opens a path as a mere name, without following a link at its end: a descriptor, or a negative error number. */
export type OpenName = (path: string) => number

/** What a regular file of this path is; undefined where that cannot be told at once, or it is something else. */
export type CachedLook = (path: string) => BigIntStats | undefined

const openat2 = libc.func(
  'int64_t syscall(int64_t number, int directory, const char *path, int64_t how, int64_t size)',
) as unknown as (number: number, directory: number, path: string, how: number, size: number) => number

/** The same on every architecture. */
const SYS_OPENAT2 = 437
const AT_FDCWD = -100
/** Flags that Node does not name; the same wherever it runs. */
const [O_PATH, O_CLOEXEC] = [0o10000000, 0o2000000]
const RESOLVE_CACHED = 0x20

/** struct open_how: flags, mode, resolve. */
const how = new BigUint64Array([
  BigInt(O_PATH | O_CLOEXEC | constants.O_NOFOLLOW),
  0n,
  BigInt(RESOLVE_CACHED),
])
const howAddress = addressOf(new Uint8Array(how.buffer))

/** openat2(2): EAGAIN where a disk would have to be waited for. */
export const openCachedName: OpenName = path => {
  const fd = openat2(SYS_OPENAT2, AT_FDCWD, path, howAddress, how.byteLength)
  return fd < 0 ? -lastErrno() : fd
}

/** What kernels say that do not know the call or its flag, and seccomp profiles that forbid it. */
const UNSUPPORTED: ReadonlySet<number> = new Set([ERRNO.ENOSYS, ERRNO.EINVAL, ERRNO.EPERM])

/**
 * File systems (statfs(2), f_type) that tell what a file in use is without asking anybody: ext2 to ext4, XFS, btrfs,
 * F2FS, bcachefs, ZFS, tmpfs, ramfs. Not overlayfs, whose files have others below them.
 */
const LOCAL: ReadonlySet<number> = new Set([
  0xef53, 0x58465342, 0x9123683e, 0xf2f52010, 0xca451a4e, 0x2fc12fc1, 0x01021994, 0x858458f6,
])

const NEVER: CachedLook = () => undefined

/** A look at the files of one file system, where `open` is what there is of openat2(2). */
export function lookBy(open: OpenName, device: bigint): CachedLook {
  let isSupported = true
  return path => {
    if (!isSupported) return undefined
    const fd = open(path)
    if (fd < 0) {
      isSupported = !UNSUPPORTED.has(-fd)
      return undefined
    }
    try {
      const stats = fstatSync(fd, { bigint: true })
      return stats.isFile() && stats.dev === device ? stats : undefined
    } finally {
      closeSync(fd)
    }
  }
}

/** A look at the files of this directory. It tells nothing where its file system might have to ask a server. */
export async function cachedLookIn(directory: string): Promise<CachedLook> {
  const fileSystem = await statfs(directory).catch(() => undefined)
  if (fileSystem === undefined || !LOCAL.has(fileSystem.type)) return NEVER
  const { dev } = await lstat(directory, { bigint: true })
  return lookBy(openCachedName, dev)
}
