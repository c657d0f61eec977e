/** What is known of a kind of objects: the latest state of each, found by name or by index. */
import type { KubeObject } from './objects.ts'

/** What changed, in the order in which it has to be seen. */
export type StoreEvent<T extends KubeObject> =
  | {
      readonly type: 'added'
      readonly object: T
      /** It was there before anyone looked: news of it is no hurry. */
      readonly initial: boolean
    }
  | { readonly type: 'updated'; readonly object: T; readonly old: T }
  /** The last state that was seen, which may not be the last that there was. */
  | { readonly type: 'deleted'; readonly object: T }

/** Values by which objects are found, by the name of the index. An object may have several, or none. */
export type Indexers<T extends KubeObject> = Readonly<Record<string, (object: T) => readonly string[]>>

/** Read-only view of a store. Objects are shared: they must not be changed. */
export interface Store<T extends KubeObject> {
  readonly size: number
  get(namespace: string | undefined, name: string): T | undefined
  list(namespace?: string): T[]
  /** The objects that the index finds by this value. Throws TypeError where there is no such index. */
  byIndex(index: string, value: string): T[]
}

/** `NAMESPACE/NAME`, or `NAME` for what is in no namespace. */
export function keyOf({ metadata }: KubeObject): string {
  return keyFor(metadata.namespace, metadata.name)
}

/** The key of an object that goes by these. */
export function keyFor(namespace: string | undefined, name: string): string {
  return namespace === undefined ? name : `${namespace}/${name}`
}

/** The inverse of `keyOf`. */
export function refOf(key: string): { readonly namespace?: string; readonly name: string } {
  const slash = key.indexOf('/')
  return slash < 0 ? { name: key } : { namespace: key.slice(0, slash), name: key.slice(slash + 1) }
}

/**
 * A store that tells objects apart by their uid: one that was deleted and made again under its name is seen as
 * deleted and added, however the news of it came. Each method returns what changed.
 */
export class ObjectStore<T extends KubeObject> implements Store<T> {
  readonly #objects = new Map<string, T>()
  readonly #indexers: Indexers<T>
  readonly #indexes = new Map<string, Map<string, Set<string>>>()

  constructor(indexers: Indexers<T> = {}) {
    this.#indexers = indexers
    for (const name of Object.keys(indexers)) this.#indexes.set(name, new Map())
  }

  get size(): number {
    return this.#objects.size
  }

  get(namespace: string | undefined, name: string): T | undefined {
    return this.#objects.get(keyFor(namespace, name))
  }

  list(namespace?: string): T[] {
    const all = [...this.#objects.values()]
    return namespace === undefined ? all : all.filter(({ metadata }) => metadata.namespace === namespace)
  }

  byIndex(index: string, value: string): T[] {
    const keys = this.#indexes.get(index)
    if (!keys) throw new TypeError(`There is no index ${index}.`)
    return [...(keys.get(value) ?? [])].map(key => this.#objects.get(key) as T)
  }

  /** Takes the state of an object, unless it is the one that is known. */
  set(object: T, initial = false): StoreEvent<T>[] {
    const key = keyOf(object)
    const old = this.#objects.get(key)
    if (!old) {
      this.#put(key, object)
      return [{ type: 'added', object, initial }]
    }
    if (old.metadata.uid !== object.metadata.uid) {
      this.#drop(key, old)
      this.#put(key, object)
      return [
        { type: 'deleted', object: old },
        { type: 'added', object, initial: false },
      ]
    }
    if (isSameState(old, object)) return []
    this.#drop(key, old)
    this.#put(key, object)
    return [{ type: 'updated', object, old }]
  }

  /** Forgets an object, unless another one has its name now. */
  delete(object: T): StoreEvent<T>[] {
    const key = keyOf(object)
    const old = this.#objects.get(key)
    if (!old || old.metadata.uid !== object.metadata.uid) return []
    this.#drop(key, old)
    return [{ type: 'deleted', object }]
  }

  /** Forgets the objects whose keys are not among these. */
  keepOnly(keys: ReadonlySet<string>): StoreEvent<T>[] {
    const events: StoreEvent<T>[] = []
    for (const [key, object] of this.#objects) {
      if (keys.has(key)) continue
      this.#drop(key, object)
      events.push({ type: 'deleted', object })
    }
    return events
  }

  #put(key: string, object: T): void {
    this.#objects.set(key, object)
    for (const [name, index] of this.#indexes) {
      for (const value of this.#indexers[name]?.(object) ?? []) {
        const keys = index.get(value)
        if (keys) keys.add(key)
        else index.set(value, new Set([key]))
      }
    }
  }

  #drop(key: string, object: T): void {
    this.#objects.delete(key)
    for (const [name, index] of this.#indexes) {
      for (const value of this.#indexers[name]?.(object) ?? []) {
        const keys = index.get(value)
        keys?.delete(key)
        if (keys?.size === 0) index.delete(value)
      }
    }
  }
}

function isSameState(a: KubeObject, b: KubeObject): boolean {
  const version = a.metadata.resourceVersion
  return version !== undefined && version === b.metadata.resourceVersion
}
