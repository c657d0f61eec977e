/** What is seen of a disk, what can be done for it, and how its conditions are written. */
import type { InvalidSpecError, OnDemandDisk } from '../../crds/ondemanddisk.ts'
import type { ConditionChange, StatusChange } from '../kube/conditions.ts'
import type { EventNote } from '../kube/events.ts'
import type { JobView } from '../pool/job-view.ts'
import { makeObject } from '../pool/make-job.ts'
import type { Refusal } from '../terms/allotment.ts'
import { attemptsOf } from '../terms/attempts.ts'
import { observedGeneration } from '../terms/conditions.ts'
import { DISK_REASONS, type DiskReason } from '../terms/reasons.ts'
import type { SourceView } from './source.ts'

/** A disk, and all that decides about it. */
export interface DiskObserved {
  /** The object as the API server has it. */
  readonly disk: OnDemandDisk
  /** The object checked and completed, or what is wrong with it. */
  readonly parsed: OnDemandDisk | InvalidSpecError
  readonly pool: PoolView
  readonly job: JobView
  /** Why the pool has no place for the disk; counts until the disk is made. */
  readonly refusal?: Refusal | undefined
  /** With `spec.source`, until the disk is made. */
  readonly source?: SourceView | undefined
  /** Why the API server has not taken the Job, and in how many ms it is worth asking again. */
  readonly refusedJob?: { readonly message: string; readonly restMs: number } | undefined
  /** Object name of another disk of the pool that has the export name by right. */
  readonly nameHolder?: string | undefined
  /** ms since 1970. */
  readonly now: number
}

/** The pool, as far as a disk is concerned. */
export interface PoolView {
  readonly state: 'missing' | 'invalid' | 'there' | 'deleting'
  /** Jobs can reach its volume now. */
  readonly isReachable: boolean
  /** There is nobody, and will be nobody, who could remove a disk's data: why. */
  readonly lost?: string | undefined
}

/** One step. They are taken in order; the rest is dropped when one fails. */
export type DiskAction =
  /**
   * Takes the disk into care: finalizer, label, and what was accepted of its spec. Before anything else is done.
   * `begins`: counts the first attempt, too, whose Job follows.
   */
  | { readonly kind: 'claim'; readonly accepted: string; readonly begins?: true }
  /** Holds only for the very state that was seen. */
  | { readonly kind: 'status'; readonly change: StatusChange; readonly event?: EventNote }
  /** Makes the Job; always right after what counts the attempt. */
  | { readonly kind: 'start job'; readonly attempt: number }
  /** Deletes the Job, with its ConfigMap where it is of an operator that made one. */
  | { readonly kind: 'delete job' }
  /** Removes the finalizer: the object goes. */
  | { readonly kind: 'release'; readonly event?: EventNote }

export interface Plan {
  readonly actions: readonly DiskAction[]
  /** Look again after so long, in ms, even if nothing changes. */
  readonly requeueAfterMs?: number
}

/** A condition of ours. */
export function condition(
  disk: OnDemandDisk,
  type: 'Ready' | 'Provisioned' | 'Formatted',
  status: 'True' | 'False' | 'Unknown',
  reason: DiskReason,
  message: string = DISK_REASONS[reason].meaning,
): ConditionChange {
  return { type, status, reason, message, ...observedGeneration(disk) }
}

/** Writes conditions, that this generation of the spec has been seen, and what the metadata alone has counted. */
export function status(
  disk: OnDemandDisk,
  conditions: readonly ConditionChange[],
  event?: EventNote,
  fields: Readonly<Record<string, unknown>> = {},
): DiskAction {
  const attempts = attemptsOf(disk)
  const counted = attempts === (disk.status?.attempts ?? 0) ? {} : { attempts }
  const change = { conditions, fields: { ...observedGeneration(disk), ...counted, ...fields } }
  return { kind: 'status', change, ...(event && { event }) }
}

/** What a Job is to make for the disk, as JSON. */
export function objectOf({ apiVersion, kind, metadata, spec }: OnDemandDisk): string {
  const { name, namespace, uid, generation } = metadata
  const known = { name, ...(namespace !== undefined && { namespace }), uid, generation }
  return makeObject({ apiVersion, kind, metadata: known } as OnDemandDisk, spec)
}
