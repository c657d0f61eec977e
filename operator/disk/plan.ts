/**
 * What is to be done for a disk, decided from what is seen of it, and from nothing else. Any state may be seen at any
 * time, also one that a crash has left between two actions, or an old one: whatever is done here is either found done
 * already or refused by the API server, because the world has moved on.
 */
import { hasFile, InvalidSpecError, type OnDemandDisk } from '../../crds/ondemanddisk.ts'
import type { ConditionChange } from '../kube/conditions.ts'
import { type FailedJob, jobProblem, type RunningJob, retryDelay } from '../pool/job-view.ts'
import { objectProblem } from '../pool/make-job.ts'
import { attemptsOf, hasBegun } from '../terms/attempts.ts'
import { conditionOf, isTrue, observedGeneration } from '../terms/conditions.ts'
import { SPARE_ANNOTATION } from '../terms/names.ts'
import { restOfQuiet } from '../terms/quiet.ts'
import { DISK_REASONS, type DiskReason } from '../terms/reasons.ts'
import { accept, wrongChange } from './accepted.ts'
import { planCopy } from './copy.ts'
import { planDeletion } from './deletion.ts'
import { condition, type DiskObserved, objectOf, type Plan, status } from './observed.ts'

/** How long an agent has for turning a spare into the disk before a Job makes it, in ms. */
const SPARE_PATIENCE_MS = 60_000

/** What is to be done now. */
export function planDisk(observed: DiskObserved): Plan {
  const { disk, parsed } = observed
  if (disk.metadata.deletionTimestamp !== undefined) return planDeletion(observed)
  if (parsed instanceof InvalidSpecError) return notReady(observed, 'InvalidSpec', parsed.message)
  const changed = wrongChange(disk, parsed)
  if (changed) return notReady(observed, 'InvalidSpec', changed.message)
  const claim = accept(disk, parsed)
  if (claim !== undefined) return claimed(observed, parsed, claim)
  if (isTrue(disk, 'Formatted') && !isTrue(disk, 'Provisioned')) return formatted(observed)
  if (isTrue(disk, 'Provisioned')) return provisioned(observed)
  return hasFile(parsed.spec) ? make(observed, parsed) : planWithoutFile(observed)
}

/**
 * Where the Job can be made at once, its attempt is counted by the claim itself, and not in the status: what is written
 * so holds for the very state that was seen, too.
 */
function claimed(observed: DiskObserved, parsed: OnDemandDisk, accepted: string): Plan {
  const { disk } = observed
  const [, job] = !hasBegun(disk) && hasFile(parsed.spec) ? make(observed, parsed).actions : []
  if (job?.kind !== 'start job') return { actions: [{ kind: 'claim', accepted }] }
  return { actions: [{ kind: 'claim', accepted, begins: true }, job] }
}

/** Says why clients cannot use the disk. */
export function notReady(
  { disk }: DiskObserved,
  reason: DiskReason,
  message?: string,
  requeueAfterMs?: number,
): Plan {
  const ready = condition(disk, 'Ready', 'False', reason, message)
  const event =
    reason === 'InvalidSpec' ? ({ type: 'Warning', reason, message: ready.message } as const) : undefined
  return {
    actions: [status(disk, [...firstSight(disk), ready], event)],
    ...(requeueAfterMs !== undefined && { requeueAfterMs }),
  }
}

/** What is not known of a disk that has just been seen, as the API conventions want it. */
function firstSight(disk: OnDemandDisk): ConditionChange[] {
  if (conditionOf(disk, 'Provisioned')) return []
  return [condition(disk, 'Provisioned', 'Unknown', 'PoolNotReady', 'The disk has not been made yet.')]
}

