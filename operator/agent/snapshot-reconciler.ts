/** One snapshot at a time: looks at it, and takes the steps of its plan. */
import type { DiskSnapshot } from '../../crds/disksnapshot.ts'
import { DISK_SNAPSHOTS } from '../../crds/resources.ts'
import type { KubeClient } from '../kube/client.ts'
import { writeStatus } from '../kube/conditions.ts'
import type { ReconcileResult } from '../kube/controller.ts'
import { hasCode } from '../kube/kube-error.ts'
import { disksMadeOf } from '../terms/snapshots.ts'
import type { Copier } from './copier.ts'
import type { PoolView } from './pool-view.ts'
import { planSnapshot, type SnapshotAction } from './snapshot-plan.ts'
import { isUid, type Volume } from './volume.ts'

export interface SnapshotReconcilerTerms {
  readonly client: KubeClient
  readonly view: Pick<PoolView, 'snapshot' | 'disks'>
  readonly volume: Volume
  readonly copier: Copier
  readonly counted: { statusWrites: number }
}

/** Conditions of others do not matter to ours. */
const STATUS_RETRIES = 4

/** Makes what brings the pool's snapshots, one at a time, to what their objects say. */
export function createSnapshotReconciler({ client, view, volume, copier, counted }: SnapshotReconcilerTerms) {
  async function take(action: SnapshotAction, snapshot: DiskSnapshot, uid: string, signal: AbortSignal) {
    switch (action.kind) {
      case 'start copy':
        copier.start({
          from: { place: 'disks', uid: action.diskUid },
          to: { place: 'snapshots', uid },
        })
        return snapshot
      case 'call off copy':
        await copier.callOff(uid)
        return snapshot
      case 'remove file':
        await volume.removeSnapshot(uid)
        return snapshot
      case 'status': {
        const options = { retries: STATUS_RETRIES, signal }
        const written = await writeStatus<DiskSnapshot>(
          client,
          DISK_SNAPSHOTS,
          snapshot,
          action.change,
          options,
        )
        if (written !== snapshot) counted.statusWrites++
        return written
      }
    }
  }

  return async (key: string, signal: AbortSignal): Promise<ReconcileResult | undefined> => {
    const snapshot = view.snapshot(key)
    const uid = snapshot?.metadata.uid
    // The uid becomes a file's name; an API server makes no other.
    if (snapshot === undefined || !isUid(uid)) return undefined
    const { actions, requeueAfterMs } = planSnapshot({
      snapshot,
      file: await volume.snapshot(uid),
      copy: copier.view(uid),
      clones: disksMadeOf('DiskSnapshot', uid, view.disks()),
      now: Date.now(),
    })
    try {
      let latest = snapshot
      for (const action of actions) latest = await take(action, latest, uid, signal)
    } catch (error) {
      // Deleted meanwhile; the news of it comes by itself.
      if (!hasCode(error, 'NotFound')) throw error
    }
    return requeueAfterMs === undefined ? undefined : { requeueAfterMs }
  }
}
