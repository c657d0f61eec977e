/** One disk that a manifest declares: made when it is missing, grown when it is too small, served on its manifest's terms. */
import { join } from 'node:path'
import { compileAccessRules } from '../../crds/access-rules.ts'
import {
  hasFile,
  type ObjectMeta,
  type OnDemandDisk,
  type OnDemandDiskSpec,
} from '../../crds/ondemanddisk.ts'
import { quote } from '../../crds/quote.ts'
import type { Backend, LayeredBackend } from '../backends/backend.ts'
import type { DiskDirectory } from '../backends/disks/directory.ts'
import { createDisksBackend, type DisksBackend } from '../backends/disks/disks.ts'
import { NoSuchDiskError, RecipeError } from '../backends/disks/errors.ts'
import { canGrow, growDisk } from '../backends/disks/grow.ts'
import { type PreparedRecipe, prepareRecipe } from '../backends/disks/recipe.ts'
import { lookUp } from '../backends/disks/records.ts'
import type { Slots } from '../backends/disks/slots.ts'
import type { Staging } from '../backends/disks/staging.ts'
import type { PointCopy } from '../backends/file/point-copy.ts'
import { fillIn } from '../backends/layer.ts'
import { createTemporaryBackend } from '../backends/temporary/temporary.ts'
import { toError } from '../linux/errno.ts'
import type { DeclaredFiles } from './declared-files.ts'
import { areMadeAlike, failing, recipeOf, recipeProblem } from './declared-recipe.ts'
import { type Export, ExportRefusal } from './export.ts'

type LogLine = (fields: Readonly<Record<string, unknown>>, message: string) => void

/** What declared disks are made with. */
export interface DeclaredOptions {
  readonly directory: DiskDirectory
  readonly files: DeclaredFiles
  /** The backend that has the disk of a URI. Throws what is wrong with the URI. */
  readonly forward: (exportName: string, uri: string) => Backend
  /** Where temporary disks are made; called only if there are any. */
  readonly openArea: () => Promise<Staging>
  /** All disks are read-only, whatever their manifests say. */
  readonly readOnly: boolean
  readonly commandTimeoutMs: number
  /** Clients can show certificates, so that rules may ask for them. */
  readonly tls: boolean
  /** Told when a disk's report has changed, or the disk is gone. */
  readonly changed?: (exportName: string) => void
  readonly log: { readonly error: LogLine; readonly info: LogLine }
}

/** What this server cannot do, though the object is valid. */
function unsupported({ access }: OnDemandDiskSpec, tls: boolean): string | undefined {
  if (tls) return undefined
  const { allow, deny } = compileAccessRules(access)
  const rule = [...allow, ...deny].find(({ needsTls }) => needsTls)
  return (
    rule && `spec.access.${rule.field}: ${rule.text} needs TLS, which this server does not speak (--tls).`
  )
}

/** What clients are told where disks are made by another program, and must never be made again here. */
const MISSING = 'The file of this disk is missing, and this server makes none (--no-create)'

/** The object's UID, which no user chooses and no other disk ever has, or else the export's name. */
const fileNameOf = ({ metadata, spec }: OnDemandDisk) => metadata.uid ?? spec.exportName

/** What is under way with a disk. `preparing`: it cannot be opened yet. */
export type DiskWork = 'none' | 'preparing' | 'making' | 'growing'

/** A declared disk, as it is told to whoever watches the server. */
export interface DiskReport {
  readonly exportName: string
  readonly uid: string | undefined
  /** Of the spec that is served. */
  readonly generation: number | undefined
  /** Why new clients are refused; undefined if they are not. */
  readonly problem: string | undefined
  /** The object is being deleted: who has the disk open keeps it, nobody else gets it. */
  readonly deleting: boolean
  readonly work: DiskWork
  /** The file is as large as the manifest says, but the filesystem on it is grown when no client has it open any more. */
  readonly filesystemBehind: boolean
  /** Of the disk's file in the directory of disks; undefined if it has none. */
  readonly path: string | undefined
}

