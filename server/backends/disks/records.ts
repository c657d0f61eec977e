/**
 * Tells links and block devices that a command made from those that somebody planted. The record of a disk is a
 * hard link to the very same inode, in a hidden directory. A link that replaces the disk is another inode, and as
 * long as the record is there no other inode can get the number.
 */
import { type BigIntStats, constants } from 'node:fs'
import { link, lstat, mkdir, readdir, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { codeOf } from '../../linux/errno.ts'
import { lockFile } from '../../linux/syscalls.ts'
import { closeDescriptor, openDescriptor, syncDescriptor } from './descriptors.ts'
import { DirectoryError } from './errors.ts'

const { O_CREAT, O_DIRECTORY, O_NOFOLLOW, O_RDONLY, O_RDWR } = constants

const LOCK_RETRY_MS = 10
const LOCK_PATIENCE_MS = 10_000

/** Makes the entries of a directory durable. */
export async function syncDirectory(path: string): Promise<void> {
  const fd = await openDescriptor(path, O_RDONLY | O_DIRECTORY)
  try {
    await syncDescriptor(fd)
  } finally {
    await closeDescriptor(fd)
  }
}

/**
 * Makes a directory unless it is there. Not by `recursive`, which goes on for ever where the file system says ENOENT
 * though the parent exists, as /proc does.
 */
export async function makeDirectory(path: string): Promise<void> {
  await mkdir(path, { mode: 0o700 }).catch((error: unknown) => {
    if (codeOf(error) !== 'EEXIST') throw error
  })
}

/** lstat; undefined if nothing is there. */
export async function lookUp(path: string): Promise<BigIntStats | undefined> {
  try {
    return await lstat(path, { bigint: true })
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined
    throw error
  }
}

function isSame(one: BigIntStats | undefined, other: BigIntStats | undefined): boolean {
  return one !== undefined && other !== undefined && one.ino === other.ino && one.dev === other.dev
}

async function removeIfThere(path: string): Promise<void> {
  await unlink(path).catch((error: unknown) => {
    if (codeOf(error) !== 'ENOENT') throw error
  })
}

/** The records of the disks in `directory`, kept in `hidden`. */
export class Records {
  readonly #directory: string
  readonly #hidden: string
  readonly #links: string

  constructor(directory: string, hidden: string) {
    this.#directory = directory
    this.#hidden = hidden
    this.#links = join(hidden, 'links')
  }

  /** Path of a disk's record; opening it opens what the disk's link points to. */
  pathOf(fileName: string): string {
    return join(this.#links, fileName)
  }

  /** Was the link or block device of this name, found as `stats`, made by a command of ours? */
  async has(fileName: string, stats: BigIntStats): Promise<boolean> {
    return isSame(await lookUp(this.pathOf(fileName)), stats)
  }

  /**
   * Records what stands at `path` as the disk `fileName` and then publishes it. Nothing else is recorded
   * meanwhile, by no server: of two that make the same name, the loser must not replace the winner's record.
   */
  async record<Result>(path: string, fileName: string, publish: () => Promise<Result>): Promise<Result> {
    return await this.#exclusively(async () => {
      if ((await lookUp(join(this.#directory, fileName))) === undefined) {
        await removeIfThere(this.pathOf(fileName))
        await link(path, this.pathOf(fileName))
        await syncDirectory(this.#links)
      }
      return await publish()
    })
  }

  /** Removes the records of disks that are gone. */
  async sweep(): Promise<void> {
    if ((await lookUp(this.#links)) === undefined) return
    await this.#exclusively(async () => {
      for (const fileName of await readdir(this.#links)) {
        const record = await lookUp(this.pathOf(fileName))
        if (!isSame(record, await lookUp(join(this.#directory, fileName)))) {
          await removeIfThere(this.pathOf(fileName))
        }
      }
    })
  }

  async #exclusively<Result>(work: () => Promise<Result>): Promise<Result> {
    await makeDirectory(this.#links)
    const lock = await openDescriptor(join(this.#hidden, 'links.lock'), O_RDWR | O_CREAT | O_NOFOLLOW, 0o600)
    try {
      for (let waited = 0; !lockFile(lock, 'write'); waited += LOCK_RETRY_MS) {
        if (waited >= LOCK_PATIENCE_MS) {
          throw new DirectoryError(
            'EAGAIN',
            `Another server keeps ${join(this.#hidden, 'links.lock')} locked`,
          )
        }
        await sleep(LOCK_RETRY_MS)
      }
      return await work()
    } finally {
      await closeDescriptor(lock)
    }
  }
}
