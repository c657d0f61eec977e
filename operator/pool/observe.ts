/** Looks at a pool. */
import { parseDiskPool } from '../../crds/diskpool.ts'
import type { DiskSnapshot } from '../../crds/disksnapshot.ts'
import { InvalidSpecError, orInvalid } from '../../crds/invalid-spec-error.ts'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { parseQuantity } from '../../crds/quantity.ts'
import type { KubeObject } from '../kube/objects.ts'
import { refOf } from '../kube/store.ts'
import { poolNames, SPARE_ANNOTATION, spareJobName } from '../terms/names.ts'
import { placeOfSnapshot } from '../terms/snapshots.ts'
import { viewJob } from './job-view.ts'
import { readsConfigMap } from './make-job.ts'
import { type DisksView, PARTS, type Part, type PoolObserved } from './observed.ts'
import { claimName } from './parts.ts'
import type { PodSettings } from './settings.ts'
import { PART_RESOURCES, type World } from './world.ts'

export interface SeenPool extends PoolObserved {
  readonly spareJobUid: string | undefined
  /** The Job reads a ConfigMap, which goes with it. */
  readonly hasConfigMap: boolean
}

/** How many disks a condition names. */
const NAMED = 5

/** Undefined: there is no such pool (any more). */
export async function observePool(
  world: World,
  key: string,
  settings: PodSettings,
): Promise<SeenPool | undefined> {
  const { namespace = '', name } = refOf(key)
  const stored = world.pools.get(namespace, name)
  const pool = stored && world.freshPools.latest(key, stored)
  if (!pool) return undefined
  const parsed = orInvalid(() => parseDiskPool(pool))
  const names = poolNames(name)
  const isDeleted = pool.metadata.deletionTimestamp !== undefined
  const disks = world.disks.byIndex('pool', key)
  const job = world.freshJobs.latest(
    `${namespace}/${spareJobName(pool.metadata.uid ?? '')}`,
    world.jobs.get(namespace, spareJobName(pool.metadata.uid ?? '')),
  )
  return {
    pool,
    parsed,
    isNamespaceTerminating: isDeleted && (await world.isNamespaceTerminating(namespace)),
    claim: parsed instanceof InvalidSpecError ? undefined : world.claims.get(namespace, claimName(parsed)),
    parts: await findParts(world, namespace, names, isDeleted),
    serverPod: world.pods.get(namespace, names.pod),
    disks: viewDisks(disks, world.snapshots.byIndex('pool', key)),
    spareJob: viewJob(job, job ? world.pods.byIndex('owner', job.metadata.uid ?? '') : [], pool.metadata.uid),
    spareTakenAt: lastTaken(disks),
    settings,
    now: world.now(),
    spareJobUid: job?.metadata.uid,
    hasConfigMap: readsConfigMap(job),
  }
}

/** The stores have only what carries our label; what stands in the way has to be asked for. */
async function findParts(
  world: World,
  namespace: string,
  names: ReturnType<typeof poolNames>,
  isDeleted: boolean,
): Promise<Record<Part, KubeObject | undefined>> {
  const byPart: Record<Part, string> = {
    serviceAccount: names.agent,
    roleBinding: names.agent,
    service: names.service,
    networkPolicy: names.networkPolicy,
    server: names.server,
  }
  const found = await Promise.all(
    PARTS.map(async part => {
      const ref = { namespace, name: byPart[part] }
      const stored = world.parts[part].get(namespace, ref.name)
      return [
        part,
        stored ?? (isDeleted ? undefined : await world.client.find(PART_RESOURCES[part], ref)),
      ] as const
    }),
  )
  return Object.fromEntries(found) as Record<Part, KubeObject | undefined>
}

function viewDisks(disks: readonly OnDemandDisk[], snapshots: readonly DiskSnapshot[]): DisksView {
  const names: string[] = []
  let provisioned = 0
  for (const disk of disks) {
    provisioned += sizeOf(disk)
    names.push(disk.metadata.name)
  }
  for (const snapshot of snapshots) {
    provisioned += placeOfSnapshot(snapshot)
    names.push(`${snapshot.metadata.name} (snapshot)`)
  }
  return {
    count: disks.length,
    snapshots: snapshots.length,
    names: names.sort().slice(0, NAMED),
    provisioned: Math.min(provisioned, Number.MAX_SAFE_INTEGER),
  }
}

function lastTaken(disks: readonly OnDemandDisk[]): number | undefined {
  let last = ''
  for (const { metadata } of disks) {
    const { annotations, creationTimestamp = '' } = metadata
    // Times of the API server are all of one form, in which the later one is the greater text.
    if (annotations?.[SPARE_ANNOTATION] !== undefined && creationTimestamp > last) last = creationTimestamp
  }
  return last === '' ? undefined : Date.parse(last)
}

/** Bytes that a disk takes of its pool's quota: what its spec asks for, however wrong the rest of it is. */
export function sizeOf({ spec }: OnDemandDisk): number {
  if (spec?.size === undefined || spec.mode === 'Temporary' || spec.upstream) return 0
  try {
    return parseQuantity(spec.size, { allowZero: true })
  } catch {
    return 0
  }
}

/** Bytes of a pool's quota that its snapshots have; of `except` not. */
export function snapshotPlaces(world: World, pool: string, except = ''): number {
  let sum = 0
  const counted = new Set<string>([except])
  for (const stored of world.snapshots.byIndex('pool', pool)) {
    const { uid = '' } = stored.metadata
    if (counted.has(uid)) continue
    counted.add(uid)
    sum += placeOfSnapshot(stored)
  }
  for (const [uid, place] of world.startingSnapshots) {
    if (place.pool === pool && !counted.has(uid)) sum += place.size
  }
  return sum
}
