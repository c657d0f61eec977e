import { isDeepStrictEqual } from 'node:util'
import type { NameRules } from './export-name.ts'
import { InvalidSpecError } from './invalid-spec-error.ts'
import { API_GROUP_VERSION, type Condition, checkedCopy, type ObjectMeta } from './object.ts'
import { formatSize } from './quantity.ts'
import { quote } from './quote.ts'
import { compileCrdSchema, type ObjectValidator } from './schema.ts'
import { resolveSpec, type UncheckedSpec } from './spec-checks.ts'

export { API_GROUP_VERSION, type Condition, InvalidSpecError, type ObjectMeta }

export const ONDEMANDDISK_KIND = 'OnDemandDisk'

/** A disk and how it is served, its defaults filled in, its sizes in bytes. It is itself a valid object. */
export interface OnDemandDisk {
  readonly apiVersion: typeof API_GROUP_VERSION
  readonly kind: typeof ONDEMANDDISK_KIND
  readonly metadata: ObjectMeta
  readonly spec: OnDemandDiskSpec
  readonly status?: OnDemandDiskStatus
}

/** The fields are described in `ondemanddisk.yaml`. */
export interface OnDemandDiskSpec {
  readonly poolName: string
  /** The name of the disk: never empty. */
  readonly exportName: string
  /** Bytes. Absent with `upstream` only; 0 with `command` only. */
  readonly size?: number
  /** Absent with `command`, `source` or `upstream` only. */
  readonly filesystem?: FilesystemSpec
  readonly command?: string
  /** The disk is made as a copy of this. */
  readonly source?: SourceSpec
  readonly variables?: Readonly<Record<string, string>>
  readonly mode: 'Persistent' | 'Temporary'
  readonly readOnly: boolean
  readonly access: AccessSpec
  readonly limits: LimitsSpec
  readonly upstream?: UpstreamSpec
  readonly reclaimPolicy: 'Delete' | 'Retain'
}

export interface FilesystemSpec {
  readonly type: string
  readonly label?: string
  readonly mkfsOptions?: readonly string[]
}

/** An object of the same namespace. */
export interface SourceSpec {
  readonly kind: 'DiskSnapshot' | 'OnDemandDisk'
  readonly name: string
}

export interface AccessSpec {
  readonly allow: readonly string[]
  readonly deny: readonly string[]
  /** Connections of one client address at once. */
  readonly connections: number
  /** Absent or empty: nobody needs one, and nobody has one. */
  readonly tickets?: readonly string[]
}

/** Absent: no limit. */
export interface LimitsSpec {
  readonly readBytesPerSecond?: number
  readonly writeBytesPerSecond?: number
  readonly iops?: number
}

export interface UpstreamSpec {
  readonly uri: string
}

export interface OnDemandDiskStatus {
  readonly observedGeneration?: number
  readonly conditions?: readonly Condition[]
  /** Absent with a command or upstream. */
  readonly filesystem?: string
  /** With `source`: of the object that the disk is a copy of. */
  readonly sourceUid?: string
  /** Jobs that were started to make the disk. */
  readonly attempts?: number
  readonly uri?: string
  /** Bytes. */
  readonly size?: number
  /** Bytes. */
  readonly allocated?: number
  readonly connections?: number
  /** Addresses of the clients that have them, the first 16. */
  readonly clients?: readonly string[]
}

export interface ParseOptions {
  /** Which export names are allowed. Default: `strict`. */
  readonly names?: NameRules
}

let validator: ObjectValidator | undefined

/**
 * Checks an object, as it was read from a manifest or from Kubernetes, against the CRD's schema and against
 * what a schema cannot say, and fills in the defaults. The object itself is left as it is.
 * @throws InvalidSpecError for the first bad field
 */
export function parseOnDemandDisk(object: unknown, { names = 'strict' }: ParseOptions = {}): OnDemandDisk {
  validator ??= compileCrdSchema(new URL('./ondemanddisk.yaml', import.meta.url))
  const { spec, metadata, ...rest } = checkedCopy(object, ONDEMANDDISK_KIND, validator) as UncheckedDisk
  return { ...rest, metadata, spec: resolveSpec(spec, metadata.name, names) }
}

/** Is the disk a file of its pool, or of the directory? That never changes. */
export function hasFile({ mode, upstream }: OnDemandDiskSpec): boolean {
  return mode === 'Persistent' && upstream === undefined
}

/** What the schema has let through. */
interface UncheckedDisk extends Omit<OnDemandDisk, 'spec'> {
  readonly spec: UncheckedSpec
}

/**
 * Checks that a disk may change from one spec to another, by the rules that the CRD's transition rules give
 * to the API server: the size grows only, and what the disk is made of stays.
 * @throws InvalidSpecError for the first field that must not change so
 */
export function checkTransition(before: OnDemandDisk, after: OnDemandDisk): void {
  const [old, next] = [before.spec, after.spec]
  for (const field of ['poolName', 'exportName', 'mode'] as const) {
    if (old[field] !== next[field]) {
      throw new InvalidSpecError(
        `spec.${field}`,
        `It cannot be changed. Set it back to ${quote(old[field])}.`,
      )
    }
  }
  for (const field of ['upstream', 'command'] as const) {
    if ((old[field] === undefined) !== (next[field] === undefined)) {
      const done = old[field] === undefined ? 'added. Remove it' : 'removed. Give it again'
      throw new InvalidSpecError(`spec.${field}`, `It cannot be ${done}, or make a new disk.`)
    }
  }
  for (const field of ['source', 'filesystem'] as const) {
    if (!isDeepStrictEqual(old[field], next[field])) {
      throw new InvalidSpecError(`spec.${field}`, 'It cannot be changed. Set it back, or make a new disk.')
    }
  }
  if (old.size !== undefined && next.size !== undefined && next.size < old.size) {
    throw new InvalidSpecError(
      'spec.size',
      `A disk cannot shrink. Give at least ${old.size} (${formatSize(old.size)}).`,
    )
  }
}
