/** Takes the steps that were planned for a pool. */
import type { DiskPool } from '../../crds/diskpool.ts'
import { apply } from '../kube/apply.ts'
import { writeStatus } from '../kube/conditions.ts'
import type { EventRecorder } from '../kube/events.ts'
import { hasCode, isRefusal, unlessGone } from '../kube/kube-error.ts'
import { CONFIG_MAPS, JOBS, type Job, PERSISTENT_VOLUME_CLAIMS } from '../kube/objects.ts'
import { ACCEPTED_ANNOTATION, FINALIZER, MANAGER, spareJobName } from '../terms/names.ts'
import type { SeenPool } from './observe.ts'
import type { PoolAction } from './observed.ts'
import { type PartRefusal, partRefusal, withRefusal } from './refused.ts'
import { sparesFailed } from './spares.ts'
import { PART_RESOURCES, POOLS, type World } from './world.ts'

export interface PoolActTerms {
  readonly world: World
  readonly events: Pick<EventRecorder, 'record'>
  readonly signal: AbortSignal
}

/**
 * Takes the steps in their order.
 * @throws KubeError where one is refused; of the rest only the report is made then, if nobody but a person can help
 */
export async function actOnPool(
  terms: PoolActTerms,
  seen: SeenPool,
  actions: readonly PoolAction[],
): Promise<void> {
  let pool = seen.pool
  let refusal: PartRefusal | undefined
  for (const action of actions) {
    if (refusal && action.kind !== 'status') continue
    try {
      const step = refusal && action.kind === 'status' ? withRefusal(pool, action, refusal) : action
      const written = await take(terms, seen, pool, step)
      if (written) {
        pool = written
        terms.world.freshPools.note(pool)
      }
      if (refusal) break
    } catch (error) {
      if (action.kind === 'start spares' && isRefusal(error))
        await take(terms, seen, pool, sparesFailed(error.details?.message ?? error.message))
      refusal = partRefusal(action, error)
      if (!refusal) throw error
    }
  }
  if (refusal) throw refusal.cause
}

/** Returns the pool where it was written. */
async function take(
  { world, events, signal }: PoolActTerms,
  seen: SeenPool,
  pool: DiskPool,
  action: PoolAction,
): Promise<DiskPool | undefined> {
  const { client } = world
  const { metadata } = pool
  switch (action.kind) {
    case 'claim': {
      const { resourceVersion, finalizers = [] } = metadata
      const claimed = {
        resourceVersion,
        finalizers: [...new Set([...finalizers, FINALIZER])],
        annotations: { [ACCEPTED_ANNOTATION]: action.accepted },
      }
      return await client.patch(POOLS, metadata, 'merge', { metadata: claimed }, { signal })
    }
    case 'create claim':
      await unlessThere(client.create(PERSISTENT_VOLUME_CLAIMS, action.object, { signal }))
      return undefined
    case 'grow claim': {
      const spec = { resources: { requests: { storage: String(action.size) } } }
      const ref = { ...metadata, name: action.name }
      try {
        await client.patch(PERSISTENT_VOLUME_CLAIMS, ref, 'merge', { spec }, { signal })
      } catch (error) {
        // The storage class does not let it grow: the user's to know, and nothing that trying again would help.
        if (!hasCode(error, 'Forbidden', 'Invalid')) throw error
        events.record(pool, { type: 'Warning', reason: 'ClaimNotGrown', message: error.message })
      }
      return undefined
    }
    case 'apply':
      await apply(client, PART_RESOURCES[action.part], action.object, { fieldManager: MANAGER, signal })
      return undefined
    case 'start spares':
      await unlessThere(
        client.create(JOBS, action.job as Job, { signal }).then(job => world.freshJobs.note(job)),
      )
      return undefined
    case 'delete spare job':
      await deleteSpareJob(world, seen, signal)
      return undefined
    case 'status': {
      const written = await writeStatus(client, POOLS, pool, action.change, { signal })
      if (written === pool) return undefined
      if (action.event && isNews(pool, written)) events.record(pool, action.event)
      return written
    }
    case 'release': {
      if (action.event) events.record(pool, action.event)
      const finalizers = (metadata.finalizers ?? []).filter(finalizer => finalizer !== FINALIZER)
      const patch = { metadata: { resourceVersion: metadata.resourceVersion, finalizers } }
      try {
        return await client.patch(POOLS, metadata, 'merge', patch, { signal })
      } catch (error) {
        if (hasCode(error, 'NotFound')) return undefined
        throw error
      }
    }
  }
}

/** That more disks were counted is no news. */
function isNews(before: DiskPool, after: DiskPool): boolean {
  const shown = ({ status }: DiskPool) =>
    JSON.stringify(status?.conditions?.map(({ type, message }) => [type, message]))
  return shown(before) !== shown(after)
}

async function unlessThere(request: Promise<unknown>): Promise<void> {
  try {
    await request
  } catch (error) {
    if (!hasCode(error, 'AlreadyExists')) throw error
  }
}

async function deleteSpareJob(
  { client, freshJobs }: World,
  { spareJobUid, hasConfigMap, pool }: SeenPool,
  signal: AbortSignal,
) {
  const ref = { namespace: pool.metadata.namespace, name: spareJobName(pool.metadata.uid ?? '') }
  const preconditions = spareJobUid === undefined ? {} : { preconditions: { uid: spareJobUid } }
  if (hasConfigMap) await unlessGone(client.delete(CONFIG_MAPS, ref, { signal }))
  await unlessGone(client.delete(JOBS, ref, { ...preconditions, signal }))
  freshJobs.forget(`${ref.namespace}/${ref.name}`)
}
