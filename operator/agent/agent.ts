/**
 * The agent of a pool: beside the pool's server, in the same pod, it keeps the server's manifests and policy equal to what
 * the API says, and the API's status equal to what the server does. While the API server is away everything stays.
 */
import type { DiskPool } from '../../crds/diskpool.ts'
import type { DiskSnapshot } from '../../crds/disksnapshot.ts'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { DISK_POOLS, DISK_SNAPSHOTS, ON_DEMAND_DISKS } from '../../crds/resources.ts'
import { serveJson } from '../../server/control/unix-http.ts'
import type { Family } from '../../server/metrics/exposition.ts'
import type { KubeClient } from '../kube/client.ts'
import { type ControllerMeter, startController } from '../kube/controller.ts'
import type { EventRecorder } from '../kube/events.ts'
import { type KubeLog, reasonOf } from '../kube/log.ts'
import { WorkQueue } from '../kube/queue.ts'
import { startReflector } from '../kube/reflector.ts'
import { keyOf, type StoreEvent } from '../kube/store.ts'
import { conditionOf } from '../terms/conditions.ts'
import { POOL_LABEL, poolNames } from '../terms/names.ts'
import { createCopier } from './copier.ts'
import { createDiskReconciler } from './disk-reconciler.ts'
import { createFarewell } from './farewell.ts'
import { openManifests } from './manifest-directory.ts'
import { agentFamilies, newCounts } from './metrics.ts'
import { askedDisk, createOnDemand } from './on-demand.ts'
import { createPoolReconciler } from './pool-reconciler.ts'
import { createPoolView } from './pool-view.ts'
import { startMirror } from './server-mirror.ts'
import { createSnapshotReconciler } from './snapshot-reconciler.ts'
import { openVolume } from './volume.ts'

/** What the agent works with. */
export interface AgentTerms {
  readonly client: KubeClient
  readonly options: {
    readonly namespace: string
    readonly pool: string
    /** The pool's volume. */
    readonly dir: string
    /** Directory of the server's manifests. */
    readonly manifests: string
    /** Unix sockets: the server's control, and the agent's own for questions. */
    readonly control: string
    readonly ask: string
    /** The server's policy file. */
    readonly policy: string
  }
  readonly events: Pick<EventRecorder, 'record'>
  readonly log: KubeLog
}

/** An agent that has begun to work, as far as it can without the API server. */
export interface RunningAgent {
  /** Resolves when it knows all that there was at the start. */
  readonly synced: Promise<void>
  readonly meters: readonly ControllerMeter[]
  readonly families: readonly Family[]
  /** Ends all work in bounded time. The server goes on with what it has. */
  stop(): Promise<void>
}

const WORKERS = 8
/** News that the server has of a new disk, and of how many clients it has, are gathered for so long, in ms. */
const GATHER_MS = 200
const POOL_GATHER_MS = 1000
const DEFAULT_PORT = 10_809

