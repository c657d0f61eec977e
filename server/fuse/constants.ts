/** Numbers of the FUSE protocol, by their names in the kernel's header linux/fuse.h. */

export const FUSE_KERNEL_VERSION = 7
/** The newest minor version that is spoken here; an older kernel lowers it, down to OLDEST_MINOR. */
export const FUSE_KERNEL_MINOR_VERSION = 38
/** Before it, attributes and INIT were shorter. */
export const OLDEST_MINOR = 23

export const FUSE_ROOT_ID = 1

export const OPCODE = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  SETATTR: 4,
  OPEN: 14,
  READ: 15,
  WRITE: 16,
  STATFS: 17,
  RELEASE: 18,
  FSYNC: 20,
  FLUSH: 25,
  INIT: 26,
  INTERRUPT: 36,
  DESTROY: 38,
  BATCH_FORGET: 42,
  FALLOCATE: 43,
  LSEEK: 46,
} as const

export const FATTR = {
  MODE: 1 << 0,
  UID: 1 << 1,
  GID: 1 << 2,
  SIZE: 1 << 3,
  FH: 1 << 6,
  LOCKOWNER: 1 << 9,
  CTIME: 1 << 10,
  KILL_SUIDGID: 1 << 11,
} as const

export const FOPEN_DIRECT_IO = 1 << 0
export const FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6

/** Flags of INIT, the first 32. */
export const INIT_FLAG = {
  ASYNC_READ: 1 << 0,
  ATOMIC_O_TRUNC: 1 << 3,
  BIG_WRITES: 1 << 5,
  ASYNC_DIO: 1 << 15,
  MAX_PAGES: 1 << 22,
  INIT_EXT: 1 << 30,
} as const

/** Flags of INIT, the second 32. */
export const INIT_FLAG2 = {
  DIRECT_IO_ALLOW_MMAP: 1 << (36 - 32),
} as const

/** Bytes of the headers of a request and of a reply. */
export const IN_HEADER_SIZE = 40
export const OUT_HEADER_SIZE = 16
/** Bytes of struct fuse_write_in, which stands between the header and the data. */
export const WRITE_IN_SIZE = 40

export const O_TRUNC = 0o1000
/** O_SYNC includes it. */
export const O_DSYNC = 0o10000

export const S_IFREG = 0o100000
