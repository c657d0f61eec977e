/** The backend of disks that are files of a directory and are made when they are first asked for. */
import { type BigIntStats, fstatSync } from 'node:fs'
import { DEFAULT_NAME, type NameRules, parseExportName } from '../../../crds/export-name.ts'
import { lockFile, unlockFile } from '../../linux/syscalls.ts'
import { API_VERSION, type Backend, type OpenContext, type ProbeResult } from '../backend.ts'
import { type FileDisk, fileDisk, fileOperations, type WriteBarrier } from '../file/file-disk.ts'
import { copyOfNow, type PointCopy } from '../file/point-copy.ts'
import type { OpenContent } from './content.ts'
import { closeDescriptor } from './descriptors.ts'
import type { DiskDirectory } from './directory.ts'
import { CreationAbortedError, DiskError, DiskInUseError, NoSuchDiskError } from './errors.ts'
import { openExisting } from './existing.ts'
import { findLockHolder } from './lock-holder.ts'
import { checkSize, type PreparedRecipe } from './recipe.ts'

/** Most names that `listExports` gives. */
export const MAX_LISTED = 10_000

/** How long a recipe's program may run by default, in ms. */
export const DEFAULT_COMMAND_TIMEOUT_MS = 600_000

/** A name whose disk keeps vanishing between being made and being opened is given up after so many rounds. */
const MAX_ROUNDS = 5

/** What a backend of disks is made of. */
export interface DisksConfig {
  readonly directory: DiskDirectory
  readonly recipe: PreparedRecipe
  /** Bytes of a new disk; a client's own wish goes before it. */
  readonly size: number
  /** Default: 10 minutes (DEFAULT_COMMAND_TIMEOUT_MS). */
  readonly commandTimeoutMs?: number
  /** Default: strict. */
  readonly names?: NameRules
  /**
   * The file that an export name stands for, a valid name itself. With it no names are listed. Default:
   * the file of the same name, `default` for the empty name.
   */
  readonly fileName?: (exportName: string) => string
}

/** One open file description with its lock, shared by all connections that use the disk in the same way. */
interface SharedDisk {
  readonly key: string
  /** The file, however it is used. */
  readonly file: string
  readonly disk: FileDisk
  /** Who might open the file when it was opened. */
  readonly rights: string
  users: number
}

/** What has been looked at. */
type Found = Pick<OpenContent, 'size' | 'stats'>

/** Identifies the file as long as it is open. */
const fileKey = ({ stats }: Found) => `${stats.dev} ${stats.ino}`

const rightsOf = ({ mode, uid, gid }: BigIntStats) => `${mode} ${uid} ${gid}`

/** Identifies what may share a lock. The inode tells a disk from one made after it was deleted. */
function sharingKey(fileName: string, { stats }: Found, readOnly: boolean): string {
  return `${readOnly ? 'read' : 'write'} ${stats.dev} ${stats.ino} ${fileName}`
}

const openingKey = (fileName: string, readOnly: boolean) => `${readOnly ? 'read' : 'write'} ${fileName}`

/**
 * Makes a backend over a directory of disks. Throws RecipeError for an impossible size. Its `open` throws
 * the errors of errors.ts and ExportNameError; what a failed or aborted `open` had taken is given back.
 *
 * `open` takes a lock on the disk: for writing or, if the client may only read, for reading. All
 * connections to this backend share it, with one descriptor, so that a flush covers what any of them
 * wrote. Which clients may share a disk is decided by who calls `open`.
 */
