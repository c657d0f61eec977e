/** Takes the steps that were planned for a disk. */
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { writeStatus } from '../kube/conditions.ts'
import type { EventRecorder } from '../kube/events.ts'
import { hasCode, isRefusal, unlessGone } from '../kube/kube-error.ts'
import { CONFIG_MAPS, JOBS, type Job, type OwnerReference } from '../kube/objects.ts'
import { keyOf } from '../kube/store.ts'
import { doubledDelay } from '../pool/job-view.ts'
import { makeJob } from '../pool/make-job.ts'
import type { PodSettings } from '../pool/settings.ts'
import { DISKS, type World } from '../pool/world.ts'
import {
  ACCEPTED_ANNOTATION,
  BEGUN_ANNOTATION,
  DISK_LABEL,
  DISKS_PATH,
  diskJobName,
  FINALIZER,
  POOL_LABEL,
} from '../terms/names.ts'
import type { SeenDisk } from './observe.ts'
import { type DiskAction, objectOf } from './observed.ts'

export interface ActTerms {
  readonly world: World
  readonly events: Pick<EventRecorder, 'record'>
  readonly settings: PodSettings
  readonly signal?: AbortSignal
}

/**
 * Takes the steps in their order.
 * @throws KubeError where one is refused; the rest is not taken then
 */
export async function actOnDisk(
  terms: ActTerms,
  seen: SeenDisk,
  actions: readonly DiskAction[],
): Promise<void> {
  let disk = seen.disk
  for (const action of actions) {
    const written = await take(terms, seen, disk, action)
    if (!written) continue
    disk = written
    terms.world.freshDisks.note(disk)
  }
}

/** Returns the disk where it was written. */
async function take(
  { world, events, settings, signal }: ActTerms,
  seen: SeenDisk,
  disk: OnDemandDisk,
  action: DiskAction,
): Promise<OnDemandDisk | undefined> {
  const { client } = world
  const { metadata } = disk
  const options = { signal }
  switch (action.kind) {
    case 'claim': {
      const { resourceVersion, finalizers = [] } = metadata
      const pool = seen.parsed instanceof Error ? undefined : seen.parsed.spec.poolName
      const claimed = {
        resourceVersion,
        finalizers: [...new Set([...finalizers, FINALIZER])],
        labels: { [POOL_LABEL]: pool },
        annotations: {
          [ACCEPTED_ANNOTATION]: action.accepted,
          ...(action.begins && { [BEGUN_ANNOTATION]: 'true' }),
        },
      }
      return await client.patch(DISKS, metadata, 'merge', { metadata: claimed }, options)
    }
    case 'status': {
      const written = await writeStatus(client, DISKS, disk, action.change, options)
      if (written === disk) return undefined
      if (action.event) events.record(disk, action.event)
      return written
    }
    case 'start job':
      await startJob(world, seen, disk, action.attempt, settings, signal)
      return undefined
    case 'delete job':
      await deleteJob(world, seen, disk, signal)
      return undefined
    case 'release': {
      if (action.event) events.record(disk, action.event)
      const finalizers = (metadata.finalizers ?? []).filter(finalizer => finalizer !== FINALIZER)
      const patch = { metadata: { resourceVersion: metadata.resourceVersion, finalizers } }
      return await unlessGone(client.patch(DISKS, metadata, 'merge', patch, options))
    }
  }
}

/** How long a Job that the API server has not taken waits for the next try, in ms; twice as long each time, at most so long. */
const FIRST_REFUSED_MS = 5000
const MAX_REFUSED_MS = 60_000

async function startJob(
  { client, freshJobs, refusedJobs, now }: World,
  { validPool: pool, isOneNode }: SeenDisk,
  disk: OnDemandDisk,
  attempt: number,
  settings: PodSettings,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (!pool) throw new TypeError('A disk without a pool has no Job.')
  const { apiVersion, kind, metadata } = disk
  const { name, uid = '', generation = 0 } = metadata
  const owner: OwnerReference = { apiVersion, kind, name, uid, controller: true, blockOwnerDeletion: true }
  const job = diskJobName(uid)
  const labels = { [DISK_LABEL]: uid }
  const args = ['--dir', DISKS_PATH]
  const object = objectOf(disk)
  const terms = { pool, name: job, object, owner, labels, attempt, generation, args, besideServer: isOneNode }
  try {
    freshJobs.note(await client.create(JOBS, makeJob(terms, settings) as Job, { signal }))
    refusedJobs.delete(uid)
  } catch (error) {
    if (isRefusal(error)) {
      const tries = (refusedJobs.get(uid)?.tries ?? 0) + 1
      const again = now() + doubledDelay(tries, FIRST_REFUSED_MS, MAX_REFUSED_MS)
      refusedJobs.set(uid, { message: error.details?.message ?? error.message, tries, again })
    }
    // It was there, and is looked at again.
    if (!hasCode(error, 'AlreadyExists')) throw error
  }
}

async function deleteJob(
  { client, freshJobs }: World,
  { job, jobUid, hasConfigMap }: SeenDisk,
  disk: OnDemandDisk,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { namespace, uid = '' } = disk.metadata
  const ref = { namespace, name: diskJobName(uid) }
  // First, as the Job is how it is found that there is something to delete.
  if (hasConfigMap) await unlessGone(client.delete(CONFIG_MAPS, ref, { signal }))
  // Of a Job at work the Pod has to be gone before the Job counts as gone.
  const propagationPolicy = job.state === 'running' ? 'Foreground' : 'Background'
  const preconditions = jobUid === undefined ? {} : { preconditions: { uid: jobUid } }
  await unlessGone(client.delete(JOBS, ref, { propagationPolicy, ...preconditions, signal }))
  freshJobs.forget(keyOf({ ...disk, metadata: { ...disk.metadata, ...ref } } as OnDemandDisk))
}
