/** What the API server does not take of what a pool is made of: only a person can help, so the pool has to say it. */
import type { DiskPool } from '../../crds/diskpool.ts'
import { isRefusal, type KubeError } from '../kube/kube-error.ts'
import type { PoolReason } from '../terms/reasons.ts'
import type { Part, PoolAction } from './observed.ts'
import { condition } from './plan.ts'

/** Where the text of a part comes from, as far as it is a user's. */
const FIELDS: Readonly<Partial<Record<Part | 'claim', string>>> = {
  claim: 'spec.storage.claimTemplate',
  service: 'spec.server',
  server: 'spec.server',
}

export interface PartRefusal {
  readonly reason: PoolReason
  readonly message: string
  readonly cause: KubeError
}

/** Why a step was refused for good, in words for the pool; undefined where it may do later. */
export function partRefusal(action: PoolAction, error: unknown): PartRefusal | undefined {
  if (!isRefusal(error) || (action.kind !== 'apply' && action.kind !== 'create claim')) return undefined
  const { kind, metadata } = action.object
  const field = FIELDS[action.kind === 'apply' ? action.part : 'claim']
  const what = `The API server does not take the ${kind} ${metadata.name}: ${error.details?.message ?? error.message}`
  // Nothing but the spec can make an object of ours invalid.
  if (error.code !== 'Invalid' || field === undefined)
    return { reason: 'ObjectRefused', message: what, cause: error }
  return { reason: 'InvalidSpec', message: `${field}: ${what}`, cause: error }
}

/** The report of a pool with this in it, in place of what it would say of being ready. */
export function withRefusal(
  pool: DiskPool,
  action: PoolAction & { readonly kind: 'status' },
  { reason, message }: PartRefusal,
): PoolAction {
  const ready = condition(pool, 'Ready', 'False', reason, message)
  const others = (action.change.conditions ?? []).filter(({ type }) => type !== ready.type)
  return {
    kind: 'status',
    change: { ...action.change, conditions: [...others, ready] },
    event: { type: 'Warning', reason, message },
  }
}
