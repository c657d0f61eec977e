/** What is to be done for a snapshot, decided from what is seen of it, and from nothing else. */
import { checkSnapshotTransition, type DiskSnapshot } from '../../crds/disksnapshot.ts'
import { InvalidSpecError, orInvalid } from '../../crds/invalid-spec-error.ts'
import { quote } from '../../crds/quote.ts'
import type { SourceView } from '../disk/source.ts'
import type { ConditionChange, StatusChange } from '../kube/conditions.ts'
import type { EventNote } from '../kube/events.ts'
import type { Refusal } from '../terms/allotment.ts'
import { conditionOf, observedGeneration } from '../terms/conditions.ts'
import { ACCEPTED_ANNOTATION, FINALIZER, POOL_LABEL } from '../terms/names.ts'
import { SNAPSHOT_REASONS, type SnapshotReason } from '../terms/reasons.ts'
import { isAccepted } from '../terms/snapshots.ts'

/** A snapshot, and all that decides about it. */
export interface SnapshotObserved {
  readonly snapshot: DiskSnapshot
  /** The object checked, or what is wrong with it. */
  readonly parsed: DiskSnapshot | InvalidSpecError
  /** The disk that it is to be of. */
  readonly disk: SourceView
  readonly pool: PoolView
  /** Why the pool has no place for it. */
  readonly refusal?: Refusal | undefined
}

export interface PoolView {
  readonly state: 'missing' | 'invalid' | 'there' | 'deleting'
  /** There is nobody, and will be nobody, who could remove its data: why. */
  readonly lost?: string | undefined
}

/** One step. They are taken in order; the rest is dropped when one fails. */
export type SnapshotAction =
  /** Takes the snapshot into care: finalizer, the pool's label, and what cannot be changed of its spec. */
  | { readonly kind: 'claim'; readonly accepted: string; readonly poolName: string }
  | { readonly kind: 'status'; readonly change: StatusChange; readonly event?: EventNote }
  /** Removes the finalizer: the object goes. */
  | { readonly kind: 'release'; readonly event?: EventNote }

export interface SnapshotPlan {
  readonly actions: readonly SnapshotAction[]
  /** Look again after so long, in ms, even if nothing changes. */
  readonly requeueAfterMs?: number
}

/** Namespaces are not followed: whether this one is being deleted is asked for, in ms. */
const LOOK_AGAIN_MS = 10_000

/** What is to be done now. */
export function planSnapshot(observed: SnapshotObserved): SnapshotPlan {
  const { snapshot, parsed } = observed
  if (snapshot.metadata.deletionTimestamp !== undefined) return planDeletion(observed)
  const problem = parsed instanceof InvalidSpecError ? parsed : changedField(snapshot)
  if (problem) return notReady(snapshot, 'InvalidSpec', problem.message)
  return isAccepted(snapshot) ? { actions: [readiness(snapshot)] } : planAcceptance(observed)
}

/** API servers before 1.25 let every change through. */
function changedField(snapshot: DiskSnapshot): InvalidSpecError | undefined {
  const diskName = snapshot.metadata.annotations?.[ACCEPTED_ANNOTATION]
  if (diskName === undefined) return undefined
  const problem = orInvalid(() => checkSnapshotTransition({ spec: { diskName } }, snapshot))
  return problem instanceof InvalidSpecError ? problem : undefined
}

/** The snapshot gets its place, and what it is of is noted, at one stroke; from then on it is the agent's. */
function planAcceptance({ snapshot, disk, pool, refusal }: SnapshotObserved): SnapshotPlan {
  const name = quote(snapshot.spec.diskName)
  if (disk.state === 'missing') {
    return notReady(snapshot, 'DiskNotFound', `There is no OnDemandDisk ${name} in this namespace.`)
  }
  if (disk.state === 'not ready') {
    return notReady(snapshot, 'DiskNotReady', `The OnDemandDisk ${name} ${disk.message}`)
  }
  if (pool.state !== 'there') {
    const what = { missing: 'missing', invalid: 'not valid', deleting: 'being deleted' }[pool.state]
    return notReady(snapshot, 'PoolNotReady', `The DiskPool ${disk.poolName} is ${what}.`)
  }
  if (refusal) return notReady(snapshot, 'QuotaExceeded', refusal.message)
  const { finalizers, labels, annotations } = snapshot.metadata
  const isClaimed =
    finalizers?.includes(FINALIZER) === true &&
    labels?.[POOL_LABEL] === disk.poolName &&
    annotations?.[ACCEPTED_ANNOTATION] !== undefined
  if (!isClaimed) {
    return { actions: [{ kind: 'claim', accepted: snapshot.spec.diskName, poolName: disk.poolName }] }
  }
  const { uid: diskUid, poolName, size, filesystem } = disk
  const fields = { poolName, diskUid, size, ...(filesystem !== undefined && { filesystem }) }
  const conditions = [
    condition(snapshot, 'Accepted', 'True', 'Accepted'),
    condition(snapshot, 'Ready', 'False', 'WaitingForServer'),
  ]
  return { actions: [status(snapshot, conditions, { ...fields, readyToUse: false })] }
}

