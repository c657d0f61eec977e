/** Looks at a disk: from the stores, and from the API server itself where a store that is behind would mislead. */
import { type DiskPool, parseDiskPool } from '../../crds/diskpool.ts'
import { InvalidSpecError, orInvalid } from '../../crds/invalid-spec-error.ts'
import { type OnDemandDisk, parseOnDemandDisk } from '../../crds/ondemanddisk.ts'
import { JOBS, type Job, type PersistentVolumeClaim, type Pod } from '../kube/objects.ts'
import { refOf } from '../kube/store.ts'
import { type JobView, viewJob } from '../pool/job-view.ts'
import { readsConfigMap } from '../pool/make-job.ts'
import { sizeOf } from '../pool/observe.ts'
import { claimName } from '../pool/parts.ts'
import { isOneNode } from '../pool/spares.ts'
import { exportKeyOf, type World } from '../pool/world.ts'
import { attemptsOf } from '../terms/attempts.ts'
import { isTrue } from '../terms/conditions.ts'
import { diskJobName, POOL_LABEL, poolNames } from '../terms/names.ts'
import type { DiskAction, DiskObserved, Plan, PoolView } from './observed.ts'
import { isStarted, refusalOf } from './places.ts'
import { planDisk } from './plan.ts'
import { type SourceView, viewDisk, viewSnapshot } from './source.ts'

/** A disk as it is seen, with what doing something for it needs beside. */
export interface SeenDisk extends DiskObserved {
  readonly validPool: DiskPool | undefined
  readonly job: JobView
  readonly jobUid: string | undefined
  /** The Job reads a ConfigMap, which goes with it. */
  readonly hasConfigMap: boolean
  readonly isOneNode: boolean
}

/** Undefined: there is no such disk (any more). */
export async function observeDisk(world: World, key: string): Promise<SeenDisk | undefined> {
  const { namespace = '', name } = refOf(key)
  const stored = world.disks.get(namespace, name)
  const disk = stored && world.freshDisks.latest(key, stored)
  if (!disk) return undefined
  const isDeleted = disk.metadata.deletionTimestamp !== undefined
  const held = isDeleted ? asHeld(disk) : disk
  const pool = world.pools.get(namespace, held.spec?.poolName ?? 'default')
  const validPool = pool && parsedPool(pool)
  const claim = world.claims.get(namespace, claimOf(held, validPool))
  const serverPod = world.pods.get(namespace, poolNames(held.spec?.poolName ?? 'default').pod)
  const job = await findJob(world, disk)
  const jobView = viewJob(
    job,
    job ? world.pods.byIndex('owner', job.metadata.uid ?? '') : [],
    disk.metadata.uid,
  )
  return {
    disk,
    parsed: parsed(disk, pool),
    pool: {
      state: poolState(pool, validPool),
      isReachable: isReachable(claim, serverPod),
      ...(isDeleted && { lost: await lostReason(world, held, pool, claim, serverPod) }),
    },
    source: viewSource(world, disk),
    job: jobView,
    refusedJob: refusedJob(world, disk),
    now: world.now(),
    validPool: validPool instanceof InvalidSpecError ? undefined : validPool,
    jobUid: job?.metadata.uid,
    hasConfigMap: readsConfigMap(job),
    isOneNode: isOneNode(claim),
  }
}

/** In the pool that took it in, and has its data: API servers before 1.25 let it name another one since. */
function asHeld(disk: OnDemandDisk): OnDemandDisk {
  const poolName = disk.metadata.labels?.[POOL_LABEL]
  if (poolName === undefined || poolName === disk.spec?.poolName) return disk
  return { ...disk, spec: { ...disk.spec, poolName } }
}

/**
 * Plans for the disk with the place that it has in its pool at this moment. Without a wait from here to the entry in
 * `world.starting`: two workers must not give the last place away twice. Who calls it takes the entry out again.
 */
export function planInPlace(world: World, seen: SeenDisk): Plan {
  const { disk, validPool } = seen
  const { uid = '', deletionTimestamp } = disk.metadata
  if (isStarted(world, disk) || deletionTimestamp !== undefined) return planDisk(seen)
  const plan = planDisk({
    ...seen,
    refusal: refusalOf(world, disk, validPool),
    nameHolder: nameHolder(world, disk),
  })
  if (plan.actions.some(takesPlace)) world.starting.add(uid)
  return plan
}

function takesPlace(action: DiskAction): boolean {
  if (action.kind === 'start job') return true
  return (
    action.kind === 'status' &&
    (action.change.fields?.attempts !== undefined ||
      action.change.conditions?.some(({ type, status }) => type === 'Provisioned' && status === 'True') ===
        true)
  )
}

const pools = new WeakMap<DiskPool, DiskPool | InvalidSpecError>()

/** Each state of a pool is checked once. */
function parsedPool(pool: DiskPool): DiskPool | InvalidSpecError {
  const known = pools.get(pool)
  if (known) return known
  const result = orInvalid(() => parseDiskPool(pool))
  pools.set(pool, result)
  return result
}

function parsed(disk: OnDemandDisk, pool: DiskPool | undefined): OnDemandDisk | InvalidSpecError {
  const names = pool?.spec?.exportNames === 'Relaxed' ? 'relaxed' : 'strict'
  return orInvalid(() => parseOnDemandDisk(disk, { names }))
}

