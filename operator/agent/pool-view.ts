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
  /** Takes an object that the API server has just told of, until the news of it comes, for a while at most. */
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

/**
 * News that take longer than this, in ms, may never come: of an object that has been deleted meanwhile, or that the
 * operator has not given the pool's label yet. Whoever needs it asks the API server again.
 */
export const FRESH_MS = 10_000

/** Puts the view together from the stores that are followed. */
export function createPoolView({ disks, snapshots, log, onAdd }: PoolViewTerms): FollowedView {
  const fresh = new Map<string, { readonly disk: OnDemandDisk; readonly until: number }>()
  let parsed: DiskPool | undefined
  let isThere = false

  const find = <T extends OnDemandDisk | DiskSnapshot>(store: Store<T>, key: string): T | undefined => {
    const { namespace, name } = refOf(key)
    return store.get(namespace, name)
  }

  /** Those whose news have not come, the oldest first. */
  function freshDisks(): OnDemandDisk[] {
    const now = performance.now()
    for (const [key, { until }] of fresh) {
      if (now < until) break
      fresh.delete(key)
    }
    return [...fresh.values()].map(({ disk }) => disk)
  }

  function freshDisk(key: string): OnDemandDisk | undefined {
    const entry = fresh.get(key)
    return entry !== undefined && performance.now() < entry.until ? entry.disk : undefined
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
    disk: key => find(disks, key) ?? freshDisk(key),
    *disks() {
      yield* disks.list()
      yield* freshDisks()
    },
    byExport(name) {
      const [found] = disks.byIndex('export', name)
      if (found !== undefined) return found
      return freshDisks().find(({ metadata, spec }) => (spec.exportName ?? metadata.name) === name)
    },
    snapshot: key => find(snapshots, key),
    snapshots: () => snapshots.list(),
    add(disk) {
      const key = keyOf(disk)
      fresh.delete(key)
      if (find(disks, key) === undefined) fresh.set(key, { disk, until: performance.now() + FRESH_MS })
      onAdd(key)
    },
    diskChanged({ object }) {
      const key = keyOf(object)
      if (fresh.get(key)?.disk.metadata.uid === object.metadata.uid) fresh.delete(key)
    },
    poolChanged({ type, object }) {
      isThere = type !== 'deleted'
      if (isThere) take(object)
    },
  }
}