/** Ready is what the agent says of the file. */
function readiness(snapshot: DiskSnapshot): SnapshotAction {
  const taken = conditionOf(snapshot, 'Taken')
  if (taken?.status === 'True' && taken.reason === 'Taken') {
    const isNews = snapshot.status?.readyToUse !== true
    const event = { type: 'Normal', reason: 'Taken', message: SNAPSHOT_REASONS.Taken.meaning } as const
    const conditions = [condition(snapshot, 'Ready', 'True', 'Ready')]
    return { ...status(snapshot, conditions, { readyToUse: true }), ...(isNews && { event }) }
  }
  const reason = (taken?.reason ?? 'WaitingForServer') as SnapshotReason
  const ready = condition(snapshot, 'Ready', 'False', reason, taken?.message)
  const isBad = reason === 'CopyFailed' || reason === 'DataMissing'
  const event = { type: 'Warning', reason, message: ready.message } as const
  return { ...status(snapshot, [ready], { readyToUse: false }), ...(isBad && { event }) }
}

/** The agent removes the file; where no agent can ever do it, the object goes with a warning that says what is left. */
function planDeletion({ snapshot, pool }: SnapshotObserved): SnapshotPlan {
  const { metadata } = snapshot
  if (metadata.finalizers?.includes(FINALIZER) !== true) return { actions: [] }
  if (!isAccepted(snapshot)) return { actions: [{ kind: 'release' }] }
  if (pool.lost !== undefined) {
    const message = `${pool.lost} Nobody can remove the snapshot. Its data, if the volume is still there, is left at snapshots/${metadata.uid}.`
    return { actions: [{ kind: 'release', event: { type: 'Warning', reason: 'DataLeft', message } }] }
  }
  const taken = conditionOf(snapshot, 'Taken')
  if (taken?.status === 'False' && taken.reason === 'Removed') {
    const event = { type: 'Normal', reason: 'Deleted', message: taken.message } as const
    return { actions: [{ kind: 'release', event }] }
  }
  const message =
    taken?.reason === 'InUse' ? taken.message : 'Waiting for the pool’s agent to remove the snapshot.'
  const ready = condition(snapshot, 'Ready', 'False', 'Deleting', message)
  return { actions: [status(snapshot, [ready], { readyToUse: false })], requeueAfterMs: LOOK_AGAIN_MS }
}

function notReady(snapshot: DiskSnapshot, reason: SnapshotReason, message: string): SnapshotPlan {
  const ready = condition(snapshot, 'Ready', 'False', reason, message)
  const event = reason === 'InvalidSpec' ? { event: { type: 'Warning', reason, message } as const } : {}
  return { actions: [{ ...status(snapshot, [ready], { readyToUse: false }), ...event }] }
}

function status(
  snapshot: DiskSnapshot,
  conditions: readonly ConditionChange[],
  fields: Readonly<Record<string, unknown>>,
): SnapshotAction {
  return { kind: 'status', change: { conditions, fields: { ...observedGeneration(snapshot), ...fields } } }
}

function condition(
  snapshot: DiskSnapshot,
  type: 'Ready' | 'Accepted',
  state: 'True' | 'False',
  reason: SnapshotReason,
  message: string = SNAPSHOT_REASONS[reason].meaning,
): ConditionChange {
  return { type, status: state, reason, message, ...observedGeneration(snapshot) }
}
