/** The one table of Linux error numbers (asm-generic/errno*.h) that this project names. */
export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  ENOTTY: 25,
  EFBIG: 27,
  ENOSPC: 28,
  ESPIPE: 29,
  EROFS: 30,
  EPIPE: 32,
  ENOSYS: 38,
  ELOOP: 40,
  EPROTO: 71,
  EOVERFLOW: 75,
  EOPNOTSUPP: 95,
  EADDRINUSE: 98,
  ECONNABORTED: 103,
  ECONNRESET: 104,
  ENOBUFS: 105,
  ENOTCONN: 107,
  ESHUTDOWN: 108,
  ETIMEDOUT: 110,
  ESTALE: 116,
  EDQUOT: 122,
} as const

/** A name such as `ENOSPC`. */
export type ErrnoName = keyof typeof ERRNO

const NAMES: ReadonlyMap<number, ErrnoName> = new Map(
  Object.entries(ERRNO).map(([name, number]) => [number, name as ErrnoName]),
)

/** Name of an error number, `E` and the number where the table has none. */
export function errnoName(errno: number): string {
  return NAMES.get(errno) ?? `E${errno}`
}

/** Error number of a `code`; EIO for codes that the table does not have. */
export function errnoOf(code: unknown): number {
  return typeof code === 'string' && Object.hasOwn(ERRNO, code) ? ERRNO[code as ErrnoName] : ERRNO.EIO
}

/** A system call that failed. */
export class SystemCallError extends Error {
  override readonly name = 'SystemCallError'
  readonly code: string
  readonly syscall: string
  readonly errno: number

  constructor(syscall: string, errno: number, subject?: string) {
    super(`${syscall} failed with ${errnoName(errno)}${subject === undefined ? '' : `: ${subject}`}`)
    this.code = errnoName(errno)
    this.syscall = syscall
    this.errno = errno
  }
}

/** The `code` of a thrown value, if it has one. */
export function codeOf(thrown: unknown): string | undefined {
  return thrown instanceof Error && 'code' in thrown && typeof thrown.code === 'string'
    ? thrown.code
    : undefined
}

/** A thrown value as an Error. */
export function toError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown))
}