/** What keeps a disk from being made. */
function obstacle(
  { pool, refusal, nameHolder }: DiskObserved,
  spec: OnDemandDisk['spec'],
): readonly [DiskReason, string] | undefined {
  const { poolName, exportName } = spec
  if (pool.state === 'missing') {
    return ['PoolNotFound', `There is no DiskPool ${poolName} in this namespace.`]
  }
  if (pool.state === 'invalid') {
    return ['PoolInvalid', `The spec of the DiskPool ${poolName} cannot be obeyed; see its conditions.`]
  }
  if (pool.state === 'deleting') {
    return ['PoolDeleting', `The DiskPool ${poolName} is being deleted and takes no new disks.`]
  }
  if (nameHolder !== undefined) {
    return ['ExportNameTaken', `The disk ${nameHolder} has the export name ${JSON.stringify(exportName)}.`]
  }
  if (refusal) return [refusal.reason, refusal.message]
  return undefined
}

/** A disk that every client gets anew, or that another server has. */
function planWithoutFile(observed: DiskObserved): Plan {
  const { disk, parsed } = observed
  const problem = obstacle(observed, (parsed as OnDemandDisk).spec)
  if (problem) return notReady(observed, ...problem)
  return {
    actions: [
      status(disk, [
        condition(disk, 'Provisioned', 'True', 'NothingToMake'),
        condition(disk, 'Ready', 'False', 'WaitingForServer'),
      ]),
    ],
  }
}

function make(observed: DiskObserved, { spec }: OnDemandDisk): Plan {
  const { disk, job, pool, now } = observed
  switch (job.state) {
    case 'succeeded':
      return formatted(observed)
    case 'failed':
      return failed(observed, job)
    case 'foreign':
      return notReady(observed, 'NameTaken', `The Job ${job.name} is not of this disk.`)
    case 'terminating':
      return { actions: [] }
    case 'running':
      return running(observed, job)
    case 'none': {
      if (spec.source !== undefined) return planCopy(observed, spec.source, spec, obstacle(observed, spec))
      const spareUntil = spareDeadline(disk)
      if (spareUntil !== undefined && now < spareUntil) {
        return leftToAgent(observed, spareUntil - now)
      }
      const problem = obstacle(observed, spec)
      if (problem) return notReady(observed, ...problem)
      if (!pool.isReachable) return notReady(observed, 'PoolNotReady')
      if (observed.refusedJob && observed.refusedJob.restMs > 0)
        return refused(disk, observed.refusedJob.message, observed.refusedJob.restMs)
      const unfit = objectProblem(objectOf(disk), 'spec')
      if (unfit !== undefined) return notReady(observed, 'InvalidSpec', unfit)
      return start(disk, observed.refusedJob === undefined)
    }
  }
}

/** How long a new disk may have no status while its Job is at work, in ms: most Jobs are done by then. */
export const QUIET_MS = 5000

/** That a Job is at work is worth a write only where somebody would have to wait for it. */
function running({ disk, now }: DiskObserved, job: RunningJob): Plan {
  const quietMs = restOfQuiet(now - job.startedAt, QUIET_MS)
  const { message, restMs } = jobProblem(job, now)
  const isQuiet = message === undefined && disk.status?.conditions === undefined
  if (isQuiet && quietMs !== undefined) return { actions: [], requeueAfterMs: quietMs }
  return {
    actions: [status(disk, provisioning(disk, message))],
    ...(restMs !== undefined && { requeueAfterMs: restMs }),
  }
}

/** The agent tells of a spare all at one stroke; that it is at it is worth a write only where it takes long. */
function leftToAgent({ disk, now }: DiskObserved, restMs: number): Plan {
  const quietMs = restOfQuiet(now - Date.parse(disk.metadata.creationTimestamp ?? ''), QUIET_MS)
  if (disk.status?.conditions === undefined && quietMs !== undefined) {
    return { actions: [], requeueAfterMs: Math.min(quietMs, restMs) }
  }
  return { actions: [status(disk, provisioning(disk))], requeueAfterMs: restMs }
}

/** Until when the agent may still turn a spare into this disk, in ms since 1970. */
function spareDeadline({ metadata }: OnDemandDisk): number | undefined {
  if (metadata.annotations?.[SPARE_ANNOTATION] === undefined) return undefined
  return Date.parse(metadata.creationTimestamp ?? '') + SPARE_PATIENCE_MS
}

