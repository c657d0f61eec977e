/** One snapshot at a time: looks at it, and takes the steps of its plan. */
import { type DiskSnapshot, parseDiskSnapshot } from '../../crds/disksnapshot.ts'
import { orInvalid } from '../../crds/invalid-spec-error.ts'
import { viewPool } from '../disk/observe.ts'
import { isStarted } from '../disk/places.ts'
import { viewDisk } from '../disk/source.ts'
import { writeStatus } from '../kube/conditions.ts'
import type { ReconcileResult } from '../kube/controller.ts'
import type { EventRecorder } from '../kube/events.ts'
import { hasCode } from '../kube/kube-error.ts'
import { refOf } from '../kube/store.ts'
import { sizeOf, snapshotPlaces } from '../pool/observe.ts'
import { SNAPSHOTS, type World } from '../pool/world.ts'
import { snapshotRefusal } from '../terms/allotment.ts'
import { ACCEPTED_ANNOTATION, FINALIZER, POOL_LABEL } from '../terms/names.ts'
import { isAccepted } from '../terms/snapshots.ts'
import { planSnapshot, type SnapshotAction } from './plan.ts'

/** Looks at the snapshot of this key and does what is to be done. @throws KubeError */
export async function reconcileSnapshot(
  world: World,
  events: Pick<EventRecorder, 'record'>,
  key: string,
  signal: AbortSignal,
): Promise<ReconcileResult | undefined> {
  const { namespace = '', name } = refOf(key)
  const stored = world.snapshots.get(namespace, name)
  const snapshot = stored && world.freshSnapshots.latest(key, stored)
  if (!snapshot) return undefined
  const { uid = '', deletionTimestamp } = snapshot.metadata
  const storedDisk = world.disks.get(namespace, snapshot.spec?.diskName ?? '')
  const disk = viewDisk(storedDisk, storedDisk ? sizeOf(storedDisk) : 0)
  const poolName =
    snapshot.status?.poolName ??
    (disk.state === 'ready' ? disk.poolName : (snapshot.metadata.labels?.[POOL_LABEL] ?? ''))
  const pool = await viewPool(world, namespace, poolName, deletionTimestamp !== undefined)
  // From here to the entry there is no wait: two workers must not give the last place away twice.
  const poolKey = `${namespace}/${poolName}`
  const wants = !isAccepted(snapshot) && disk.state === 'ready' && deletionTimestamp === undefined
  const refusal = wants ? snapshotRefusal(disk.size, usedOf(world, poolKey, uid), pool.quota) : undefined
  const parsed = orInvalid(() => parseDiskSnapshot(snapshot))
  const plan = planSnapshot({ snapshot, parsed, disk, pool, refusal })
  if (wants && refusal === undefined) world.startingSnapshots.set(uid, { pool: poolKey, size: disk.size })
  try {
    let latest = snapshot
    for (const action of plan.actions) {
      const written = await take(world, events, latest, action, signal)
      if (!written) continue
      latest = written
      world.freshSnapshots.note(latest)
    }
  } finally {
    world.startingSnapshots.delete(uid)
  }
  return plan.requeueAfterMs === undefined ? undefined : { requeueAfterMs: plan.requeueAfterMs }
}

/** Bytes that a pool has given out: to disks that are made or being made, and to other snapshots. */
function usedOf(world: World, pool: string, except: string): number {
  let used = snapshotPlaces(world, pool, except)
  for (const disk of world.disks.byIndex('pool', pool)) {
    if (isStarted(world, disk)) used += disk.status?.size ?? sizeOf(disk)
  }
  return used
}

/** Returns the snapshot where it was written. */
async function take(
  { client }: World,
  events: Pick<EventRecorder, 'record'>,
  snapshot: DiskSnapshot,
  action: SnapshotAction,
  signal: AbortSignal,
): Promise<DiskSnapshot | undefined> {
  const { metadata } = snapshot
  const { resourceVersion, finalizers = [] } = metadata
  switch (action.kind) {
    case 'claim': {
      const claimed = {
        resourceVersion,
        finalizers: [...new Set([...finalizers, FINALIZER])],
        labels: { [POOL_LABEL]: action.poolName },
        annotations: { [ACCEPTED_ANNOTATION]: action.accepted },
      }
      return await client.patch(SNAPSHOTS, metadata, 'merge', { metadata: claimed }, { signal })
    }
    case 'status': {
      const written = await writeStatus(client, SNAPSHOTS, snapshot, action.change, { signal })
      if (written === snapshot) return undefined
      if (action.event) events.record(snapshot, action.event)
      return written
    }
    case 'release': {
      if (action.event) events.record(snapshot, action.event)
      const rest = finalizers.filter(finalizer => finalizer !== FINALIZER)
      try {
        const patch = { metadata: { resourceVersion, finalizers: rest } }
        return await client.patch(SNAPSHOTS, metadata, 'merge', patch, { signal })
      } catch (error) {
        if (hasCode(error, 'NotFound')) return undefined
        throw error
      }
    }
  }
}
