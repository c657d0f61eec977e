/** All that the operator follows of the cluster, and how it finds things in it. */
import type { DiskPool } from '../../crds/diskpool.ts'
import type { DiskSnapshot } from '../../crds/disksnapshot.ts'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { DISK_POOLS, DISK_SNAPSHOTS, ON_DEMAND_DISKS } from '../../crds/resources.ts'
import type { KubeClient } from '../kube/client.ts'
import type { KubeLog } from '../kube/log.ts'
import {
  JOBS,
  type Job,
  type KubeObject,
  NAMESPACES,
  NETWORK_POLICIES,
  PERSISTENT_VOLUME_CLAIMS,
  type PersistentVolumeClaim,
  PODS,
  type Pod,
  type Resource,
  ROLE_BINDINGS,
  SERVICE_ACCOUNTS,
  SERVICES,
  STATEFUL_SETS,
} from '../kube/objects.ts'
import { type Reflector, startReflector } from '../kube/reflector.ts'
import type { Indexers, Store, StoreEvent } from '../kube/store.ts'
import { MANAGED_SELECTOR, poolNames } from '../terms/names.ts'
import type { Places } from '../terms/places.ts'
import { Fresh } from './fresh.ts'
import type { Part } from './observed.ts'

export const DISKS: Resource<OnDemandDisk> = ON_DEMAND_DISKS
export const POOLS: Resource<DiskPool> = DISK_POOLS
export const SNAPSHOTS: Resource<DiskSnapshot> = DISK_SNAPSHOTS

export const PART_RESOURCES: Readonly<Record<Part, Resource>> = {
  serviceAccount: SERVICE_ACCOUNTS,
  roleBinding: ROLE_BINDINGS,
  service: SERVICES,
  networkPolicy: NETWORK_POLICIES,
  server: STATEFUL_SETS,
}

const poolNameOf = ({ spec }: OnDemandDisk) => spec?.poolName ?? 'default'
const exportNameOf = ({ metadata, spec }: OnDemandDisk) => spec?.exportName ?? metadata.name

/** Value of the index `pool`: all disks of a pool. */
export const poolKeyOf = (disk: OnDemandDisk) => `${disk.metadata.namespace}/${poolNameOf(disk)}`
/** Value of the index `export`: the disks that want one name of a pool. */
export const exportKeyOf = (disk: OnDemandDisk) => `${poolKeyOf(disk)}/${exportNameOf(disk)}`

/** Value of the index `source`: the disks that are to be copies of an object. */
export const sourceKeyOf = (kind: string, { metadata }: KubeObject) =>
  `${kind} ${metadata.namespace}/${metadata.name}`

export const DISK_INDEXERS: Indexers<OnDemandDisk> = {
  source: ({ metadata, spec }) =>
    spec?.source === undefined ? [] : [`${spec.source.kind} ${metadata.namespace}/${spec.source.name}`],
  pool: disk => [poolKeyOf(disk)],
  export: disk => [exportKeyOf(disk)],
  uid: ({ metadata }) => [metadata.uid ?? ''],
}
/** Value of the index `claim`: `NAMESPACE/CLAIM`, also of one that somebody else has under the name of the pool's own. */
export const POOL_INDEXERS: Indexers<DiskPool> = {
  claim: ({ metadata, spec }) => [
    `${metadata.namespace}/${spec?.storage?.claimName ?? poolNames(metadata.name).claim}`,
  ],
}
/** `pool`: once it has a place there. `disk`: the object's key. */
export const SNAPSHOT_INDEXERS: Indexers<DiskSnapshot> = {
  pool: ({ metadata, status }) =>
    status?.poolName === undefined ? [] : [`${metadata.namespace}/${status.poolName}`],
  disk: ({ metadata, spec }) => [`${metadata.namespace}/${spec?.diskName}`],
}
export const POD_INDEXERS: Indexers<Pod> = {
  owner: ({ metadata }) => (metadata.ownerReferences ?? []).map(({ uid }) => uid),
}

/** What is there, as of late. */
export interface World {
  readonly client: KubeClient
  readonly disks: Store<OnDemandDisk>
  readonly pools: Store<DiskPool>
  readonly snapshots: Store<DiskSnapshot>
  readonly jobs: Store<Job>
  readonly pods: Store<Pod>
  readonly claims: Store<PersistentVolumeClaim>
  readonly parts: Readonly<Record<Part, Store<KubeObject>>>
  readonly freshDisks: Fresh<OnDemandDisk>
  readonly freshPools: Fresh<DiskPool>
  readonly freshSnapshots: Fresh<DiskSnapshot>
  readonly freshJobs: Fresh<Job>
  /** Who has a place in the pools that have limits, by the pool's key. */
  readonly places: Map<string, Places>
  /** Uids of disks that are being given a place at this very moment. */
  readonly starting: Set<string>
  /** Snapshots that are: their sizes in bytes, by uid, with the pool's key. */
  readonly startingSnapshots: Map<string, { readonly pool: string; readonly size: number }>
  /** Disks whose Job the API server does not take, by uid. */
  readonly refusedJobs: Map<string, RefusedJob>
  isNamespaceTerminating(namespace: string): Promise<boolean>
  /** ms since 1970. */
  now(): number
}

