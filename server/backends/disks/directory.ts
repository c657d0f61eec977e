/** A directory of disks: finds them, lists them, and makes each that is missing once. */
import { type BigIntStats, constants } from 'node:fs'
import { access, opendir, realpath, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { type NameRules, parseExportName } from '../../../crds/export-name.ts'
import { type CachedLook, cachedLookIn } from '../../linux/cached-look.ts'
import { codeOf, toError } from '../../linux/errno.ts'
import { directoryReason } from '../../linux/reasons.ts'
import type { ContentOrder } from './content.ts'
import { createDisk, type OnStep, type Workshop } from './create.ts'
import { CreationAbortedError, DirectoryError, TooManyDisksError } from './errors.ts'
import type { DiskPlace } from './existing.ts'
import { lookUp, makeDirectory, Records } from './records.ts'
import { openStaging } from './staging.ts'
import { sweep } from './sweep.ts'

const { R_OK, W_OK, X_OK } = constants

/** Name of the hidden directory in which disks are made and records kept. */
export const HIDDEN_NAME = '.ondemand-disk'

/** What a directory of disks is opened with. */
export interface DiskDirectoryOptions {
  readonly path: string
  /** Whether disks may be made. */
  readonly create: boolean
  /** Most disks that the directory may hold; disks made by other servers at the same moment may go beyond it. */
  readonly maxDisks?: number
  /** How many disks are made at once; the others wait. Default: 64. */
  readonly maxAtOnce?: number
  /** Told of what went wrong without failing an operation. */
  readonly onProblem?: (problem: Error) => void
  /** Told of each disk whose making has ended, in so many ms with the wait for its turn, and how it failed if it did. */
  readonly onCreation?: (ms: number, error: unknown) => void
  /** Waited for between the steps of a creation. For tests. */
  readonly onStep?: OnStep
}

interface Creation {
  readonly fileName: string
  readonly done: Promise<unknown>
  readonly abort: AbortController
  waiting: number
  begun: boolean
}

interface Place extends DiskPlace {
  readonly look: CachedLook
}

/** An open directory of disks, to be shared by all backends that serve disks from it. */
export class DiskDirectory {
  /** Absolute path, without links. */
  readonly path: string
  readonly records: Records
  readonly #look: CachedLook
  readonly #workshop: Workshop | undefined
  readonly #maxDisks: number
  readonly #onProblem: ((problem: Error) => void) | undefined
  /** What can be joined, by file name. */
  readonly #creations = new Map<string, Creation>()
  readonly #unfinished = new Set<Creation>()
  #closed = false

  /** Use openDiskDirectory. */
  constructor({ path, records, look }: Place, workshop: Workshop | undefined, options: DiskDirectoryOptions) {
    this.path = path
    this.records = records
    this.#look = look
    this.#workshop = workshop
    this.#maxDisks = options.maxDisks ?? Number.POSITIVE_INFINITY
    this.#onProblem = options.onProblem
  }

  /** Whether disks may be made here. */
  get creates(): boolean {
    return this.#workshop !== undefined && !this.#closed
  }

  /** The file of this name as it is now, without waiting; undefined where that cannot be told, or it is no file. */
  glance(fileName: string): BigIntStats | undefined {
    return this.#look(join(this.path, fileName))
  }

  /** Waits for a creation of this disk that is under way. Throws what it throws, or CreationAbortedError. */
  async settled(fileName: string, signal: AbortSignal): Promise<void> {
    const creation = this.#creations.get(fileName)
    if (creation !== undefined) await this.#join(creation, signal)
  }

  /**
   * Makes the disk, or joins those who wait for the same one. If the signal is aborted only this caller's
   * wait ends. A creation that nobody waits for any more is dropped if it has not begun, and else finished: a
   * client with less patience than a command needs finds its disk when it comes back.
   * Throws CreationError, CreationAbortedError, TooManyDisksError, DirectoryError.
   */
  async create(fileName: string, order: ContentOrder, signal: AbortSignal): Promise<void> {
    await this.#join(this.#creations.get(fileName) ?? this.#begin(fileName, order), signal)
  }

  /** Calls off the making of this disk, for all who wait for it. What is made of the name from now on is made anew. */
  callOff(fileName: string): void {
    const creation = this.#creations.get(fileName)
    if (creation === undefined) return
    this.#forget(creation)
    creation.abort.abort()
  }

  #begin(fileName: string, order: ContentOrder): Creation {
    const workshop = this.#workshop
    if (workshop === undefined || this.#closed) throw new CreationAbortedError()
    const earlier = [...this.#creations.keys()]
    const abort = new AbortController()
    const make = async () => {
      try {
        await this.#checkRoom(earlier)
        await createDisk(workshop, fileName, order, abort.signal, () => {
          creation.begun = true
        })
      } catch (error) {
        // Those who wait are told; a creation without any would fail in silence.
        if (creation.waiting === 0 && !abort.signal.aborted) this.#onProblem?.(toError(error))
        throw error
      } finally {
        this.#unfinished.delete(creation)
        this.#forget(creation)
      }
    }
    const creation: Creation = {
      fileName,
      done: Promise.resolve().then(make),
      abort,
      waiting: 0,
      begun: false,
    }
    creation.done.catch(() => {})
    this.#unfinished.add(creation)
    this.#creations.set(fileName, creation)
    return creation
  }

  #forget(creation: Creation): void {
    if (this.#creations.get(creation.fileName) === creation) this.#creations.delete(creation.fileName)
  }

  async #join(creation: Creation, signal: AbortSignal): Promise<void> {
    if (signal.aborted) throw new CreationAbortedError({ cause: signal.reason })
    creation.waiting++
    let leave = () => {}
    const gone = new Promise<never>((_, reject) => {
      leave = () => reject(new CreationAbortedError({ cause: signal.reason }))
    })
    signal.addEventListener('abort', leave)
    try {
      await Promise.race([creation.done, gone])
    } finally {
      signal.removeEventListener('abort', leave)
      creation.waiting--
      if (creation.waiting === 0 && !creation.begun) {
        // Whoever asks from now on must not join what is being dropped.
        this.#forget(creation)
        creation.abort.abort()
      }
    }
  }

  /**
   * Counts the disks there are and the creations that were asked for before this one. The order in which
   * they were asked for is what keeps the limit without making one wait for another.
   */
  async #checkRoom(earlier: readonly string[]): Promise<void> {
    if (this.#maxDisks === Number.POSITIVE_INFINITY) return
    const disks = new Set(earlier.map(fileName => Buffer.from(fileName).toString('latin1')))
    for await (const name of this.#entries()) {
      disks.add(name.toString('latin1'))
    }
    if (disks.size >= this.#maxDisks) throw new TooManyDisksError(this.#maxDisks)
  }

  /** Names of all disks, as bytes, in no order. */
  async *#entries(): AsyncGenerator<Buffer> {
    // The type for Buffer names is missing: opendir is declared for strings only.
    const directory = await opendir(this.path, { encoding: 'buffer' as BufferEncoding, bufferSize: 1024 })
    for await (const entry of directory) {
      const name = entry.name as unknown as Buffer
      if (name[0] === 0x2e) continue
      if (entry.isDirectory()) continue
      if (entry.isFile() || (await this.#isRecorded(name))) yield name
    }
  }

  async #isRecorded(name: Buffer): Promise<boolean> {
    const stats = await lookUp(join(this.path, name.toString()))
    if (stats === undefined) return false
    return stats.isFile() || (await this.records.has(name.toString(), stats))
  }

  /** Names of the disks that are valid by these rules, sorted; at most `limit`, whichever come first. */
  async list(rules: NameRules, limit: number): Promise<readonly string[]> {
    const names: string[] = []
    for await (const bytes of this.#entries()) {
      const name = validName(bytes, rules)
      if (name !== undefined && names.push(name) === limit) break
    }
    return names.sort()
  }

  /** Calls off all creations, waits for their end and gives the place in the directory up. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    for (const { abort } of this.#unfinished) abort.abort()
    await Promise.allSettled([...this.#unfinished].map(({ done }) => done))
    await this.#workshop?.staging.close()
  }
}

function validName(bytes: Buffer, rules: NameRules): string | undefined {
  try {
    return parseExportName(bytes, rules)
  } catch {
    return undefined
  }
}

function unusable(path: string, error: unknown, purpose: string): DirectoryError {
  const code = codeOf(error) ?? 'EIO'
  const reason = directoryReason(code, purpose, code)
  return new DirectoryError(code, `--dir: ${path} cannot be used: ${reason}`, { cause: error })
}

/** A server that makes no disks may not even be allowed to write; what others have left is then theirs to remove. */
async function sweepWithoutMaking(hidden: string, onProblem?: (problem: Error) => void): Promise<void> {
  try {
    if (!(await lookUp(hidden))?.isDirectory()) return
    for (const problem of await sweep(hidden)) onProblem?.(problem)
  } catch (error) {
    onProblem?.(toError(error))
  }
}

/**
 * Makes the hidden directory again, which an administrator who tidies up may have removed. Not where the directory of
 * disks is another one now: what was mounted there has gone, and new disks would hide that.
 */
async function restoreHidden(hidden: string, path: string, opened: BigIntStats): Promise<void> {
  const now = await lookUp(path)
  if (now?.dev !== opened.dev || now.ino !== opened.ino) {
    const what = now === undefined ? 'is gone' : 'is another one now'
    const problem = `No disk can be made: the directory of disks ${what}; put it back, or restart the server`
    throw new DirectoryError(now === undefined ? 'ENOENT' : 'ESTALE', problem)
  }
  await makeDirectory(hidden)
}

/**
 * Opens a directory of disks and removes what dead servers have left in it. Throws DirectoryError if it
 * cannot be used: if `create` is set, that disks can be made is tried.
 */
export async function openDiskDirectory(options: DiskDirectoryOptions): Promise<DiskDirectory> {
  const { create, maxAtOnce, onProblem, onCreation, onStep } = options
  let path: string
  let opened: BigIntStats
  let look: CachedLook
  try {
    path = await realpath(options.path)
    opened = await stat(path, { bigint: true })
    await (await opendir(path)).close()
    await access(path, R_OK | X_OK)
    look = await cachedLookIn(path)
  } catch (error) {
    throw unusable(options.path, error, 'read it')
  }
  const hidden = join(path, HIDDEN_NAME)
  const records = new Records(path, hidden)
  if (!create) {
    await sweepWithoutMaking(hidden, onProblem)
    return new DiskDirectory({ path, records, look }, undefined, options)
  }
  try {
    await access(path, W_OK)
  } catch (error) {
    throw unusable(options.path, error, 'make disks in it')
  }
  try {
    await makeDirectory(hidden)
    if (!(await lookUp(hidden))?.isDirectory()) throw Object.assign(new Error(), { code: 'ENOTDIR' })
    const staging = await openStaging(hidden, {
      ...(maxAtOnce === undefined ? {} : { maxAtOnce }),
      ...(onProblem === undefined ? {} : { onProblem }),
      ...(onCreation === undefined ? {} : { onWork: onCreation }),
      restore: () => restoreHidden(hidden, path, opened),
    })
    await records.sweep().catch((error: unknown) => onProblem?.(toError(error)))
    const workshop = {
      directory: path,
      hidden,
      staging,
      records,
      ...(onStep === undefined ? {} : { onStep }),
    }
    return new DiskDirectory({ path, records, look }, workshop, options)
  } catch (error) {
    // It is another user's where a server of his was here before, and only the directory itself was handed over.
    throw unusable(join(options.path, HIDDEN_NAME), error, 'make disks in it')
  }
}
