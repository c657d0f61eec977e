/** Server-side apply, and the question whether it would change anything. */
import type { KubeClient, RequestOptions } from './client.ts'
import type { KubeObject, Resource } from './objects.ts'

export interface ApplyOptions extends RequestOptions {
  /** Who owns the fields that are given. */
  readonly fieldManager: string
}

/**
 * Makes the object, or brings the given fields of it to what is given, whoever set them before; fields that this
 * manager gave earlier and does not give now go. A status is not written so: servers before 1.22 get it wrong
 * (see `writeStatus`).
 * @throws KubeError
 */
export function apply<T extends KubeObject>(
  client: KubeClient,
  resource: Resource<T>,
  object: KubeObject & Partial<T>,
  { fieldManager, ...options }: ApplyOptions,
): Promise<T> {
  return client.patch(resource, object.metadata, 'apply', object, { ...options, fieldManager, force: true })
}

/**
 * Does an object have all that is wanted of it already? What it has beyond that (defaults, what others set) does
 * not count, but a list has to have as many items, each with all that is wanted of it.
 */
export function covers(actual: unknown, wanted: unknown): boolean {
  if (Array.isArray(wanted)) {
    return (
      Array.isArray(actual) &&
      actual.length === wanted.length &&
      wanted.every((item, index) => covers(actual[index], item))
    )
  }
  if (wanted === null || typeof wanted !== 'object') return actual === wanted
  if (actual === null || typeof actual !== 'object') {
    // An empty object and none are the same to most fields, and the server drops empty ones.
    return actual === undefined && Object.keys(wanted).length === 0
  }
  return Object.entries(wanted).every(
    ([key, value]) => value === undefined || covers((actual as Record<string, unknown>)[key], value),
  )
}
