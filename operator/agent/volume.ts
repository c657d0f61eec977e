/** The pool's volume: disks, spares and what is kept of deleted disks. Every step can be repeated after a crash. */
import { lstat, mkdir, readdir, rename, rm, statfs, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { syncDirectory } from '../../server/backends/disks/records.ts'
import { renameNoReplace } from '../../server/linux/syscalls.ts'
import type { FileView } from './observed.ts'

export interface Volume {
  /** The file of a disk. */
  disk(uid: string): Promise<FileView | undefined>
  /** Names of the spares of this key, in order. */
  spares(key: string | undefined): Promise<readonly string[]>
  hasSpare(name: string): Promise<boolean>
  /** Makes a spare the file of a disk. One that has a file keeps it. */
  takeSpare(name: string, uid: string): Promise<void>
  /** Removes the spares of all other keys. */
  dropSpares(key: string | undefined): Promise<readonly string[]>
  removeDisk(uid: string): Promise<void>
  retainDisk(uid: string): Promise<void>
  /** Is there what was kept of a deleted disk? */
  isRetained(uid: string): Promise<boolean>
  /** The file of a snapshot. */
  snapshot(uid: string): Promise<SnapshotFile | undefined>
  snapshotPath(uid: string): string
  removeSnapshot(uid: string): Promise<void>
  /** Where the copy that is to be the disk or snapshot of this uid is made. Nothing is there. */
  copyPath(uid: string): Promise<string>
  /** Gives a copy that is whole and durable its name, unless something has it. */
  publishCopy(uid: string, place: Place): Promise<void>
  dropCopy(uid: string): Promise<void>
  space(): Promise<{ readonly capacity: number; readonly free: number }>
}

/** Directories of what copies are made of, and become. */
export type Place = 'disks' | 'snapshots'

export interface SnapshotFile {
  /** Bytes. */
  readonly size: number
  /** The moment of which it is. */
  readonly takenAt: Date
}

/** A name or uid that is no name of a file of ours. It is never joined into a path. */
export class VolumeNameError extends Error {
  override readonly name = 'VolumeNameError'
  readonly code = 'EINVAL'
}

const UID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/
const SPARE = /^[0-9a-f]{16}-[0-9a-z]{1,16}$/

function checked(name: string, pattern: RegExp): string {
  if (pattern.test(name)) return name
  throw new VolumeNameError(`${JSON.stringify(name.slice(0, 64))} is no name of a file of the pool.`)
}

/** Is this a uid as API servers make them? */
export const isUid = (uid: string | undefined): uid is string => uid !== undefined && UID.test(uid)

const isMissing = (error: unknown) => (error as NodeJS.ErrnoException).code === 'ENOENT'

/** Errors by which a file system says that it knows no such rename. */
const NO_SUCH_RENAME: readonly unknown[] = ['EINVAL', 'ENOSYS', 'ENOTSUP']

/** Never replaces a disk that is there. Not by a hard link: a crash could leave one spare under two names. */
async function moveUnlessThere(from: string, to: string): Promise<void> {
  try {
    renameNoReplace(from, to)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST' || code === 'ENOENT') return
    if (!NO_SUCH_RENAME.includes(code)) throw error
    const isThere = await lstat(to).then(
      () => true,
      () => false,
    )
    if (!isThere) await rename(from, to)
  }
}

/** Opens a volume that is mounted at `path`; makes what directories it lacks. */
export async function openVolume(path: string): Promise<Volume> {
  const [disks, spares, retained, snapshots, copies] = [
    'disks',
    'spares',
    'retained',
    'snapshots',
    'copies',
  ].map(name => join(path, name)) as [string, string, string, string, string]
  // Copies that an agent before this one had begun: whoever made them has been, or is being, called off.
  await rm(copies, { recursive: true, force: true })
  for (const directory of [disks, spares, retained, snapshots, copies]) {
    await mkdir(directory, { recursive: true, mode: 0o770 })
  }
  const diskPath = (uid: string) => join(disks, checked(uid, UID))
  const sparePath = (name: string) => join(spares, checked(name, SPARE))

  async function measure(file: string): Promise<FileView | undefined> {
    try {
      const stats = await lstat(file)
      // A link or a device that a command made is there, too; its size is not known here.
      return { size: stats.isFile() ? stats.size : 0, allocated: stats.blocks * 512 }
    } catch (error) {
      if (isMissing(error)) return undefined
      throw error
    }
  }

  async function ignoreMissing(work: Promise<void>): Promise<void> {
    await work.catch((error: unknown) => {
      if (!isMissing(error)) throw error
    })
  }

  const allSpares = async () => (await readdir(spares)).filter(name => SPARE.test(name)).sort()

  return {
    disk: uid => measure(diskPath(uid)),

    async spares(key) {
      return key === undefined ? [] : (await allSpares()).filter(name => name.startsWith(`${key}-`))
    },

    hasSpare: async name => (await measure(sparePath(name))) !== undefined,

    async takeSpare(name, uid) {
      await moveUnlessThere(sparePath(name), diskPath(uid))
      await syncDirectory(disks)
    },

    async dropSpares(key) {
      const stale = (await allSpares()).filter(name => key === undefined || !name.startsWith(`${key}-`))
      for (const name of stale) await ignoreMissing(unlink(sparePath(name)))
      return stale
    },

    async removeDisk(uid) {
      await ignoreMissing(unlink(diskPath(uid)))
      await syncDirectory(disks)
    },

    async retainDisk(uid) {
      await ignoreMissing(rename(diskPath(uid), join(retained, checked(uid, UID))))
      await syncDirectory(retained)
      await syncDirectory(disks)
    },

    isRetained: async uid => (await measure(join(retained, checked(uid, UID)))) !== undefined,

    async snapshot(uid) {
      try {
        const stats = await lstat(join(snapshots, checked(uid, UID)))
        return { size: stats.size, takenAt: stats.mtime }
      } catch (error) {
        if (isMissing(error)) return undefined
        throw error
      }
    },

    snapshotPath: uid => join(snapshots, checked(uid, UID)),

    async removeSnapshot(uid) {
      await ignoreMissing(unlink(join(snapshots, checked(uid, UID))))
      await syncDirectory(snapshots)
    },

    async copyPath(uid) {
      const copy = join(copies, checked(uid, UID))
      await ignoreMissing(unlink(copy))
      return copy
    },

    async publishCopy(uid, place) {
      const directory = place === 'disks' ? disks : snapshots
      await moveUnlessThere(join(copies, checked(uid, UID)), join(directory, uid))
      await syncDirectory(directory)
    },

    dropCopy: uid => ignoreMissing(unlink(join(copies, checked(uid, UID)))),

    async space() {
      const { blocks, bavail, bsize } = await statfs(path)
      return { capacity: blocks * bsize, free: bavail * bsize }
    },
  }
}
