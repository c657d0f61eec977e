/**
 * What was written a moment ago and has not come back by the watch yet. A reconciler that looked at the store alone
 * would decide on the past, and be told so by conflicts.
 */
import type { KubeObject } from '../kube/objects.ts'
import { keyOf, type StoreEvent } from '../kube/store.ts'

/** A watch that is further behind has other troubles; then the API server's conflicts have to do. */
const FRESH_MS = 60_000

/** Is this state of an object at least as new as that? Kubernetes promises it of numbers; of anything else nothing is known. */
function isAsNew(one: KubeObject, other: KubeObject): boolean {
  const [a = '', b = ''] = [one.metadata.resourceVersion, other.metadata.resourceVersion]
  if (a === b) return true
  return !/^\d+$/.test(a) || !/^\d+$/.test(b) || BigInt(a) >= BigInt(b)
}

export class Fresh<T extends KubeObject> {
  readonly #written = new Map<string, { readonly object: T; readonly until: number }>()

  /** Remembers an object as the API server answered it. */
  note(object: T): void {
    this.#written.set(keyOf(object), { object, until: performance.now() + FRESH_MS })
  }

  /** The newer of what the store has and what was written. */
  latest(key: string, stored: T | undefined): T | undefined {
    const entry = this.#written.get(key)
    if (!entry) return stored
    if (performance.now() > entry.until) {
      this.#written.delete(key)
      return stored
    }
    if (!stored) return entry.object
    return stored.metadata.uid === entry.object.metadata.uid && !isAsNew(stored, entry.object)
      ? entry.object
      : stored
  }

  /** Forgets what the store knows now. */
  seen({ type, object }: StoreEvent<T>): void {
    const key = keyOf(object)
    const written = this.#written.get(key)?.object
    if (!written) return
    const isGone = type === 'deleted' && written.metadata.uid === object.metadata.uid
    if (isGone || isAsNew(object, written)) this.#written.delete(key)
  }

  /** It is gone, whatever the store says. */
  forget(key: string): void {
    this.#written.delete(key)
  }
}
