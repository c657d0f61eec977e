import { InvalidSpecError } from './invalid-spec-error.ts'
import { type API_GROUP_VERSION, type Condition, checkedCopy, type ObjectMeta } from './object.ts'
import { quote } from './quote.ts'
import { compileCrdSchema, type ObjectValidator } from './schema.ts'

export const DISKSNAPSHOT_KIND = 'DiskSnapshot'

/** A disk as it was at one moment. */
export interface DiskSnapshot {
  readonly apiVersion: typeof API_GROUP_VERSION
  readonly kind: typeof DISKSNAPSHOT_KIND
  readonly metadata: ObjectMeta
  readonly spec: DiskSnapshotSpec
  readonly status?: DiskSnapshotStatus
}

/** The fields are described in `disksnapshot.yaml`. */
export interface DiskSnapshotSpec {
  /** Name of the object, of the same namespace. */
  readonly diskName: string
}

export interface DiskSnapshotStatus {
  readonly observedGeneration?: number
  readonly conditions?: readonly Condition[]
  readonly readyToUse?: boolean
  readonly poolName?: string
  readonly diskUid?: string
  readonly filesystem?: string
  /** Bytes. */
  readonly size?: number
  /** RFC 3339. */
  readonly creationTime?: string
  readonly method?: 'reflink' | 'copy'
}

let validator: ObjectValidator | undefined

/**
 * Checks an object against the CRD's schema. The object itself is left as it is.
 * @throws InvalidSpecError for the first bad field
 */
export function parseDiskSnapshot(object: unknown): DiskSnapshot {
  validator ??= compileCrdSchema(new URL('./disksnapshot.yaml', import.meta.url))
  return checkedCopy(object, DISKSNAPSHOT_KIND, validator) as DiskSnapshot
}

/**
 * Checks that a snapshot may change from one spec to another, by the rules that the CRD gives to the API server.
 * @throws InvalidSpecError
 */
export function checkSnapshotTransition(
  before: Pick<DiskSnapshot, 'spec'>,
  after: Pick<DiskSnapshot, 'spec'>,
): void {
  if (before.spec.diskName === after.spec.diskName) return
  throw new InvalidSpecError(
    'spec.diskName',
    `It cannot be changed. Set it back to ${quote(before.spec.diskName)}.`,
  )
}
