/** One disk that a manifest declares: made when it is missing, grown when it is too small, served on its manifest's terms. */
import { isDeepStrictEqual } from 'node:util'
import { compileAccessRules } from '../../crds/access-rules.ts'
import type { OnDemandDisk, OnDemandDiskSpec } from '../../crds/ondemanddisk.ts'
import type { Backend, LayeredBackend } from '../backends/backend.ts'
import type { DiskDirectory } from '../backends/disks/directory.ts'
import { createDisksBackend } from '../backends/disks/disks.ts'
import { growDisk } from '../backends/disks/grow.ts'
import { prepareRecipe, type Recipe } from '../backends/disks/recipe.ts'
import { lookUp } from '../backends/disks/records.ts'
import type { Staging } from '../backends/disks/staging.ts'
import { fillIn } from '../backends/layer.ts'
import { createTemporaryBackend } from '../backends/temporary/temporary.ts'
import type { Export } from './export.ts'

type LogLine = (fields: Readonly<Record<string, unknown>>, message: string) => void

/** What declared disks are made with. */
export interface DeclaredOptions {
  readonly directory: DiskDirectory
  /** Where temporary disks are made; called only if there are any. */
  readonly openArea: () => Promise<Staging>
  /** All disks are read-only, whatever their manifests say. */
  readonly readOnly: boolean
  readonly commandTimeoutMs: number
  /** Clients can show certificates, so that rules may ask for them. */
  readonly tls: boolean
  readonly log: { readonly error: LogLine; readonly info: LogLine }
}

function recipeOf({ filesystem, command, variables }: OnDemandDiskSpec): Recipe {
  if (command !== undefined) return { command, ...(variables !== undefined && { variables }) }
  const { type, label, mkfsOptions } = filesystem ?? { type: 'ext4' }
  return { type, ...(label !== undefined && { label }), ...(mkfsOptions !== undefined && { mkfsOptions }) }
}

/** Are these made in the same way? All other fields are terms of the export, which hold at once. */
function areMadeAlike(one: OnDemandDiskSpec | undefined, other: OnDemandDiskSpec): boolean {
  if (one === undefined) return false
  const keys = ['mode', 'size', 'filesystem', 'command', 'variables'] as const
  return keys.every(key => isDeepStrictEqual(one[key], other[key]))
}

/** What this server cannot do, though the object is valid. */
function unsupported({ upstream, access }: OnDemandDiskSpec, tls: boolean): string | undefined {
  if (upstream !== undefined) return 'spec.upstream: this server does not forward.'
  if (tls) return undefined
  const { allow, deny } = compileAccessRules(access)
  const rule = [...allow, ...deny].find(({ needsTls }) => needsTls)
  return (
    rule && `spec.access.${rule.field}: ${rule.text} needs TLS, which this server does not speak (--tls).`
  )
}

/** The object's UID, which no user chooses and no other disk ever has, or else the export's name. */
const fileNameOf = ({ metadata, spec }: OnDemandDisk) => metadata.uid ?? spec.exportName

export class DeclaredDisk {
  readonly name: string
  readonly #options: DeclaredOptions
  readonly #fileName: string
  readonly #stopping = new AbortController()
  #spec: OnDemandDiskSpec | undefined
  #backend: LayeredBackend | undefined
  #manifestProblem: string | undefined
  #ownProblem: string | undefined = 'The disk is being prepared; try again.'
  /** That it can be opened. */
  #ready: Promise<void> = Promise.resolve()
  /** Making and growing, one after the other. */
  #work: Promise<void> = Promise.resolve()

  constructor(disk: OnDemandDisk, options: DeclaredOptions) {
    this.name = disk.spec.exportName
    this.#fileName = fileNameOf(disk)
    this.#options = options
  }

  /** Does this object stand for the same disk? One that was deleted and made anew under its old name does not. */
  isOf(disk: OnDemandDisk): boolean {
    return this.name === disk.spec.exportName && this.#fileName === fileNameOf(disk)
  }