/** Starts the agent. @throws the errors of a volume, a directory or a socket that cannot be used */
export async function startAgent({ client, options, events, log }: AgentTerms): Promise<RunningAgent> {
  const { namespace, pool: poolName } = options
  const volume = await openVolume(options.dir)
  const manifests = await openManifests(options.manifests)
  const counts = newCounts()
  const queue = new WorkQueue()
  const poolQueue = new WorkQueue()
  const snapshotQueue = new WorkQueue()

  let isSynced = false

  const disks = startReflector<OnDemandDisk>({
    client,
    resource: ON_DEMAND_DISKS,
    namespace,
    labelSelector: `${POOL_LABEL}=${poolName}`,
    indexers: {
      uid: ({ metadata }) => (metadata.uid === undefined ? [] : [metadata.uid]),
      export: ({ metadata, spec }) => [spec.exportName ?? metadata.name],
    },
    onEvent: onDisk,
    log,
  })
  const pools = startReflector<DiskPool>({
    client,
    resource: DISK_POOLS,
    namespace,
    fieldSelector: `metadata.name=${poolName}`,
    onEvent: onPool,
    log,
  })

  /** Not waited for: an API server that was not given the kind has everything else. */
  const snapshots = startReflector<DiskSnapshot>({
    client,
    resource: DISK_SNAPSHOTS,
    namespace,
    labelSelector: `${POOL_LABEL}=${poolName}`,
    indexers: { uid: ({ metadata }) => (metadata.uid === undefined ? [] : [metadata.uid]) },
    onEvent(event) {
      const key = keyOf(event.object)
      snapshotQueue.add(key, event.type === 'added' && event.initial ? 'low' : 'news')
      if (event.type === 'deleted') void copier.callOff(event.object.metadata.uid ?? '')
      // A disk that is being deleted waits for it; its place may be another's now.
      for (const disk of disks.store.list()) {
        if (isSynced && disk.metadata.deletionTimestamp !== undefined) queue.add(keyOf(disk), 'low')
      }
    },
    log,
  })

  function onDisk(event: StoreEvent<OnDemandDisk>): void {
    const { object } = event
    view.diskChanged(event)
    if (event.type === 'deleted') {
      forget(object.metadata.uid)
      void copier.callOff(object.metadata.uid ?? '')
    }
    // Snapshots that are being deleted wait for the disks that are made of them.
    if (object.spec?.source !== undefined && isSynced) {
      for (const snapshot of snapshots.store.list()) {
        if (snapshot.metadata.deletionTimestamp !== undefined) snapshotQueue.add(keyOf(snapshot), 'low')
      }
    }
    if (isSynced) queue.add(keyOf(object), event.type === 'added' && event.initial ? 'low' : 'news')
    onDemand.changed()
  }

  /** A disk whose object is gone is not served. Its file, if anybody took its finalizer off by hand, is nobody's to remove. */
  function forget(uid: string | undefined): void {
    if (uid === undefined || !isSynced) return
    reconciler.forget(uid)
    farewell.leave(uid)
  }

  function onPool(event: StoreEvent<DiskPool>): void {
    view.poolChanged(event)
    poolQueue.add(poolName)
    // Names and growth depend on it.
    if (isSynced) for (const disk of disks.store.list()) queue.add(keyOf(disk), 'low')
    onDemand.changed()
  }

  const view = createPoolView({
    ...{ disks: disks.store, snapshots: snapshots.store, log },
    onAdd: key => queue.add(key),
  })
  const mirror = startMirror({
    path: options.control,
    log,
    onChange: uid => {
      for (const disk of isSynced ? disks.store.byIndex('uid', uid) : []) {
        // Of a disk that has just been made there is more to come, and a client that is being served.
        const isNew = conditionOf(disk, 'Exported') === undefined
        queue.addAfter(keyOf(disk), isNew ? GATHER_MS : 0)
      }
      poolQueue.addAfter(poolName, POOL_GATHER_MS)
    },
  })
  const farewell = createFarewell({
    ...{ client, poolName, manifests, log },
    isFollowed: uid => disks.store.byIndex('uid', uid).length > 0,
    onGone: uid => void mirror.rescan([uid]),
  })
  const copier = createCopier({
    ...{ volume, mirror, log },
    onEnd({ from, to }) {
      for (const uid of [from.uid, to.uid]) {
        for (const disk of disks.store.byIndex('uid', uid)) if (isSynced) queue.add(keyOf(disk))
        for (const snapshot of snapshots.store.byIndex('uid', uid)) snapshotQueue.add(keyOf(snapshot))
      }
    },
  })
  const reconcileSnapshot = createSnapshotReconciler({
    ...{ client, view, volume, copier },
    counted: counts,
  })
  const reconciler = createDiskReconciler({
    ...{ client, view, volume, manifests, mirror, copier },
    uri: () => uriOf(view.pool, namespace),
    counted: counts,
    record: events.record,
    onStep: () => onDemand.changed(),
  })
  const onDemand = createOnDemand({
    ...{ client, namespace, poolName, view, volume, log },
    isDeclared: uid => manifests.text(uid) !== undefined,
    isSynced: () => isSynced,
    counted: counts,
  })
  const poolReconciler = createPoolReconciler({
    ...{ client, view, volume, mirror, log },
    policyPath: options.policy,
    known: () => pools.store.get(namespace, poolName),
    counted: counts,
  })
  const asking = await serveJson(
    options.ask,
    { 'POST /disks': ({ body, signal }) => onDemand.answer(askedDisk(body), signal) },
    error => log.error({ ...reasonOf(error) }, 'A question about a new disk failed'),
  )
  const controllers = [
    startController({ name: 'agent-disk', queue, workers: WORKERS, reconcile: reconciler.reconcile, log }),
    startController({
      name: 'agent-snapshot',
      queue: snapshotQueue,
      workers: WORKERS,
      reconcile: reconcileSnapshot,
      log,
    }),
    startController({
      name: 'agent-pool',
      queue: poolQueue,
      workers: 1,
      reconcile: (_, signal) => poolReconciler.reconcile(signal),
      log,
    }),
  ]

  const synced = Promise.all([disks.synced, pools.synced]).then(() => {
    isSynced = true
    for (const disk of disks.store.list()) queue.add(keyOf(disk), 'low')
    for (const uid of [...manifests.uids()]) if (disks.store.byIndex('uid', uid).length === 0) forget(uid)
    poolQueue.add(poolName)
    onDemand.changed()
  })
  synced.catch(() => {})

  return {
    synced,
    meters: controllers.map(({ meter }) => meter),
    families: agentFamilies(counts),
    async stop() {
      await asking.close()
      await Promise.all([disks.stop(), pools.stop(), snapshots.stop()])
      await Promise.all(controllers.map(controller => controller.stop()))
      await farewell.stop()
      await copier.stop()
      await mirror.stop()
    },
  }
}

/** What the operator says, or the name that the pool's Service has in any case. */
function uriOf(pool: DiskPool | undefined, namespace: string): string | undefined {
  if (pool === undefined) return undefined
  const { service } = poolNames(pool.metadata.name)
  return pool.status?.uri?.replace(/\/+$/, '') ?? `nbd://${service}.${namespace}.svc:${DEFAULT_PORT}`
}
