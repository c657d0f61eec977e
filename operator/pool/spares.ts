/** Keeps a pool's store of formatted disks full. The agent counts them; one Job makes all that are missing. */
import type { DiskPool } from '../../crds/diskpool.ts'
import { API_GROUP_VERSION } from '../../crds/object.ts'
import { ONDEMANDDISK_KIND } from '../../crds/ondemanddisk.ts'
import type { PersistentVolumeClaim, Pod } from '../kube/objects.ts'
import { conditionOf } from '../terms/conditions.ts'
import { SPARES_PATH, spareJobName } from '../terms/names.ts'
import { restOfQuiet } from '../terms/quiet.ts'
import { spareKey } from '../terms/spares.ts'
import { jobProblem, type RunningJob, retryDelay } from './job-view.ts'
import { makeJob, makeObject, objectProblem } from './make-job.ts'
import type { PoolAction, PoolObserved, PoolPlan } from './observed.ts'
import { ownerOf } from './parts.ts'

/**
 * A spare that was taken is made up for when none has been taken for so long, in ms, or when no more than half of them
 * are left. A Job with its Pod costs the node more than many clients do, who would wait for it.
 */
export const QUIET_MS = 3000

/** How long the agent has for counting what a Job has made before the next Job, in ms. */
const COUNT_MS = 5000

/** What is to be done so that the pool has the spares that it is to have. */
export function planSpares(observed: PoolObserved, pool: DiskPool): PoolPlan {
  const { spareJob: job, now } = observed
  const { enabled, spares, template } = pool.spec.onDemand
  const isWanted = enabled && spares > 0 && template !== undefined
  const isMissing = isWanted && (observed.pool.status?.spares ?? 0) < spares
  const problem =
    isMissing && job.state === 'none'
      ? objectProblem(objectOf(template), 'spec.onDemand.template')
      : undefined
  if (problem !== undefined) return { actions: [sparesFailed(problem)] }
  switch (job.state) {
    case 'none':
      if (!isMissing || !isReachable(observed)) return { actions: [] }
      return restWhileTaken(observed, spares) ?? { actions: [start(observed, pool, template, 1)] }
    case 'foreign':
    case 'terminating':
      return { actions: [] }
    case 'running':
      return watchOver(job, now)
    case 'succeeded': {
      const left = job.finishedAt + COUNT_MS - now
      if (isMissing && left > 0) return { actions: [], requeueAfterMs: left }
      return { actions: [...cured(observed), { kind: 'delete spare job' }] }
    }
    case 'failed': {
      const isOutdated = job.generation !== (pool.metadata.generation ?? 0)
      const left = job.finishedAt + retryDelay(job.attempt) - now
      if (!isMissing || isOutdated) return { actions: [{ kind: 'delete spare job' }] }
      const note = sparesFailed(job.message)
      if (job.isFinal) return { actions: [note] }
      if (left > 0) return { actions: [note], requeueAfterMs: left }
      return { actions: [{ kind: 'delete spare job' }, start(observed, pool, template, job.attempt + 1)] }
    }
  }
}

function watchOver(job: RunningJob, now: number): PoolPlan {
  const { message, restMs } = jobProblem(job, now)
  const actions = message === undefined ? [] : [sparesFailed(message)]
  return { actions, ...(restMs !== undefined && { requeueAfterMs: restMs }) }
}

/** Nothing now, as long as clients come and there are spares enough for them. */
function restWhileTaken({ pool, spareTakenAt, now }: PoolObserved, wanted: number): PoolPlan | undefined {
  const left = pool.status?.spares ?? 0
  if (spareTakenAt === undefined || left * 2 <= wanted) return undefined
  const restMs = restOfQuiet(now - spareTakenAt, QUIET_MS)
  return restMs === undefined ? undefined : { actions: [], requeueAfterMs: restMs }
}

const TYPE = 'SparesReady'

/** Says that spares cannot be made; goes when they are. */
export function sparesFailed(message: string): PoolAction {
  const condition = { type: TYPE, status: 'False', reason: 'SparesFailed', message } as const
  const event = {
    type: 'Warning',
    reason: 'SparesFailed',
    message: `Spares cannot be made: ${message}`,
  } as const
  return { kind: 'status', change: { conditions: [condition] }, event }
}

function cured({ pool }: PoolObserved): PoolAction[] {
  return conditionOf(pool, TYPE) ? [{ kind: 'status', change: { removeConditions: [TYPE] } }] : []
}

/** As with disks: a Job that cannot reach the volume would only wait. */
function isReachable({ claim, serverPod }: PoolObserved): boolean {
  const pod = serverPod as Pod | undefined
  return claim?.metadata.deletionTimestamp === undefined && pod?.spec?.nodeName !== undefined
}

function start(
  { claim, settings }: PoolObserved,
  pool: DiskPool,
  template: NonNullable<DiskPool['spec']['onDemand']['template']>,
  attempt: number,
) {
  const { metadata, spec } = pool
  const name = spareJobName(metadata.uid ?? '')
  const owner = ownerOf(pool)
  const terms = {
    ...{ pool, name, object: objectOf(template), owner, labels: {}, attempt },
    generation: metadata.generation ?? 0,
    args: ['--dir', SPARES_PATH, '--spares', String(spec.onDemand.spares)],
    besideServer: isOneNode(claim as PersistentVolumeClaim | undefined),
  }
  return { kind: 'start spares', job: makeJob(terms, settings) } as const
}

function objectOf(template: NonNullable<DiskPool['spec']['onDemand']['template']>): string {
  const metadata = { name: 'spare', uid: spareKey(template) }
  return makeObject({ apiVersion: API_GROUP_VERSION, kind: ONDEMANDDISK_KIND, metadata }, template)
}

/** Can the volume be mounted on one node only? */
export function isOneNode(claim: PersistentVolumeClaim | undefined): boolean {
  return claim?.spec?.accessModes?.includes('ReadWriteMany') !== true
}