/** A Job that the API server has not taken. */
export interface RefusedJob {
  readonly message: string
  readonly tries: number
  /** When it is worth asking again, in ms since 1970. */
  readonly again: number
}

/** Told of every change, after the store has it. */
export interface WorldEvents {
  disk(event: StoreEvent<OnDemandDisk>): void
  pool(event: StoreEvent<DiskPool>): void
  snapshot(event: StoreEvent<DiskSnapshot>): void
  job(event: StoreEvent<Job>): void
  pod(event: StoreEvent<Pod>): void
  claim(event: StoreEvent<PersistentVolumeClaim>): void
  part(event: StoreEvent<KubeObject>): void
}

export interface FollowedWorld extends World {
  readonly synced: Promise<void>
  stop(): Promise<void>
}

/** Starts to follow everything. */
export function followWorld(
  client: KubeClient,
  namespace: string | undefined,
  events: WorldEvents,
  log: KubeLog,
): FollowedWorld {
  const reflectors: Reflector<never>[] = []
  const needed: Promise<void>[] = []
  const freshDisks = new Fresh<OnDemandDisk>()
  const freshPools = new Fresh<DiskPool>()
  const freshSnapshots = new Fresh<DiskSnapshot>()
  const freshJobs = new Fresh<Job>()
  function follow<T extends KubeObject>(
    resource: Resource<T>,
    onEvent: (event: StoreEvent<T>) => void,
    options: {
      readonly labelSelector?: string
      readonly indexers?: Indexers<T>
      readonly keep?: (object: T) => T
      /** The API server may not know the kind: nothing waits for it. */
      readonly optional?: boolean
    } = {},
  ): Store<T> {
    const { optional = false, ...rest } = options
    const reflector = startReflector({ client, resource, namespace, onEvent, log, ...rest })
    reflectors.push(reflector as unknown as Reflector<never>)
    if (!optional) needed.push(reflector.synced)
    return reflector.store
  }
  const managed = { labelSelector: MANAGED_SELECTOR }
  const disks = follow(
    DISKS,
    event => {
      freshDisks.seen(event)
      events.disk(event)
    },
    { indexers: DISK_INDEXERS },
  )
  const pools = follow(
    POOLS,
    event => {
      freshPools.seen(event)
      events.pool(event)
    },
    { indexers: POOL_INDEXERS },
  )
  const snapshots = follow(
    SNAPSHOTS,
    event => {
      freshSnapshots.seen(event)
      events.snapshot(event)
    },
    { indexers: SNAPSHOT_INDEXERS, optional: true },
  )
  const jobs = follow(
    JOBS,
    event => {
      freshJobs.seen(event)
      events.job(event)
    },
    { ...managed, keep: withoutTemplate },
  )
  const pods = follow(PODS, events.pod, { ...managed, indexers: POD_INDEXERS })
  const claims = follow(PERSISTENT_VOLUME_CLAIMS, events.claim)
  const parts = Object.fromEntries(
    Object.entries(PART_RESOURCES).map(([part, resource]) => [part, follow(resource, events.part, managed)]),
  ) as Record<Part, Store<KubeObject>>
  return {
    ...{ client, disks, pools, snapshots, jobs, pods, claims, parts },
    ...{ freshDisks, freshPools, freshSnapshots, freshJobs },
    places: new Map(),
    starting: new Set(),
    startingSnapshots: new Map(),
    refusedJobs: new Map(),
    isNamespaceTerminating: namespaceWatch(client),
    now: Date.now,
    synced: Promise.all(needed).then(() => {}),
    async stop() {
      await Promise.all(reflectors.map(reflector => reflector.stop()))
    },
  }
}

/** Of a Job only its end is of interest, and what has to be deleted with it; its template is most of it. */
function withoutTemplate(job: Job): Job {
  const { managedFields: _, ...metadata } = job.metadata as Job['metadata'] & { managedFields?: unknown }
  const { spec, ...rest } = job
  const volumes = spec?.template.spec?.volumes?.filter(({ configMap }) => configMap !== undefined) ?? []
  const kept = volumes.length === 0 ? {} : { spec: { template: { spec: { volumes } } } }
  return { ...rest, ...kept, metadata } as Job
}

/** A namespace that is going does so for minutes; what is known of it holds for so long, in ms. */
const NAMESPACE_MS = 3000
const MAX_NAMESPACES = 1000

/** Asks for namespaces only where something is being deleted, so that nobody has to follow them all. */
function namespaceWatch(client: KubeClient): (namespace: string) => Promise<boolean> {
  const known = new Map<string, { readonly at: number; readonly answer: Promise<boolean> }>()
  return namespace => {
    const old = known.get(namespace)
    if (old && performance.now() - old.at < NAMESPACE_MS) return old.answer
    if (known.size >= MAX_NAMESPACES) known.clear()
    const answer = client
      .find(NAMESPACES, { name: namespace })
      .then(found => found === undefined || found.metadata.deletionTimestamp !== undefined)
    known.set(namespace, { at: performance.now(), answer })
    answer.catch(() => known.delete(namespace))
    return answer
  }
}
