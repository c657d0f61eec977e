/** What the agent does for a snapshot, from what it sees. No I/O. */
import type { DiskSnapshot } from '../../crds/disksnapshot.ts'
import type { ConditionChange, StatusChange } from '../kube/conditions.ts'
import { conditionOf, observedGeneration } from '../terms/conditions.ts'
import { FINALIZER } from '../terms/names.ts'
import { SNAPSHOT_REASONS, type SnapshotReason } from '../terms/reasons.ts'
import { isAccepted, isTaken } from '../terms/snapshots.ts'
import type { CopyView } from './copier.ts'
import type { SnapshotFile } from './volume.ts'

/** A snapshot, and all that decides about it. */
export interface SnapshotObserved {
  readonly snapshot: DiskSnapshot
  readonly file: SnapshotFile | undefined
  readonly copy: CopyView
  /** Names of disks that are being made of it. */
  readonly clones: readonly string[]
  /** ms since 1970. */
  readonly now: number
}

export type SnapshotAction =
  | { readonly kind: 'start copy'; readonly diskUid: string }
  | { readonly kind: 'call off copy' }
  | { readonly kind: 'remove file' }
  | { readonly kind: 'status'; readonly change: StatusChange }

export interface SnapshotPlan {
  readonly actions: readonly SnapshotAction[]
  /** Look again after so long, in ms, even if nothing changes. */
  readonly requeueAfterMs?: number
}

const LOOK_AGAIN_MS = 5000

/** It is taken once the operator has accepted it. That it was taken is never unsaid, as long as its data is not removed. */
export function planSnapshot(observed: SnapshotObserved): SnapshotPlan {
  const { snapshot, file, copy, now } = observed
  if (snapshot.metadata.deletionTimestamp !== undefined) return planDeletion(observed)
  if (!isAccepted(snapshot)) return { actions: [] }
  if (file !== undefined) return { actions: [taken(snapshot, file, copy)] }
  if (isTaken(snapshot)) return { actions: [say(snapshot, 'True', 'DataMissing')] }
  if (copy.state === 'running') return { actions: [say(snapshot, 'False', 'Copying')] }
  if (copy.state === 'failed' && now < copy.retryAt) {
    return {
      actions: [say(snapshot, 'False', 'CopyFailed', copy.message)],
      requeueAfterMs: copy.retryAt - now,
    }
  }
  const { diskUid } = snapshot.status ?? {}
  if (diskUid === undefined) return { actions: [] }
  // What failed is told until it has not failed any more: else the message would come and go.
  const told = copy.state === 'failed' ? [] : [say(snapshot, 'False', 'Copying')]
  return { actions: [...told, { kind: 'start copy', diskUid }] }
}

/** Nothing is removed before the operator has said that the snapshot is out of use, and disks that are being made of it are. */
function planDeletion({ snapshot, file, copy, clones }: SnapshotObserved): SnapshotPlan {
  const isOurs =
    snapshot.metadata.finalizers?.includes(FINALIZER) === true &&
    conditionOf(snapshot, 'Ready')?.reason === 'Deleting'
  const calledOff: SnapshotAction[] = copy.state === 'none' ? [] : [{ kind: 'call off copy' }]
  if (!isOurs) return { actions: calledOff }
  if (clones.length > 0 && file !== undefined) {
    const message = `Disks are being made of it: ${clones.join(', ')}. It is removed when they are made or deleted.`
    return {
      actions: [...calledOff, say(snapshot, 'True', 'InUse', message)],
      requeueAfterMs: LOOK_AGAIN_MS,
    }
  }
  const removal: SnapshotAction[] = file === undefined ? [] : [{ kind: 'remove file' }]
  return { actions: [...calledOff, ...removal, say(snapshot, 'False', 'Removed')] }
}

function taken(snapshot: DiskSnapshot, { size, takenAt }: SnapshotFile, copy: CopyView): SnapshotAction {
  const fields = {
    size,
    creationTime: takenAt.toISOString(),
    ...(copy.state === 'done' && { method: copy.method }),
  }
  return {
    kind: 'status',
    change: { conditions: [condition(snapshot, 'True', 'Taken')], fields },
  }
}

const say = (
  snapshot: DiskSnapshot,
  status: 'True' | 'False',
  reason: SnapshotReason,
  message?: string,
): SnapshotAction => ({
  kind: 'status',
  change: { conditions: [condition(snapshot, status, reason, message)] },
})

function condition(
  snapshot: DiskSnapshot,
  status: 'True' | 'False',
  reason: SnapshotReason,
  message: string = SNAPSHOT_REASONS[reason].meaning,
): ConditionChange {
  return { type: 'Taken', status, reason, message, ...observedGeneration(snapshot) }
}