export class DeclaredDisk {
  readonly name: string
  readonly #options: DeclaredOptions
  readonly #growing: Slots
  readonly #fileName: string
  readonly #stopping = new AbortController()
  #spec: OnDemandDiskSpec | undefined
  #backend: LayeredBackend | undefined
  /** The same, where it is a file. */
  #disks: DisksBackend | undefined
  #manifestProblem: string | undefined
  /** What this server cannot do of it. */
  #unsupported: string | undefined
  #ownProblem: string | undefined = 'The disk is being prepared; try again.'
  #uid: string | undefined
  #generation: number | undefined
  #deleting = false
  #doing: DiskWork = 'preparing'
  #filesystemBehind = false
  /** Copies that are being made of it. Its filesystem must not be grown meanwhile, as programs do that behind our back. */
  #copies = 0
  /** Connections that have it open. */
  #users = 0
  /** That it can be opened. */
  #ready: Promise<void> = Promise.resolve()
  /** Making and growing, one after the other. */
  #work: Promise<void> = Promise.resolve()
  /** Clients wait for the growing, which has the disk for itself. */
  #growth: Promise<unknown> = Promise.resolve()

  /** `growing` bounds how many disks are grown at once. */
  constructor(disk: OnDemandDisk, options: DeclaredOptions, growing: Slots) {
    this.name = disk.spec.exportName
    this.#fileName = fileNameOf(disk)
    this.#options = options
    this.#growing = growing
  }

  /** Does this object stand for the same disk? One that was deleted and made anew under its old name does not. */
  isOf(disk: OnDemandDisk): boolean {
    return this.name === disk.spec.exportName && this.#fileName === fileNameOf(disk)
  }

  /** Why new clients are refused; undefined if they are not. */
  get problem(): string | undefined {
    return this.#deleting ? 'The disk is being deleted.' : (this.#manifestProblem ?? this.#ownProblem)
  }

  /** Waits until it can be opened, or says why not; undefined: it is so far. */
  get prepared(): Promise<void> | undefined {
    return this.#doing === 'preparing' ? this.#ready : undefined
  }

