/** Which disks have a place in their pool, told from the stores. */
import type { DiskPool } from '../../crds/diskpool.ts'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { keyOf, type StoreEvent } from '../kube/store.ts'
import { isOwnedBy } from '../pool/job-view.ts'
import { sizeOf, snapshotPlaces } from '../pool/observe.ts'
import { poolKeyOf, type World } from '../pool/world.ts'
import type { Claimant, Refusal } from '../terms/allotment.ts'
import { isTrue } from '../terms/conditions.ts'
import { diskJobName } from '../terms/names.ts'
import { createPlaces } from '../terms/places.ts'

/**
 * Has the disk a place in its pool, whatever the limits are now? By its status, or by a Job: what the metadata says of
 * attempts anyone may write who may write the disk.
 */
export function isStarted(world: World, disk: OnDemandDisk): boolean {
  const { namespace, uid = '' } = disk.metadata
  if (world.starting.has(uid) || (disk.status?.attempts ?? 0) > 0) return true
  if (isTrue(disk, 'Provisioned') || isTrue(disk, 'Formatted')) return true
  const name = diskJobName(uid)
  return isOwnedBy(world.freshJobs.latest(`${namespace}/${name}`, world.jobs.get(namespace, name)), uid)
}

/** Why the pool has no place for a disk that is not made yet; undefined where it has. */
export function refusalOf(world: World, disk: OnDemandDisk, pool: DiskPool | undefined): Refusal | undefined {
  if (!pool) return undefined
  const { quota, onDemand } = pool.spec
  if (quota === undefined && onDemand.maxDisks === undefined) return undefined
  const key = poolKeyOf(disk)
  let places = world.places.get(key)
  if (!places) {
    places = createPlaces()
    world.places.set(key, places)
  }
  const limits = { quota, maxDisks: onDemand.maxDisks, snapshots: snapshotPlaces(world, key) }
  const all = () =>
    world.disks
      .byIndex('pool', key)
      .map(stored => claimantOf(world, world.freshDisks.latest(keyOf(stored), stored) ?? stored))
  return places.refusal(disk.metadata.uid ?? '', limits, all)
}

/** Every change of a disk has to come here, or its pool counts with what it was. */
export function notePlace(world: World, event: StoreEvent<OnDemandDisk>): void {
  const { object } = event
  const key = poolKeyOf(object)
  const { uid = '' } = object.metadata
  // API servers before 1.25 let it move.
  if (event.type === 'updated' && poolKeyOf(event.old) !== key) {
    world.places.get(poolKeyOf(event.old))?.delete(uid)
  }
  const places = world.places.get(key)
  if (event.type === 'deleted') places?.delete(uid)
  else places?.set(claimantOf(world, object))
}

function claimantOf(world: World, disk: OnDemandDisk): Claimant {
  const { uid = '', creationTimestamp = '' } = disk.metadata
  return {
    uid,
    createdAt: creationTimestamp,
    size: sizeOf(disk),
    currentSize: disk.status?.size,
    started: isStarted(world, disk),
  }
}
