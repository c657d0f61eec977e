/** What is to be done for a disk that is being deleted. */
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { attemptsOf, hasBegun } from '../terms/attempts.ts'
import { conditionOf, isTrue } from '../terms/conditions.ts'
import { FINALIZER, FORCE_DELETE_ANNOTATION, SPARE_ANNOTATION } from '../terms/names.ts'
import { DISK_REASONS } from '../terms/reasons.ts'
import { condition, type DiskObserved, type Plan, status } from './observed.ts'

/** Namespaces are not followed: whether this one is being deleted is asked for, in ms. */
const LOOK_AGAIN_MS = 10_000

/**
 * First the Job is stopped, so that it cannot bring the file back; then the agent is waited for, which waits for the
 * clients and removes the file; then the object may go. Where no agent can ever do it, the object goes with a
 * warning that says what is left.
 */
export function planDeletion({ disk, pool, job }: DiskObserved): Plan {
  if (disk.metadata.finalizers?.includes(FINALIZER) !== true) return { actions: [] }
  // It may never end: what would have to end it goes with the namespace, the Pods' node or the pool.
  if (pool.lost !== undefined) return released(disk, pool.lost)
  if (job.state === 'terminating') return { actions: [stopping(disk)] }
  if (job.state !== 'none' && job.state !== 'foreign') {
    return { actions: [stopping(disk), { kind: 'delete job' }] }
  }
  if (!hasBegun(disk) && disk.metadata.annotations?.[SPARE_ANNOTATION] === undefined) {
    return { actions: [{ kind: 'release' }] }
  }
  if (isRemoved(disk)) {
    const { message } = conditionOf(disk, 'Exported') ?? {}
    return {
      actions: [
        {
          kind: 'release',
          event: { type: 'Normal', reason: 'Deleted', message: message ?? 'The disk is gone.' },
        },
      ],
    }
  }
  return {
    actions: [status(disk, [condition(disk, 'Ready', 'False', 'Deleting', waitingFor(disk))])],
    requeueAfterMs: LOOK_AGAIN_MS,
  }
}

/** The agent has done its part. */
function isRemoved(disk: OnDemandDisk): boolean {
  const exported = conditionOf(disk, 'Exported')
  return exported?.status === 'False' && (exported.reason === 'Removed' || exported.reason === 'Retained')
}

/**
 * What the agent has removed before the Job was found, the Job may have brought back: it has to look again. That
 * happens where an operator that was thought dead makes a Job after all.
 */
function stopping(disk: OnDemandDisk) {
  const again = {
    type: 'Exported',
    status: 'Unknown',
    reason: 'StoppingJob',
    message: DISK_REASONS.StoppingJob.meaning,
  } as const
  const ready = condition(disk, 'Ready', 'False', 'StoppingJob')
  return status(disk, isRemoved(disk) ? [ready, again] : [ready])
}

function waitingFor(disk: OnDemandDisk): string {
  const exported = conditionOf(disk, 'Exported')
  if (exported?.status === 'True' && exported.reason === 'InUse') {
    const isForced = disk.metadata.annotations?.[FORCE_DELETE_ANNOTATION] === 'true'
    const hint = isForced
      ? 'They are being disconnected.'
      : `Disconnect them, or annotate the disk with ${FORCE_DELETE_ANNOTATION}=true.`
    return `Waiting for the clients that use the disk. ${exported.message} ${hint}`
  }
  return 'Waiting for the pool’s server to remove the disk. To give the data up where it can never run again, delete the pool’s PersistentVolumeClaim.'
}

function released(disk: OnDemandDisk, why: string): Plan {
  const left = isTrue(disk, 'Provisioned') || attemptsOf(disk) > 0
  const what = left ? ` Its data, if the volume is still there, is left at disks/${disk.metadata.uid}.` : ''
  return {
    actions: [
      {
        kind: 'release',
        event: { type: 'Warning', reason: 'DataLeft', message: `${why} Nobody can remove the disk.${what}` },
      },
    ],
  }
}
