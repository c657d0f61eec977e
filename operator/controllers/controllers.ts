/** The operator's controllers: what has to be looked at again when something changes, and looking at it. */
import type { DiskPool } from '../../crds/diskpool.ts'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import type { Controllers, ControllersTerms } from '../cli/run.ts'
import { actOnDisk } from '../disk/act.ts'
import { observeDisk, planInPlace } from '../disk/observe.ts'
import { notePlace } from '../disk/places.ts'
import { startController } from '../kube/controller.ts'
import type { KubeObject } from '../kube/objects.ts'
import { type Priority, WorkQueue } from '../kube/queue.ts'
import { keyOf } from '../kube/store.ts'
import { actOnPool } from '../pool/act.ts'
import { observePool } from '../pool/observe.ts'
import { obstaclesOf, watchObstacles } from '../pool/obstacles.ts'
import { planPool } from '../pool/plan.ts'
import type { PodSettings } from '../pool/settings.ts'
import { followWorld, poolKeyOf, sourceKeyOf } from '../pool/world.ts'
import { reconcileSnapshot } from '../snapshot/reconcile.ts'
import { conditionOf, isTrue } from '../terms/conditions.ts'
import { DISK_LABEL, POOL_LABEL } from '../terms/names.ts'
import { isAccepted } from '../terms/snapshots.ts'

/** News of a pool's disks is gathered for so long, in ms: its status counts them, and each count is a write. */
const GATHER_MS = 2000

