import { InvalidSpecError } from './invalid-spec-error.ts'
import { quote } from './quote.ts'
import type { ObjectValidator } from './schema.ts'

export const API_GROUP = 'ondemanddisk.dev'
export const API_VERSION = 'v1alpha1'
export const API_GROUP_VERSION = `${API_GROUP}/${API_VERSION}` as const

export interface ObjectMeta {
  readonly name: string
  readonly namespace?: string
  readonly uid?: string
  readonly resourceVersion?: string
  readonly generation?: number
  /** RFC 3339. */
  readonly creationTimestamp?: string
  /** RFC 3339; the object is being deleted. */
  readonly deletionTimestamp?: string
  readonly finalizers?: readonly string[]
  readonly labels?: Readonly<Record<string, string>>
  readonly annotations?: Readonly<Record<string, string>>
  readonly [field: string]: unknown
}

/** One aspect of an object's state, as Kubernetes' API conventions have it. */
export interface Condition {
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

/**
 * A copy of an object with the schema's defaults filled in, once it is known to be of this kind and to follow
 * the schema. The object itself is left as it is.
 * @throws InvalidSpecError for the first bad field
 */
export function checkedCopy(object: unknown, kind: string, validate: ObjectValidator): unknown {
  if (object === null || typeof object !== 'object' || Array.isArray(object)) {
    throw new InvalidSpecError('', `Give an object of kind ${kind}.`)
  }
  requireValue(object, 'apiVersion', API_GROUP_VERSION)
  requireValue(object, 'kind', kind)
  const copy = structuredClone(object)
  const problem = validate(copy)
  if (problem) throw new InvalidSpecError(problem.field, problem.reason)
  return copy
}

function requireValue(object: object, field: string, wanted: string): void {
  const value: unknown = (object as Record<string, unknown>)[field]
  if (value !== wanted) {
    throw new InvalidSpecError(
      field,
      `Give ${wanted}${typeof value === 'string' ? `, not ${quote(value)}` : ''}.`,
    )
  }
}
