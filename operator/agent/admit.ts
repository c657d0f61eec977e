/** May a client have a new disk? `spec.onDemand` and `spec.quota` of the pool decide. No I/O. */
import type { DiskPool } from '../../crds/diskpool.ts'
import type { NameRules } from '../../crds/export-name.ts'
import { InvalidSpecError, orInvalid } from '../../crds/invalid-spec-error.ts'
import { API_GROUP_VERSION } from '../../crds/object.ts'
import {
  hasFile,
  ONDEMANDDISK_KIND,
  type OnDemandDiskSpec,
  parseOnDemandDisk,
} from '../../crds/ondemanddisk.ts'
import { formatSize } from '../../crds/quantity.ts'
import { quote } from '../../crds/quote.ts'
import type { AskedDisk, AskRefusalKind } from '../../server/control/ask.ts'
import { acceptedText } from '../terms/accepted.ts'
import { allot, type Claimant } from '../terms/allotment.ts'
import {
  ACCEPTED_ANNOTATION,
  FINALIZER,
  ON_DEMAND_ANNOTATION,
  POOL_LABEL,
  SPARE_ANNOTATION,
} from '../terms/names.ts'

/** Yes, with the spec of the disk; or no, with words for the client that name the limit. */
export type Admission =
  | { readonly spec: OnDemandDiskSpec }
  | { readonly kind: AskRefusalKind; readonly message: string }

const CANDIDATE = '\uffff'

/**
 * `claimants`: all disks of the pool, and those that are just being made for other clients. `snapshots`: bytes of the
 * quota that snapshots have.
 */
export function admit(
  { name, size }: Pick<AskedDisk, 'name' | 'size'>,
  { metadata, spec }: DiskPool,
  claimants: Iterable<Claimant>,
  snapshots = 0,
): Admission {
  const { enabled, template, maxSize, maxDisks } = spec.onDemand
  if (metadata.deletionTimestamp !== undefined) return refuse('unknown', 'The pool is being deleted.')
  if (!enabled || template === undefined) {
    return refuse('unknown', `There is no disk named ${quote(name)} here, and none is made on demand.`)
  }
  if (size !== undefined && (maxSize === undefined || template.upstream !== undefined)) {
    return refuse('policy', 'Clients cannot choose a size here (spec.onDemand.maxSize).')
  }
  if (size !== undefined && maxSize !== undefined && size > maxSize) {
    return refuse('policy', `At most ${formatSize(maxSize)} may be asked for (spec.onDemand.maxSize).`)
  }
  const wanted: OnDemandDiskSpec = {
    ...template,
    poolName: metadata.name,
    exportName: name,
    ...(size !== undefined && { size }),
  }
  // The youngest: all others go first.
  const candidate = { uid: CANDIDATE, createdAt: CANDIDATE, size: placeOf(wanted), started: false }
  const allotment = allot([...claimants, candidate], { quota: spec.quota, maxDisks, snapshots }).get(
    CANDIDATE,
  )
  if (allotment?.refusal !== undefined) return refuse('limit', allotment.refusal.message)
  return { spec: wanted }
}

function refuse(kind: AskRefusalKind, message: string): Admission {
  return { kind, message }
}

/** Bytes that a disk takes of the pool for good. */
export function placeOf(spec: OnDemandDiskSpec): number {
  return hasFile(spec) ? (spec.size ?? 0) : 0
}

/**
 * The object of a disk that a client wants; with the name of the spare that it is promised. One with a spare is in the
 * operator's care from the start, which leaves it to the agent: nobody has to write it once more for that.
 */
export function onDemandObject(
  name: string,
  namespace: string,
  spec: OnDemandDiskSpec,
  names: NameRules,
  spare: string | undefined,
) {
  const object = {
    apiVersion: API_GROUP_VERSION,
    kind: ONDEMANDDISK_KIND,
    metadata: {
      name,
      namespace,
      labels: { [POOL_LABEL]: spec.poolName },
      annotations: { [ON_DEMAND_ANNOTATION]: 'true' },
      finalizers: [FINALIZER],
    },
    spec,
  } as const
  if (spare === undefined) return object
  const parsed = orInvalid(() => parseOnDemandDisk(object, { names }))
  const annotations = {
    ...object.metadata.annotations,
    ...(!(parsed instanceof InvalidSpecError) && { [ACCEPTED_ANNOTATION]: acceptedText(parsed) }),
    [SPARE_ANNOTATION]: spare,
  }
  return { ...object, metadata: { ...object.metadata, annotations } }
}