/** Follows the cluster at once, and acts when told to. */
export function startControllers({ client, events, options, log }: ControllersTerms): Controllers {
  const settings: PodSettings = {
    image: options.image,
    imagePullPolicy: options['image-pull-policy'],
    imagePullSecrets: options['image-pull-secret'],
    agentClusterRole: options['agent-cluster-role'],
  }
  const diskQueue = new WorkQueue()
  const poolQueue = new WorkQueue()
  const snapshotQueue = new WorkQueue()

  const world = followWorld(
    client,
    options.namespace,
    {
      disk(event) {
        const { object } = event
        notePlace(world, event)
        if (event.type === 'deleted') world.refusedJobs.delete(object.metadata.uid ?? '')
        diskQueue.add(keyOf(object), isSettled(object) ? priorityOf(event) : 'news')
        lookAtCopies(object)
        if (event.type !== 'updated' || countsAnew(event.old, object))
          poolQueue.addAfter(poolKeyOf(object), GATHER_MS)
      },
      pool(event) {
        const key = keyOf(event.object)
        poolQueue.add(key, priorityOf(event))
        if (event.type !== 'updated' || isAnotherPool(event.old, event.object)) lookAtWaiting(key)
      },
      snapshot(event) {
        const { object } = event
        snapshotQueue.add(keyOf(object), priorityOf(event))
        for (const disk of world.disks.byIndex('source', sourceKeyOf('DiskSnapshot', object))) {
          if (isWaiting(disk)) diskQueue.add(keyOf(disk))
        }
        const { poolName } = object.status ?? {}
        if (poolName !== undefined) poolQueue.addAfter(`${object.metadata.namespace}/${poolName}`, GATHER_MS)
      },
      job: ({ object }) => addOwner(object),
      pod: ({ object }) => {
        const { namespace, labels = {} } = object.metadata
        const pool = `${namespace}/${labels[POOL_LABEL]}`
        const uid = labels[DISK_LABEL]
        if (uid !== undefined) {
          for (const disk of world.disks.byIndex('uid', uid)) diskQueue.add(keyOf(disk))
        } else if (labels['app.kubernetes.io/component'] === 'server') {
          poolQueue.add(pool)
          lookAtWaiting(pool)
        }
      },
      claim: ({ object }) => {
        const { namespace, labels = {} } = object.metadata
        const own = labels[POOL_LABEL]
        const pools = [
          ...world.pools.byIndex('claim', keyOf(object)).map(keyOf),
          ...(own === undefined ? [] : [`${namespace}/${own}`]),
        ]
        for (const pool of new Set(pools)) {
          poolQueue.add(pool)
          lookAtWaiting(pool)
        }
      },
      part: ({ object }) => {
        const pool = object.metadata.labels?.[POOL_LABEL]
        if (pool !== undefined) poolQueue.add(`${object.metadata.namespace}/${pool}`)
      },
    },
    log,
  )

  const obstacles = watchObstacles(client, pool => poolQueue.add(pool), log)

  function addOwner({ metadata }: KubeObject): void {
    for (const { kind, name } of metadata.ownerReferences ?? []) {
      const key = `${metadata.namespace}/${name}`
      if (kind === 'OnDemandDisk') diskQueue.add(key)
      if (kind === 'DiskPool') poolQueue.add(key)
    }
  }

  /** What has changed of a pool may be what its disks wait for: those that are to be made, and those that are to go. */
  function lookAtWaiting(pool: string): void {
    for (const disk of world.disks.byIndex('pool', pool)) {
      if (isWaiting(disk)) diskQueue.add(keyOf(disk), 'low')
    }
    const [namespace] = pool.split('/')
    for (const snapshot of world.snapshots.list(namespace)) {
      const isDeleted = snapshot.metadata.deletionTimestamp !== undefined
      if (isDeleted || !isAccepted(snapshot)) snapshotQueue.add(keyOf(snapshot), 'low')
    }
  }

  /** Copies that wait for a disk, or that are of one. */
  function lookAtCopies(disk: OnDemandDisk): void {
    for (const snapshot of world.snapshots.byIndex('disk', keyOf(disk))) {
      if (!isAccepted(snapshot)) snapshotQueue.add(keyOf(snapshot))
    }
    for (const copy of world.disks.byIndex('source', sourceKeyOf('OnDemandDisk', disk))) {
      if (isWaiting(copy) && copy !== disk) diskQueue.add(keyOf(copy))
    }
  }

  /** Places of a pool: a disk that has gone, or shrunk its wish, makes room. */
  const placed = new Map<string, string>()

  async function reconcileDisk(key: string, signal: AbortSignal) {
    const seen = await observeDisk(world, key)
    if (!seen) return undefined
    const { actions, requeueAfterMs } = planInPlace(world, seen)
    try {
      await actOnDisk({ world, events, settings, signal }, seen, actions)
    } finally {
      world.starting.delete(seen.disk.metadata.uid ?? '')
    }
    return requeueAfterMs === undefined ? undefined : { requeueAfterMs }
  }

  async function reconcilePool(key: string, signal: AbortSignal) {
    const seen = await observePool(world, key, settings)
    obstacles.follow(key, seen ? obstaclesOf(seen) : [])
    if (!seen) {
      placed.delete(key)
      world.places.delete(key)
      return undefined
    }
    const places = `${seen.disks.count} ${seen.disks.provisioned}`
    if (placed.get(key) !== places) {
      placed.set(key, places)
      const { quota, onDemand } = seen.pool.spec ?? {}
      if (quota !== undefined || onDemand?.maxDisks !== undefined) lookAtWaiting(key)
    }
    const { actions, requeueAfterMs } = planPool(seen)
    await actOnPool({ world, events, signal }, seen, actions)
    return requeueAfterMs === undefined ? undefined : { requeueAfterMs }
  }

  let controllers: ReturnType<typeof startController>[] = []
  return {
    synced: world.synced,
    act() {
      const common = { workers: options.workers, log }
      controllers = [
        startController({ ...common, name: 'ondemanddisk', queue: diskQueue, reconcile: reconcileDisk }),
        startController({
          ...common,
          name: 'disksnapshot',
          queue: snapshotQueue,
          reconcile: (key, signal) => reconcileSnapshot(world, events, key, signal),
        }),
        startController({ ...common, name: 'diskpool', queue: poolQueue, reconcile: reconcilePool }),
      ]
      return controllers.map(({ meter }) => meter)
    },
    async stop() {
      await Promise.all(controllers.map(controller => controller.stop()))
      await Promise.all([obstacles.stop(), world.stop()])
    },
  }
}

function priorityOf(event: { readonly type: string; readonly initial?: boolean }): Priority {
  return event.type === 'added' && event.initial === true ? 'low' : 'news'
}

/** Of a disk that is ready nothing is awaited; after a start those that are not go first. */
function isSettled(disk: OnDemandDisk): boolean {
  const { metadata } = disk
  const ready = conditionOf(disk, 'Ready')
  return (
    metadata.deletionTimestamp === undefined &&
    ready?.status === 'True' &&
    ready.observedGeneration === metadata.generation
  )
}

/** Is there something that the pool counts? */
function countsAnew(old: OnDemandDisk, { spec }: OnDemandDisk): boolean {
  return old.spec?.size !== spec?.size
}

/** Not only its status is another one. */
function isAnotherPool(old: DiskPool, { metadata }: DiskPool): boolean {
  return (
    old.metadata.generation !== metadata.generation ||
    old.metadata.deletionTimestamp !== metadata.deletionTimestamp
  )
}

function isWaiting(disk: OnDemandDisk): boolean {
  return disk.metadata.deletionTimestamp !== undefined || !isTrue(disk, 'Provisioned')
}