  /** Why new clients are refused; undefined if they are not. */
  get problem(): string | undefined {
    return this.#manifestProblem ?? this.#ownProblem
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
      unlocked: false,
      connections: spec.access.connections,
      access: compileAccessRules(spec.access),
      requestedSize: undefined,
      limits: spec.limits,
    }
  }

  /** Takes the manifest's state. Terms hold at once; making and growing go on in the background. */
  update({ spec }: OnDemandDisk, manifestProblem: string | undefined): void {
    this.#manifestProblem = manifestProblem
    const problem = unsupported(spec, this.#options.tls)
    if (problem !== undefined) {
      this.#manifestProblem ??= problem
      return
    }
    const isPrepared = areMadeAlike(this.#spec, spec)
    this.#spec = spec
    if (isPrepared) return
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

  /** Calls off what is being made or grown. */
  async close(): Promise<void> {
    this.#stopping.abort()
    await this.#work
  }

  /**
   * A disk that exists keeps its backend, so that connections of before and after a change share one
   * descriptor and its lock.
   */
  async #prepare(spec: OnDemandDiskSpec): Promise<void> {
    try {
      if (this.#backend === undefined || spec.mode === 'Temporary' || !(await this.#exists())) {
        this.#backend = await this.#createBackend(spec)
      }
      this.#ownProblem = undefined
    } catch (error) {
      this.#failed(error, true)
    }
  }

  async #makeOrGrow(spec: OnDemandDiskSpec): Promise<void> {
    if (this.#backend === undefined || spec.mode === 'Temporary') return
    try {
      if (await this.#exists()) await this.#grow(spec)
      else await this.#make(spec)
    } catch (error) {
      // What could not be made is tried again by the next client; what may not shrink is not served.
      this.#failed(error, (error as { code?: unknown } | null)?.code === 'EINVAL')
    }
  }

  #failed(error: unknown, isFinal: boolean): void {
    if (this.#stopping.signal.aborted) return
    const reason = error instanceof Error ? error.message : String(error)
    if (isFinal) this.#ownProblem = reason
    this.#options.log.error({ export: this.name, reason }, 'Declared disk is not ready')
  }

  async #exists(): Promise<boolean> {
    return (await lookUp(`${this.#options.directory.path}/${this.#fileName}`)) !== undefined
  }

  async #make(spec: OnDemandDiskSpec): Promise<void> {
    const { directory, commandTimeoutMs: timeoutMs, log } = this.#options
    if (!directory.creates) return
    const order = { recipe: await prepareRecipe(recipeOf(spec)), size: spec.size ?? 0, timeoutMs }
    await directory.create(this.#fileName, order, this.#stopping.signal)
    log.info({ export: this.name, size: order.size }, 'Disk made')
  }

  async #createBackend(spec: OnDemandDiskSpec): Promise<LayeredBackend> {
    const { directory, openArea, commandTimeoutMs, readOnly, log } = this.#options
    const common = { recipe: await prepareRecipe(recipeOf(spec)), size: spec.size ?? 0, commandTimeoutMs }
    const backend =
      spec.mode === 'Temporary'
        ? createTemporaryBackend({ area: await openArea(), ...common })
        : createDisksBackend({ directory, fileName: () => this.#fileName, ...common })
    const onProblem = (problem: Error) =>
      log.error({ export: this.name, reason: problem.message }, 'The backend broke a rule')
    return fillIn(backend as Backend, { readOnly, onProblem, limits: { openMs: Number.POSITIVE_INFINITY } })
  }

  async #grow(spec: OnDemandDiskSpec): Promise<void> {
    // What a command made has whatever size the command gave it.
    if (spec.command !== undefined || spec.size === undefined) return
    const { directory, commandTimeoutMs: timeoutMs, log } = this.#options
    const order = { size: spec.size, type: spec.filesystem?.type, timeoutMs, signal: this.#stopping.signal }
    const growth = await growDisk(directory, this.#fileName, order)
    if (growth === 'none') return
    log.info({ export: this.name, size: spec.size, filesystem: growth === 'filesystem' }, 'Disk grown')
  }
}
