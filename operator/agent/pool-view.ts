/** What the agent knows of its pool: what the API server has told, and the disks that it has made and not told of yet. */
import { type DiskPool, parseDiskPool } from '../../crds/diskpool.ts'
import type { DiskSnapshot } from '../../crds/disksnapshot.ts'
import { InvalidSpecError } from '../../crds/invalid-spec-error.ts'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import type { KubeLog } from '../kube/log.ts'
import { keyOf, refOf, type Store, type StoreEvent } from '../kube/store.ts'

/** All objects of the pool that the agent knows. */
export interface PoolView {
  /** Undefined: there is none, or it has never been valid. */
  readonly pool: DiskPool | undefined
  /** Latest state of a disk, by its key. */
  disk(key: string): OnDemandDisk | undefined
  disks(): Iterable<OnDemandDisk>
  /** The disk of an export name, whatever its object is called. */
  byExport(name: string): OnDemandDisk | undefined
  snapshot(key: string): DiskSnapshot | undefined
  /** None where the API server does not know the kind. */
  snapshots(): Iterable<DiskSnapshot>
  /** Takes an object that the API server has just made, until the news of it comes. */
  add(disk: OnDemandDisk): void
}

export interface PoolViewTerms {
  /** With the index `export`. */
  readonly disks: Store<OnDemandDisk>
  readonly snapshots: Store<DiskSnapshot>
  readonly log: KubeLog
  /** Told of each disk that is taken by `add`. */
  readonly onAdd: (key: string) => void
}

/** The view of those who follow the API server, who have to tell it of disks and of the pool. */
export interface FollowedView extends PoolView {
  diskChanged(event: StoreEvent<OnDemandDisk>): void
  poolChanged(event: StoreEvent<DiskPool>): void
}

/** Puts the view together from the stores that are followed. */
export function createPoolView({ disks, snapshots, log, onAdd }: PoolViewTerms): FollowedView {
  const fresh = new Map<string, OnDemandDisk>()
  let parsed: DiskPool | undefined
  let isThere = false

  const find = <T extends OnDemandDisk | DiskSnapshot>(store: Store<T>, key: string): T | undefined => {
    const { namespace, name } = refOf(key)
    return store.get(namespace, name)
  }

  /** A pool whose spec is wrong keeps its last good one. */
  function take(object: DiskPool): void {
    const { name, generation } = object.metadata
    try {
      parsed = parseDiskPool(object)
      log.debug({ pool: name, generation }, 'Follows the pool')
    } catch (error) {
      if (!(error instanceof InvalidSpecError)) throw error
      log.error({ pool: name, reason: error.message }, 'The pool is not valid; what held before stays')
      if (parsed !== undefined) parsed = { ...parsed, metadata: object.metadata }
    }
  }

  return {
    get pool() {
      return isThere ? parsed : undefined
    },
    disk: key => find(disks, key) ?? fresh.get(key),
    *disks() {
      yield* disks.list()
      yield* fresh.values()
    },
    byExport(name) {
      const [found] = disks.byIndex('export', name)
      if (found !== undefined) return found
      for (const disk of fresh.values()) if (disk.spec.exportName === name) return disk
      return undefined
    },
    snapshot: key => find(snapshots, key),
    snapshots: () => snapshots.list(),
    add(disk) {
      const key = keyOf(disk)
      if (find(disks, key) === undefined) fresh.set(key, disk)
      onAdd(key)
    },
    diskChanged({ object }) {
      const key = keyOf(object)
      if (fresh.get(key)?.metadata.uid === object.metadata.uid) fresh.delete(key)
    },
    poolChanged({ type, object }) {
      isThere = type !== 'deleted'
      if (isThere) take(object)
    },
  }
}
