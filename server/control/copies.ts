/** Copies of disks, made for another program while clients go on using them. */
import { constants } from 'node:fs'
import { lstat, unlink } from 'node:fs/promises'
import { isAbsolute, normalize } from 'node:path'
import { closeDescriptor, openDescriptor, statDescriptor } from '../backends/disks/descriptors.ts'
import { SPACE_PROBLEMS } from '../backends/disks/errors.ts'
import type { PointCopy } from '../backends/file/point-copy.ts'
import { codeOf, toError } from '../linux/errno.ts'
import { RequestError } from './unix-http.ts'

/** Who can copy a declared disk. */
export interface CopiedSource {
  /** Into an open file; see DeclaredDisksControl. */
  copy(uid: string, to: number, signal: AbortSignal): Promise<PointCopy>
}

/** The answer to `POST /copies`. */
export interface CopyAnswer {
  /** Bytes. */
  readonly size: number
  readonly method: PointCopy['method']
  /** RFC 3339: the moment of which the copy is. */
  readonly at: string
  /** How long the disk's writes were held, in ms. */
  readonly heldMs: number
}

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = constants
const UID = /^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$/
const MAX_PATH = 4095

/**
 * Makes a copy as a new file, durable but for its name. One that fails, or is called off because whoever asked has
 * gone, leaves nothing.
 * @throws RequestError
 */
export async function makeCopy(
  source: CopiedSource | undefined,
  body: unknown,
  signal: AbortSignal,
): Promise<CopyAnswer> {
  const { uid, to } = orderOf(body)
  if (source === undefined) throw new RequestError(404, 'This server has no declared disks (--disks).')
  const fd = await openDescriptor(to, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600).catch(
    (error: unknown) => {
      throw problem(error, `${to} cannot be made`)
    },
  )
  try {
    const { size, method, at, heldMs } = await source.copy(uid, fd, signal)
    return { size, method, at: at.toISOString(), heldMs: Math.round(heldMs * 1000) / 1000 }
  } catch (error) {
    await removeOwn(to, fd)
    throw problem(error, 'The copy failed')
  } finally {
    await closeDescriptor(fd)
  }
}

function orderOf(body: unknown): { uid: string; to: string } {
  const { uid, to } = (body ?? {}) as Readonly<Record<string, unknown>>
  if (typeof uid !== 'string' || !UID.test(uid)) {
    throw new RequestError(400, 'uid: Give the metadata.uid of the disk to copy.')
  }
  const isPath = typeof to === 'string' && isAbsolute(to) && normalize(to) === to && !to.includes('\0')
  if (!isPath || to.length > MAX_PATH)
    throw new RequestError(400, 'to: Give the absolute path of a new file.')
  return { uid, to }
}

/** Whoever asks again may have begun a new file of the same name. */
async function removeOwn(path: string, fd: number): Promise<void> {
  const [own, found] = await Promise.all([
    statDescriptor(fd, { bigint: true }),
    lstat(path, { bigint: true }).catch(() => undefined),
  ])
  if (found?.ino === own.ino && found.dev === own.dev) await unlink(path)
}

/** Statuses that tell a program what to make of it; else 409: it may be tried again. */
const STATUS: Readonly<Record<string, number>> = { ENOENT: 404, EINVAL: 422, EEXIST: 412 }

function problem(error: unknown, what: string): RequestError {
  const code = codeOf(error) ?? 'EIO'
  if (code in SPACE_PROBLEMS) {
    return new RequestError(507, `No space is left for the copy (${code}).`, { cause: error })
  }
  const reason = toError(error).message
  return new RequestError(STATUS[code] ?? 409, `${what}: ${reason}`, { cause: error })
}
