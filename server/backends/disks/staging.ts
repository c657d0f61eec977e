/**
 * A private directory of this server in which disks are made, inside a directory that other servers may
 * use at the same time. A file beside it, `NAME.lock`, is locked as long as its server lives; that is how
 * a later server tells what a dead one left behind (see sweep.ts).
 */
import { randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { lstat, mkdir, realpath, rm, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { codeOf, toError } from '../../linux/errno.ts'
import { lockFile } from '../../linux/syscalls.ts'
import { closeDescriptor, openDescriptor, setDescriptorTimes, statDescriptor } from './descriptors.ts'
import { DirectoryError, SPACE_PROBLEMS } from './errors.ts'
import { removeTree } from './remove-tree.ts'
import { Slots } from './slots.ts'
import { LOCK_SUFFIX, stagingName, sweep } from './sweep.ts'

/** How many disks one staging area makes at once. */
export const MAX_AT_ONCE = 64

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDWR } = constants

/** What a staging area takes beside its place. */
export interface StagingOptions {
  /** Told of what went wrong without failing anything: a leftover that cannot be removed. */
  readonly onProblem?: (problem: Error) => void
  /** Default: 64 (MAX_AT_ONCE). */
  readonly maxAtOnce?: number
  /** Sees to it that the place itself, of which something has been removed, is there. Throws DirectoryError. */
  readonly restore?: () => Promise<void>
  /** Told of each work that has ended: how long it took with the wait for its turn, in ms, and how it failed if it did. */
  readonly onWork?: (ms: number, error: unknown) => void
}

/** What is done in a staging directory. */
export type StagedWork<Result> = (directory: string, signal: AbortSignal) => Promise<Result>

/** A place to make disks in. */
export interface Staging {
  /**
   * Gives `work` an empty private directory, and removes it with all its content when the work is over,
   * however it ends. At most `maxAtOnce` run at once, the others wait in their order until `signal` calls
   * them off. The work gets a signal too, which `signal` and `close` abort. Throws what `work` throws,
   * CreationAbortedError, DirectoryError.
   */
  use<Result>(signal: AbortSignal, work: StagedWork<Result>): Promise<Result>
  /** Calls off all work, waits for its end, and gives the place up. */
  close(): Promise<void>
}

interface Registration {
  readonly path: string
  /** Descriptor of the lock file. */
  readonly lock: number
  readonly inode: bigint
}

async function tryRegister(parent: string): Promise<Registration | undefined> {
  const path = join(parent, stagingName(randomBytes(16)))
  const lockPath = path + LOCK_SUFFIX
  const lock = await openDescriptor(lockPath, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_NONBLOCK, 0o600)
  try {
    // A sweeping server may have locked and removed the file before it was locked here.
    if (lockFile(lock, 'write') && (await statDescriptor(lock)).nlink > 0) {
      await mkdir(path, { mode: 0o700 })
      return { path, lock, inode: (await lstat(path, { bigint: true })).ino }
    }
  } catch (error) {
    await unlink(lockPath).finally(() => closeDescriptor(lock))
    throw error
  }
  await closeDescriptor(lock)
  return undefined
}

async function register(parent: string): Promise<Registration> {
  for (let attempt = 0; attempt < 10; attempt++) {
    const registration = await tryRegister(parent)
    if (registration !== undefined) return registration
  }
  throw new DirectoryError('EAGAIN', `Other servers that start keep interfering in ${parent}; try again`)
}

/** Makes this server's own place in `parent`, after removing those that dead servers left there. */
export async function openStaging(parentPath: string, options: StagingOptions = {}): Promise<Staging> {
  const { onProblem, onWork, restore, maxAtOnce = MAX_AT_ONCE } = options
  const parent = await realpath(parentPath)
  const slots = new Slots(maxAtOnce)
  let registration = await register(parent)
  for (const problem of await sweep(parent)) onProblem?.(problem)
  let count = 0

  /** Cleaners of /var/tmp remove what looks old, and someone else may then have taken the name. */
  async function isLost({ path, lock, inode }: Registration): Promise<boolean> {
    const found = await lstat(path, { bigint: true }).catch((error: unknown) => {
      if (codeOf(error) === 'ENOENT') return undefined
      throw error
    })
    // A directory whose lock has gone counts as a dead server's: whoever sweeps removes it.
    return found?.ino !== inode || !found.isDirectory() || (await statDescriptor(lock)).nlink === 0
  }

  async function ownPath(): Promise<string> {
    if (await isLost(registration)) {
      const lost = registration
      await restore?.()
      registration = await register(parent)
      await closeDescriptor(lost.lock)
    }
    // Never older than the directory, so that no cleaner takes it first. Where that may not be set it stays as it is.
    await setDescriptorTimes(registration.lock, new Date(), new Date()).catch(() => {})
    return registration.path
  }

  let checking: Promise<string> | undefined
  async function makeDirectory(): Promise<string> {
    checking ??= ownPath().finally(() => {
      checking = undefined
    })
    try {
      const path = join(await checking, String(count++))
      await mkdir(path, { mode: 0o700 })
      return path
    } catch (error) {
      if (error instanceof DirectoryError) throw error
      const code = codeOf(error) ?? 'EIO'
      const problem = SPACE_PROBLEMS[code] ?? `No disk can be made: its directory fails with ${code}`
      throw new DirectoryError(code, problem, { cause: error })
    }
  }

  const closing = new AbortController()
  const underWay = new Set<Promise<unknown>>()

  async function run<Result>(signal: AbortSignal, work: StagedWork<Result>): Promise<Result> {
    const release = await slots.acquire(signal)
    try {
      const path = await makeDirectory()
      try {
        return await work(path, signal)
      } finally {
        await removeTree(path).catch((error: unknown) => {
          onProblem?.(toError(error))
        })
      }
    } finally {
      release()
    }
  }

  return {
    async use(signal, work) {
      const start = performance.now()
      const result = run(AbortSignal.any([signal, closing.signal]), work)
      underWay.add(result)
      const ended = (error?: unknown) => {
        underWay.delete(result)
        onWork?.(performance.now() - start, error)
      }
      try {
        const made = await result
        ended()
        return made
      } catch (error) {
        ended(error)
        throw error
      }
    },
    async close() {
      if (closing.signal.aborted) return
      closing.abort()
      await Promise.allSettled(underWay)
      const { path, lock } = registration
      try {
        await removeTree(path)
        await rm(path + LOCK_SUFFIX, { force: true })
      } finally {
        await closeDescriptor(lock)
      }
    },
  }
}