/** The pool of a name, as far as what is in it is concerned. */
export async function viewPool(world: World, namespace: string, poolName: string, isDeleted: boolean) {
  const pool = world.pools.get(namespace, poolName)
  const validPool = pool && parsedPool(pool)
  const user = { metadata: { namespace, name: '' }, spec: { poolName } }
  const claim = world.claims.get(namespace, claimOf(user, validPool))
  const serverPod = world.pods.get(namespace, poolNames(poolName).pod)
  const lost = isDeleted ? await lostReason(world, user, pool, claim, serverPod) : undefined
  return {
    state: poolState(pool, validPool),
    quota:
      validPool === undefined || validPool instanceof InvalidSpecError ? undefined : validPool.spec.quota,
    lost,
  }
}

function poolState(
  pool: DiskPool | undefined,
  valid: DiskPool | InvalidSpecError | undefined,
): PoolView['state'] {
  if (!pool) return 'missing'
  if (pool.metadata.deletionTimestamp !== undefined) return 'deleting'
  return valid instanceof InvalidSpecError ? 'invalid' : 'there'
}

/** Also of a pool that is gone or has become invalid. */
function claimOf(
  disk: { readonly spec?: { readonly poolName?: string } },
  pool: DiskPool | InvalidSpecError | undefined,
): string {
  if (pool && !(pool instanceof InvalidSpecError)) return claimName(pool)
  return poolNames(disk.spec?.poolName ?? 'default').claim
}

/** A Job whose Pod cannot be placed would only wait, and nobody could tell whether it has done something. */
function isReachable(claim: PersistentVolumeClaim | undefined, serverPod: Pod | undefined): boolean {
  if (!claim || claim.metadata.deletionTimestamp !== undefined) return false
  return serverPod?.spec?.nodeName !== undefined && serverPod.metadata.deletionTimestamp === undefined
}

async function lostReason(
  world: World,
  disk: Pick<OnDemandDisk, 'metadata'> & { readonly spec?: { readonly poolName?: string } },
  pool: DiskPool | undefined,
  claim: PersistentVolumeClaim | undefined,
  serverPod: Pod | undefined,
): Promise<string | undefined> {
  const { namespace = '' } = disk.metadata
  // The agent loses its rights and its claim goes, in no order.
  if (await world.isNamespaceTerminating(namespace)) return `The namespace ${namespace} is being deleted.`
  if (
    serverPod &&
    serverPod.metadata.deletionTimestamp === undefined &&
    serverPod.spec?.nodeName !== undefined
  ) {
    return undefined
  }
  const name = disk.spec?.poolName ?? 'default'
  if (!pool) return `The DiskPool ${name} is gone.`
  const valid = parsedPool(pool)
  if (!claim) return `The PersistentVolumeClaim ${claimOf(disk, valid)} of the DiskPool ${name} is gone.`
  if (claim.metadata.deletionTimestamp !== undefined) {
    return `The PersistentVolumeClaim ${claim.metadata.name} of the DiskPool ${name} is being deleted.`
  }
  const server = world.parts.server.get(namespace, poolNames(name).server)
  const isServerGoing = !server || server.metadata.deletionTimestamp !== undefined
  if (pool.metadata.deletionTimestamp !== undefined && isServerGoing) {
    return `The DiskPool ${name} is being deleted, and its server is gone.`
  }
  return undefined
}

/**
 * The disk's Job. A store may be behind, and would then have a second Job made, or a removed file come back. So that there
 * is none is believed only where there cannot have been one, or where the API server itself says so.
 */
async function findJob(world: World, disk: OnDemandDisk): Promise<Job | undefined> {
  const { namespace, uid = '' } = disk.metadata
  const ref = { namespace, name: diskJobName(uid) }
  const key = `${namespace}/${ref.name}`
  const stored = world.freshJobs.latest(key, world.jobs.get(namespace, ref.name))
  if (stored) return stored
  if (attemptsOf(disk) === 0 || isTrue(disk, 'Formatted') || disk.spec?.source !== undefined) return undefined
  return await world.client.find(JOBS, ref)
}

/** What a disk is to be a copy of, which is not the disk itself. */
function viewSource(world: World, { metadata, spec }: OnDemandDisk): SourceView | undefined {
  if (spec?.source === undefined) return undefined
  const { kind, name } = spec.source
  if (kind === 'DiskSnapshot') return viewSnapshot(world.snapshots.get(metadata.namespace, name))
  const disk = world.disks.get(metadata.namespace, name)
  if (disk === undefined || disk.metadata.uid === metadata.uid) return { state: 'missing' }
  return viewDisk(disk, sizeOf(disk))
}

function refusedJob(world: World, { metadata: { uid = '' } }: OnDemandDisk): DiskObserved['refusedJob'] {
  const refused = world.refusedJobs.get(uid)
  return refused && { message: refused.message, restMs: refused.again - world.now() }
}

/** Another disk that has the export name: one that is served, else the oldest. */
function nameHolder(world: World, disk: OnDemandDisk): string | undefined {
  const rivals = world.disks.byIndex('export', exportKeyOf(disk))
  if (rivals.length < 2) return undefined
  const rank = (each: OnDemandDisk) =>
    `${isStarted(world, each) ? 0 : 1} ${each.metadata.creationTimestamp ?? ''} ${each.metadata.uid ?? ''}`
  const [first] = rivals.map(each => ({ each, rank: rank(each) })).sort((a, b) => (a.rank < b.rank ? -1 : 1))
  return first && first.each.metadata.uid !== disk.metadata.uid ? first.each.metadata.name : undefined
}