function provisioning(disk: OnDemandDisk, message?: string): ConditionChange[] {
  return (['Provisioned', 'Formatted', 'Ready'] as const).map(type =>
    condition(disk, type, 'False', 'Provisioning', message),
  )
}

/** What is written here has the disk looked at again at once, so that the queue's own delays would not count. */
function refused(disk: OnDemandDisk, message: string, restMs: number): Plan {
  return { ...failure(disk, 'JobRefused', message), requeueAfterMs: restMs }
}

/**
 * Counting the attempt changes the object: whoever has seen less than this status cannot write it, nor go on. `isNews`:
 * there is something else to say than before.
 */
function start(disk: OnDemandDisk, isNews: boolean): Plan {
  const attempt = attemptsOf(disk) + 1
  return {
    actions: [
      status(disk, isNews ? provisioning(disk) : [], undefined, { attempts: attempt }),
      { kind: 'start job', attempt },
    ],
  }
}

/** The latch: from here on no Job is ever made for this disk. */
function formatted({ disk, parsed, job }: DiskObserved): Plan {
  const known = isTrue(disk, 'Formatted') ? [] : [condition(disk, 'Formatted', 'True', 'Formatted')]
  const event = { type: 'Normal', reason: 'Provisioned', message: DISK_REASONS.Formatted.meaning } as const
  return {
    actions: [
      status(
        disk,
        [...known, condition(disk, 'Provisioned', 'True', 'Formatted'), readiness(disk)],
        event,
        madeWith(parsed),
      ),
      ...(job.state === 'succeeded' ? [{ kind: 'delete job' } as const] : []),
    ],
  }
}

function provisioned({ disk, parsed, job }: DiskObserved): Plan {
  const ready = readiness(disk)
  const isLeft = job.state === 'succeeded' || job.state === 'failed' || job.state === 'running'
  return {
    actions: [
      status(disk, [ready], undefined, madeWith(parsed)),
      ...(isLeft ? [{ kind: 'delete job' } as const] : []),
    ],
  }
}

/** For the column of `kubectl get`, which cannot show a default. */
function madeWith(parsed: DiskObserved['parsed']) {
  const type = parsed instanceof InvalidSpecError ? undefined : parsed.spec.filesystem?.type
  return type === undefined ? {} : { filesystem: type }
}

/** Ready is what the agent says of the export. */
function readiness(disk: OnDemandDisk): ConditionChange {
  const exported = conditionOf(disk, 'Exported')
  if (!exported) return condition(disk, 'Ready', 'False', 'WaitingForServer')
  if (exported.status === 'True') return condition(disk, 'Ready', 'True', 'Ready')
  const { reason, message } = exported
  return { type: 'Ready', status: exported.status, reason, message, ...observedGeneration(disk) }
}

function failed(observed: DiskObserved, job: FailedJob): Plan {
  const { disk, now } = observed
  const again = { actions: [{ kind: 'delete job' }] } as const
  const isOutdated = job.generation !== (disk.metadata.generation ?? 0)
  if (job.isFinal) return isOutdated ? again : failure(disk, 'InvalidSpec', job.message)
  const due = job.finishedAt + retryDelay(job.attempt)
  if (isOutdated || now >= due) return again
  const when = `${new Date(due).toISOString().slice(0, 19)}Z`
  return {
    ...failure(disk, 'FormatFailed', `${job.message} (attempt ${job.attempt}; the next is at ${when})`),
    requeueAfterMs: due - now,
  }
}

function failure(disk: OnDemandDisk, reason: DiskReason, message: string): Plan {
  return {
    actions: [
      status(
        disk,
        (['Provisioned', 'Formatted', 'Ready'] as const).map(type =>
          condition(disk, type, 'False', reason, message),
        ),
        { type: 'Warning', reason, message },
      ),
    ],
  }
}