export function createDisksBackend(config: DisksConfig) {
  const { directory, recipe, size, commandTimeoutMs = DEFAULT_COMMAND_TIMEOUT_MS, names = 'strict' } = config
  checkSize(recipe, size)
  const shared = new Map<string, SharedDisk>()
  const byDisk = new Map<FileDisk, SharedDisk>()
  /** Files that are being opened, which those who come now will share. */
  const openings = new Map<string, Promise<unknown>>()
  /** By file: what its writers, also those that come now, have to wait for. */
  const barriers = new Map<string, WriteBarrier>()
  const copies = new Map<string, Promise<unknown>>()

  function fileNameOf(exportName: string): string {
    if (config.fileName === undefined) return parseExportName(exportName, names)
    return parseExportName(config.fileName(exportName), 'relaxed')
  }

  function join(entry: SharedDisk, { size }: Found): SharedDisk {
    entry.users++
    entry.disk.size = Math.max(entry.disk.size, size)
    return entry
  }

  /** Shares a file that is open in the same way without opening it once more. */
  function tryJoin(fileName: string, stats: BigIntStats, readOnly: boolean): FileDisk | undefined {
    const found = { size: Number(stats.size), stats }
    const entry = shared.get(sharingKey(fileName, found, readOnly))
    // Where these have changed, whether it may be opened still is for the kernel to say.
    return entry?.rights === rightsOf(stats) ? join(entry, found).disk : undefined
  }

  /** Synchronous from the look into the map to the entry in it, so that two openers cannot both miss. */
  function tryShare(fileName: string, opened: OpenContent, readOnly: boolean): SharedDisk | undefined {
    const key = sharingKey(fileName, opened, readOnly)
    const existing = shared.get(key)
    if (existing !== undefined) return join(existing, opened)
    const { fd, blockDevice } = opened
    if (!lockFile(fd, readOnly ? 'read' : 'write')) return undefined
    const disk = fileDisk(fd, opened.size, { durable: true, readOnly, blockDevice })
    const file = fileKey(opened)
    disk.barrier = barriers.get(file)
    const entry = { key, file, disk, rights: rightsOf(opened.stats), users: 1 }
    shared.set(key, entry)
    byDisk.set(disk, entry)
    return entry
  }

  async function holderOf(opened: OpenContent) {
    // Under whatever name: it may have been renamed since, or have two.
    const isOurs = [...shared.values()].some(({ file }) => file === fileKey(opened))
    return isOurs ? { pid: process.pid, program: 'this server' } : await findLockHolder(opened.stats)
  }

  async function share(fileName: string, opened: OpenContent, readOnly: boolean): Promise<FileDisk> {
    let entry: SharedDisk | undefined
    try {
      entry = tryShare(fileName, opened, readOnly)
      if (entry === undefined) throw new DiskInUseError(fileName, await holderOf(opened))
      return entry.disk
    } finally {
      if (entry?.disk.fd !== opened.fd) await closeDescriptor(opened.fd)
    }
  }

  async function openAnew(
    fileName: string,
    readOnly: boolean,
    signal: AbortSignal,
    seen?: BigIntStats,
  ): Promise<FileDisk | undefined> {
    const opened = await openExisting(directory, fileName, readOnly, seen)
    if (signal.aborted) {
      if (opened !== undefined) await closeDescriptor(opened.fd)
      throw new CreationAbortedError({ cause: signal.reason })
    }
    return opened && (await share(fileName, opened, readOnly))
  }

  /** Undefined if there is nothing of that name. A file that is in sight is opened once for all who come meanwhile. */
  async function openOrJoin(
    fileName: string,
    readOnly: boolean,
    signal: AbortSignal,
  ): Promise<FileDisk | undefined> {
    const seen = signal.aborted ? undefined : directory.glance(fileName)
    if (seen === undefined) return await openAnew(fileName, readOnly, signal)
    const joined = tryJoin(fileName, seen, readOnly)
    if (joined !== undefined) return joined
    const key = openingKey(fileName, readOnly)
    const opening = openAnew(fileName, readOnly, signal, seen)
    openings.set(key, opening)
    try {
      return await opening
    } finally {
      if (openings.get(key) === opening) openings.delete(key)
    }
  }

  async function open(
    exportName: string,
    { readOnly, requestedSize, signal }: OpenContext,
  ): Promise<FileDisk> {
    const fileName = fileNameOf(exportName)
    const order = { recipe, size: requestedSize ?? size, timeoutMs: commandTimeoutMs }
    for (let round = 0; round < MAX_ROUNDS; round++) {
      // A disk whose creation is under way may have its name already, but is not durable yet.
      await directory.settled(fileName, signal)
      const opening = openings.get(openingKey(fileName, readOnly))
      if (opening !== undefined) {
        await opening.catch(() => {})
        // Deleted meanwhile, it may be being made again.
        await directory.settled(fileName, signal)
      }
      const disk = await openOrJoin(fileName, readOnly, signal)
      if (disk !== undefined) return disk
      if (!directory.creates) throw new NoSuchDiskError(fileName)
      await directory.create(fileName, order, signal)
    }
    throw new DiskError('EAGAIN', 'The disk keeps vanishing as soon as it is made; something deletes it')
  }

  async function probe(exportName: string, requestedSize?: number): Promise<ProbeResult | undefined> {
    const fileName = fileNameOf(exportName)
    const existing = await openExisting(directory, fileName, true)
    if (existing !== undefined) {
      await closeDescriptor(existing.fd)
      return { size: existing.size }
    }
    if (!directory.creates) throw new NoSuchDiskError(fileName)
    return recipe.fillsFile ? { size: requestedSize ?? size } : undefined
  }

  /** The disk `default` appears as the empty name, which stands for it. */
  async function listExports(): Promise<readonly string[]> {
    if (config.fileName !== undefined) return []
    const found = await directory.list(names, MAX_LISTED)
    const others = found.filter(name => name !== DEFAULT_NAME).slice(0, MAX_LISTED - 1)
    return directory.creates || others.length < found.length ? ['', ...others] : others
  }

  async function close(disk: FileDisk): Promise<void> {
    const entry = byDisk.get(disk)
    if (entry === undefined || --entry.users > 0) return
    while (disk.trims.isBusy) {
      // Whoever comes meanwhile shares the disk, and closes it in the end.
      await disk.trims.settled()
      if (entry.users > 0 || byDisk.get(disk) !== entry) return
    }
    shared.delete(entry.key)
    byDisk.delete(disk)
    try {
      // At once, so that the next client need not wait for the thread pool.
      unlockFile(disk.fd)
    } finally {
      await closeDescriptor(disk.fd)
    }
  }

  /** Another server may be writing the disk, of which this one would know nothing. */
  async function refuseForeignWriter(fileName: string, opened: OpenContent): Promise<void> {
    if (shared.has(sharingKey(fileName, opened, false))) return
    if (!lockFile(opened.fd, 'read')) throw new DiskInUseError(fileName, await holderOf(opened))
    // At once, before a client of this server could be refused for it.
    unlockFile(opened.fd)
  }

  /**
   * Copies the disk as it is at one moment, whoever has it open, into an empty file. One copy at a time; the others wait.
   * Throws NoSuchDiskError, DiskInUseError, DiskError for what is no file, and what copyOfNow throws.
   */
  async function copy(exportName: string, to: number, signal: AbortSignal): Promise<PointCopy> {
    const fileName = fileNameOf(exportName)
    await directory.settled(fileName, signal)
    const opened = await openExisting(directory, fileName, true)
    if (opened === undefined) throw new NoSuchDiskError(fileName)
    const { fd, blockDevice } = opened
    const file = fileKey(opened)
    const entries = () => [...shared.values()].filter(entry => entry.file === file)
    try {
      if (blockDevice) throw new DiskError('EINVAL', 'The disk is a block device; only files can be copied')
      for (let other = copies.get(file); other !== undefined; other = copies.get(file)) await other
      signal.throwIfAborted()
      // From here to the entry in the map nothing is waited for: of those who wait for the same copy, one goes on.
      const copying = refuseForeignWriter(fileName, opened).then(() =>
        copyOfNow(
          {
            fd,
            get size() {
              return fstatSync(fd).size
            },
            async answeredTrims() {
              for (const { disk } of entries()) await disk.trims.answeredDone()
            },
            changes: () => entries().reduce((sum, { disk }) => sum + disk.changes, 0),
            setBarrier(barrier) {
              if (barrier === undefined) barriers.delete(file)
              else barriers.set(file, barrier)
              for (const { disk } of entries()) disk.barrier = barrier
            },
          },
          to,
          signal,
        ),
      )
      const ended = copying.catch(() => {}).finally(() => copies.delete(file))
      copies.set(file, ended)
      return await copying
    } finally {
      await closeDescriptor(fd)
    }
  }

  return {
    ...fileOperations,
    apiVersion: API_VERSION,
    open,
    copy,
    probe,
    listExports,
    close,
    canWrite: disk => !disk.readOnly,
    canMultiConn: () => true,
    blockSizes: () => ({ minimum: 1, preferred: 4096, maximum: 2 ** 25 }),
  } satisfies Backend<FileDisk> & { copy: unknown }
}

export type DisksBackend = ReturnType<typeof createDisksBackend>
