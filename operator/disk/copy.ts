/** What is to be done for a disk that is to be made as a copy: the agent of its pool makes it, once it has a place there. */
import type { OnDemandDiskSpec, SourceSpec } from '../../crds/ondemanddisk.ts'
import { formatSize } from '../../crds/quantity.ts'
import { conditionOf } from '../terms/conditions.ts'
import type { DiskReason } from '../terms/reasons.ts'
import { condition, type DiskObserved, type Plan, status } from './observed.ts'
import { notReady } from './plan.ts'
import type { SourceView } from './source.ts'

/** Gives the disk its place and says which object it is a copy of, both at one stroke; from then on it is the agent's. */
export function planCopy(
  observed: DiskObserved,
  source: SourceSpec,
  spec: OnDemandDiskSpec,
  obstacle: readonly [DiskReason, string] | undefined,
): Plan {
  const { disk } = observed
  if (disk.status?.sourceUid !== undefined) {
    const provisioned = conditionOf(disk, 'Provisioned')
    const failed = provisioned?.reason === 'CopyFailed'
    const ready = failed
      ? condition(disk, 'Ready', 'False', 'CopyFailed', provisioned.message)
      : condition(disk, 'Ready', 'False', 'Copying')
    const event = failed
      ? ({ type: 'Warning', reason: 'CopyFailed', message: ready.message } as const)
      : undefined
    return { actions: [status(disk, [ready], event)] }
  }
  if (obstacle) return notReady(observed, ...obstacle)
  const view = observed.source ?? { state: 'missing' }
  const problem = sourceProblem(view, source, spec)
  if (problem) return notReady(observed, ...problem)
  const { uid, filesystem } = view as SourceView & { state: 'ready' }
  const conditions = (['Provisioned', 'Formatted', 'Ready'] as const).map(type =>
    condition(disk, type, 'False', 'Copying'),
  )
  const fields = { attempts: 1, sourceUid: uid, ...(filesystem !== undefined && { filesystem }) }
  return { actions: [status(disk, conditions, undefined, fields)] }
}

function sourceProblem(
  view: SourceView,
  { kind, name }: SourceSpec,
  { size = 0, poolName }: OnDemandDiskSpec,
): readonly [DiskReason, string] | undefined {
  const what = `The ${kind} ${name}`
  if (view.state === 'missing') {
    return ['SourceNotFound', `spec.source: There is no ${kind} ${name} in this namespace.`]
  }
  if (view.state === 'not ready') return ['SourceNotReady', `spec.source: ${what} ${view.message}`]
  if (view.poolName !== poolName) {
    const message = `spec.source: ${what} is in the DiskPool ${view.poolName}. Copies stay in their pool: give it as spec.poolName.`
    return ['InvalidSpec', message]
  }
  if (size < view.size) {
    const least = `${view.size} (${formatSize(view.size)})`
    return ['InvalidSpec', `spec.size: ${what} is larger. Give at least ${least}.`]
  }
  return undefined
}