  /** How the disk is, for those who watch the server. */
  get report(): DiskReport {
    const spec = this.#spec
    return {
      exportName: this.name,
      uid: this.#uid,
      generation: this.#generation,
      problem: this.problem,
      deleting: this.#deleting,
      work: this.#doing,
      filesystemBehind: this.#filesystemBehind,
      path:
        spec === undefined || !hasFile(spec) ? undefined : join(this.#options.directory.path, this.#fileName),
    }
  }

  /** The export on its last good terms. */
  get served(): Export | undefined {
    const [spec, backend] = [this.#spec, this.#backend]
    if (spec === undefined || backend === undefined) return undefined
    return {
      name: this.name,
      backend,
      readOnly: this.#options.readOnly || spec.readOnly,
      temporary: spec.mode === 'Temporary',
      // Who may share a disk of another server is that server's business.
      unlocked: spec.upstream !== undefined,
      connections: spec.access.connections,
      access: compileAccessRules(spec.access),
      tickets: spec.access.tickets,
      requestedSize: undefined,
      limits: spec.limits,
    }
  }

  /** Takes the manifest's state. Terms hold at once; making and growing go on in the background. */
  update({ spec, metadata }: OnDemandDisk, manifestProblem: string | undefined): void {
    const before = [this.#uid, this.#generation, this.problem, this.#spec]
    this.#take(spec, metadata, manifestProblem)
    const after = [this.#uid, this.#generation, this.problem, this.#spec]
    if (before.some((value, index) => value !== after[index])) this.#options.changed?.(this.name)
  }

  #take(spec: OnDemandDiskSpec, metadata: ObjectMeta, manifestProblem: string | undefined): void {
    this.#uid = metadata.uid
    this.#deleting = metadata.deletionTimestamp !== undefined
    this.#generation = metadata.generation
    const { tls, files, directory } = this.#options
    const isOurs = !hasFile(spec) || files.claim(this.#fileName, this.name) === this.name
    const conflict = isOurs ? undefined : 'metadata.uid: Another disk has the same.'
    const problem = conflict ?? unsupported(spec, tls)
    if (problem !== undefined && problem !== this.#unsupported) this.#report(problem)
    this.#unsupported = problem
    this.#manifestProblem = manifestProblem ?? problem
    if (problem !== undefined) return
    const isPrepared = areMadeAlike(this.#spec, spec)
    this.#spec = spec
    if (isPrepared) return
    // A command that hangs would keep the one that replaces it waiting.
    if (hasFile(spec)) directory.callOff(this.#fileName)
    this.#ready = this.#work.then(() => this.#prepare(spec))
    this.#work = this.#ready.then(() => this.#makeOrGrow(spec))
  }

  /** Waits until clients can open it; it may have to be made first even so. */
  ready(): Promise<void> {
    return this.#ready
  }

  /** Waits until nothing is being made or grown. */
  settled(): Promise<void> {
    return this.#work
  }

  /**
   * Copies the disk as it is at one moment into an empty file, whoever has it open.
   * @throws ExportRefusal for what is no file; the errors of DisksBackend.copy
   */
  async copy(to: number, signal: AbortSignal): Promise<PointCopy> {
    await this.#work
    if (this.#doing !== 'none') throw new ExportRefusal('unavailable', `The disk is busy (${this.#doing}).`)
    if (this.#disks === undefined) {
      throw new ExportRefusal('unknown', `The disk ${quote(this.name)} is no file that could be copied.`)
    }
    this.#copies++
    try {
      return await this.#disks.copy(this.name, to, signal)
    } finally {
      this.#copies--
      this.#growBehind()
    }
  }

  /** Calls off what is being made or grown. The file stays. */
  async close(): Promise<void> {
    const { directory, files } = this.#options
    this.#stopping.abort()
    if (files.leave(this.#fileName, this.name)) directory.callOff(this.#fileName)
    await this.#work
  }

  /**
   * A disk that exists keeps its backend, so that connections of before and after a change share one
   * descriptor and its lock.
   */
  async #prepare(spec: OnDemandDiskSpec): Promise<void> {
    try {
      if (hasFile(spec)) await this.#mark()
      const isKept = this.#backend !== undefined && hasFile(spec) && (await this.#file()) !== undefined
      if (!isKept) this.#backend = await this.#createBackend(spec)
      this.#ownProblem = undefined
    } catch (error) {
      this.#failed(error, true)
    }
    this.#is('none')
  }

  #is(work: DiskWork): void {
    this.#doing = work
    this.#options.changed?.(this.name)
  }

  async #mark(): Promise<void> {
    const { files, log } = this.#options
    try {
      await files.mark(this.#fileName)
    } catch (error) {
      // Until the server ends the file is known without it.
      const reason = toError(error).message
      log.error({ export: this.name, reason }, 'Declared disk cannot be marked as one')
    }
  }

  async #makeOrGrow(spec: OnDemandDiskSpec): Promise<void> {
    if (this.#ownProblem !== undefined || !hasFile(spec)) return
    try {
      const file = await this.#file()
      if (file === undefined) await this.#make(spec)
      else if (file.isFile()) await this.#grow(spec)
      this.#is('none')
    } catch (error) {
      this.#is('none')
      // What could not be made is tried again by the next client; what may not shrink is not served.
      this.#failed(error, (error as { code?: unknown } | null)?.code === 'EINVAL')
    }
  }

  #failed(error: unknown, isFinal: boolean): void {
    if (this.#stopping.signal.aborted) return
    const reason = toError(error).message
    if (isFinal) this.#ownProblem = reason
    this.#report(reason)
  }

  #report(reason: string): void {
    this.#options.log.error({ export: this.name, reason }, 'Declared disk is not ready')
  }

  /** What stands under the disk's name; undefined: nothing yet. */
  #file() {
    return lookUp(join(this.#options.directory.path, this.#fileName))
  }

  async #make(spec: OnDemandDiskSpec): Promise<void> {
    const { directory, commandTimeoutMs: timeoutMs, log } = this.#options
    if (!directory.creates) return
    this.#is('making')
    const order = { recipe: await prepareRecipe(recipeOf(spec)), size: spec.size ?? 0, timeoutMs }
    await directory.create(this.#fileName, order, this.#stopping.signal)
    log.info({ export: this.name, size: order.size }, 'Disk made')
  }

  async #recipe(spec: OnDemandDiskSpec): Promise<PreparedRecipe> {
    // Where none is made nobody has to look for mkfs, least of all while a client waits.
    if (hasFile(spec) && !this.#options.directory.creates) return await prepareRecipe(failing(MISSING))
    try {
      return await prepareRecipe(recipeOf(spec))
    } catch (error) {
      if (!(error instanceof RecipeError)) throw error
      const reason = recipeProblem(error)
      const isNeeded = spec.mode === 'Temporary' || (await this.#file()) === undefined
      if (isNeeded) throw new Error(reason, { cause: error })
      return await prepareRecipe(failing(reason))
    }
  }

  async #createBackend(spec: OnDemandDiskSpec): Promise<LayeredBackend> {
    const { readOnly, log } = this.#options
    const onProblem = (problem: Error) =>
      log.error({ export: this.name, reason: problem.message }, 'The backend broke a rule')
    const limits = { openMs: Number.POSITIVE_INFINITY }
    return fillIn(await this.#innerBackend(spec), { readOnly, onProblem, limits })
  }

  async #innerBackend(spec: OnDemandDiskSpec): Promise<Backend> {
    const { directory, openArea, forward, commandTimeoutMs } = this.#options
    if (spec.upstream !== undefined) return forward(this.name, spec.upstream.uri)
    const common = { recipe: await this.#recipe(spec), size: spec.size ?? 0, commandTimeoutMs }
    if (spec.mode === 'Temporary')
      return createTemporaryBackend({ area: await openArea(), ...common }) as Backend
    this.#disks = createDisksBackend({ directory, fileName: () => this.#fileName, ...common })
    const backend = this.#disks as Backend
    return {
      ...backend,
      open: async (name, context) => {
        await this.#growth
        try {
          const handle = await backend.open(name, context)
          this.#users++
          return handle
        } catch (error) {
          if (!(error instanceof NoSuchDiskError)) throw error
          throw new ExportRefusal('unknown', `${MISSING}: ${quote(this.name)}.`, { cause: error })
        }
      },
      close: async handle => {
        this.#users--
        await backend.close?.(handle)
        this.#growBehind()
      },
    }
  }

  /** What could not be grown because a client had it open, or a copy was made, is grown when the last one has left. */
  #growBehind(): void {
    const spec = this.#spec
    if (!this.#filesystemBehind || this.#users > 0 || this.#copies > 0 || spec === undefined) return
    this.#filesystemBehind = false
    this.#work = this.#work.then(() => this.#makeOrGrow(spec))
    this.#growth = this.#work
  }

  async #grow(spec: OnDemandDiskSpec): Promise<void> {
    // What a command made has whatever size the command gave it.
    if (spec.command !== undefined || spec.size === undefined || this.#options.readOnly) return
    const { directory, commandTimeoutMs: timeoutMs, log } = this.#options
    const { signal } = this.#stopping
    const order = { size: spec.size, type: spec.filesystem?.type, timeoutMs, signal }
    const release = await this.#growing.acquire(signal)
    if (this.#copies > 0) {
      this.#filesystemBehind = true
      release()
      return
    }
    this.#is('growing')
    const growing = growDisk(directory, this.#fileName, order).finally(release)
    this.#growth = growing.catch(() => {})
    const growth = await growing
    if (growth === 'none') return
    this.#filesystemBehind = growth === 'file' && canGrow(spec.filesystem?.type)
    log.info({ export: this.name, size: spec.size, filesystem: growth === 'filesystem' }, 'Disk grown')
  }
}
