/** Conditions and status: merged, not overwritten, and written only where something changes. */
import { isDeepStrictEqual } from 'node:util'
import type { KubeClient, RequestOptions } from './client.ts'
import { hasCode } from './kube-error.ts'
import type { KubeObject, Resource } from './objects.ts'

/** One aspect of an object's state, as Kubernetes' API conventions have it. */
export interface StatusCondition {
  readonly type: string
  readonly status: 'True' | 'False' | 'Unknown'
  readonly observedGeneration?: number
  /** RFC 3339. */
  readonly lastTransitionTime: string
  /** One word for programs, in CamelCase. */
  readonly reason: string
  /** A sentence for people. */
  readonly message: string
}

/** A condition as it is to be from now on. */
export type ConditionChange = Omit<StatusCondition, 'lastTransitionTime'>

/** What is to be different in a status. */
export interface StatusChange {
  readonly conditions?: readonly ConditionChange[]
  /** Types of conditions that are to go. */
  readonly removeConditions?: readonly string[]
  /** Other fields of the status; null removes one, objects are merged, lists are replaced. */
  readonly fields?: Readonly<Record<string, unknown>>
}

/** An object with a status of this shape, as far as it is known. */
export interface WithStatus extends KubeObject {
  readonly status?: object
}

/** Longest message of a condition, in characters (Kubernetes' own schema). */
const MAX_MESSAGE = 32_768

/**
 * The conditions after a change: each is found by its type, keeps its place, and has a new time only where its
 * status is another. Returns the very list that was given where nothing changes.
 */
export function mergeConditions(
  known: readonly StatusCondition[],
  changes: readonly ConditionChange[],
  now: Date = new Date(),
): readonly StatusCondition[] {
  // Seconds, as Kubernetes' own times.
  const time = `${now.toISOString().slice(0, 19)}Z`
  const result = [...known]
  let changed = false
  for (const change of changes) {
    const index = result.findIndex(({ type }) => type === change.type)
    const old = result[index]
    const next: StatusCondition = {
      ...change,
      message: change.message.slice(0, MAX_MESSAGE),
      lastTransitionTime: old?.status === change.status ? old.lastTransitionTime : time,
    }
    if (old && isDeepStrictEqual({ ...old }, { ...next })) continue
    changed = true
    if (old) result[index] = next
    else result.push(next)
  }
  return changed ? result : known
}

/**
 * The merge patch that makes this change, or undefined where there is nothing to change. It holds only for the
 * state that was looked at: on another one the server answers `Conflict`, since a list cannot be merged there.
 */
export function statusPatch(object: WithStatus, change: StatusChange, now?: Date): object | undefined {
  const { conditions: _, ...status } = (object.status ?? {}) as Record<string, unknown> & {
    readonly conditions?: readonly StatusCondition[]
  }
  const known = conditionsOf(object)
  const kept = change.removeConditions
    ? known.filter(({ type }) => !change.removeConditions?.includes(type))
    : known
  const merged = mergeConditions(kept, change.conditions ?? [], now)
  const conditions =
    merged !== known && (merged.length !== known.length || merged !== kept) ? { conditions: merged } : {}
  const fields = changedFields(status, change.fields ?? {})
  const patch = { ...fields, ...conditions }
  if (Object.keys(patch).length === 0) return undefined
  return { metadata: { resourceVersion: object.metadata.resourceVersion }, status: patch }
}

/** The conditions of an object; empty where it has none yet. */
export function conditionsOf(object: WithStatus): readonly StatusCondition[] {
  return (object.status as { readonly conditions?: readonly StatusCondition[] } | undefined)?.conditions ?? []
}

/** The condition of this type, if the object has it. */
export function conditionOf(object: WithStatus, type: string): StatusCondition | undefined {
  return conditionsOf(object).find(condition => condition.type === type)
}

function changedFields(
  known: Readonly<Record<string, unknown>>,
  fields: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  const changed: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined || (value === null && !(name in known))) continue
    if (!isDeepStrictEqual(known[name], value)) changed[name] = value
  }
  return changed
}

export interface WriteStatusOptions extends RequestOptions {
  /**
   * How often to look at the object anew and try again when it has changed meanwhile. Default: 0, where `Conflict`
   * is thrown: what was decided on the old state may be wrong for the new one.
   */
  readonly retries?: number
}

/**
 * Writes a change of the status, if it is one; returns the object as it is then. A function is asked anew for each
 * state of the object; undefined leaves it as it is.
 * @throws KubeError
 */
export async function writeStatus<T extends WithStatus>(
  client: KubeClient,
  resource: Resource<T>,
  object: T,
  change: StatusChange | ((object: T) => StatusChange | undefined),
  { retries = 0, ...options }: WriteStatusOptions = {},
): Promise<T> {
  let latest = object
  for (let left = retries; ; left--) {
    const wanted = typeof change === 'function' ? change(latest) : change
    const patch = wanted && statusPatch(latest, wanted)
    if (!patch) return latest
    try {
      return await client.patch(resource, latest.metadata, 'merge', patch, {
        ...options,
        subresource: 'status',
      })
    } catch (error) {
      if (!hasCode(error, 'Conflict') || left <= 0) throw error
      latest = await client.get(resource, latest.metadata, options)
    }
  }
}
