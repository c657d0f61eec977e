/**
 * Keeps a store equal to what the API server has: a list in pages, then a watch from there on, for ever. Whatever
 * happens to the connection, no change is lost: each is seen, or what came of it.
 */
import type { KubeClient, ObjectList } from './client.ts'
import { sleep } from './deadline.ts'
import { isExpired, KubeError } from './kube-error.ts'
import { type KubeLog, reasonOf } from './log.ts'
import { groupVersion, type KubeObject, type Resource } from './objects.ts'
import { type Indexers, keyOf, ObjectStore, type Store, type StoreEvent } from './store.ts'

export interface ReflectorTerms<T extends KubeObject> {
  readonly client: KubeClient
  readonly resource: Resource<T>
  /** Default: all namespaces. */
  readonly namespace?: string | undefined
  readonly labelSelector?: string | undefined
  readonly fieldSelector?: string | undefined
  readonly indexers?: Indexers<T>
  /** What is kept of an object. Default: all but `metadata.managedFields`, which are half of many objects. */
  readonly keep?: (object: T) => T
  /** Called when the store has changed already. What it throws is logged and loses nothing. */
  readonly onEvent?: (event: StoreEvent<T>) => void
  readonly log?: KubeLog
  /** Objects in a page. Default: 500. */
  readonly pageSize?: number
  /** After so long without a line the watch is started anew, in ms. Default: 90 s; bookmarks come each minute. */
  readonly inactivityMs?: number
  /** Before the first new try after a failure, in ms, doubled with each further one. Default: 50. */
  readonly firstDelayMs?: number
}

export interface Reflector<T extends KubeObject> {
  readonly store: Store<T>
  /** Resolves when the store holds all that there was at the first list; rejects when stopped before. */
  readonly synced: Promise<void>
  readonly isSynced: boolean
  stop(): Promise<void>
}

const PAGE = 500
const INACTIVITY_MS = 90_000
/** A page has so long, in ms. */
const LIST_MS = 30_000
const FIRST_DELAY_MS = 50
/** A server that cannot be reached is tried this often at least, in ms: so long nothing is seen once it is back. */
const MAX_UNREACHABLE_MS = 500
/** One that answers, but not with what was asked for, may be starting. After so many tries it is left alone longer. */
const PATIENT_TRIES = 20
const MAX_REFUSED_MS = 30_000
/** The server ends a watch after 5 to 10 minutes, so that those of many clients do not come back together. */
const WATCH_SECONDS = 300
/** A watch that ends sooner without news, in ms, has not worked. */
const SHORT_WATCH_MS = 1000
/** So often the same place is tried before everything is listed anew. */
const MAX_GARBAGE = 3

/** What has gone wrong since it last went well. */
interface Failures {
  unreachable: number
  /** Since the server was last unreachable. */
  refused: number
}

/** Starts to follow a kind of objects. */
export function startReflector<T extends KubeObject>(terms: ReflectorTerms<T>): Reflector<T> {
  const { client, resource, namespace, labelSelector, fieldSelector, onEvent, log } = terms
  const { keep = withoutManagedFields, pageSize = PAGE, inactivityMs = INACTIVITY_MS } = terms
  const { firstDelayMs = FIRST_DELAY_MS } = terms
  const selection = { namespace, labelSelector, fieldSelector }
  const listing = { ...selection, timeoutMs: Math.min(LIST_MS, inactivityMs) }
  const where = { resource: resource.plural, ...(namespace !== undefined && { namespace }) }
  const kind = { apiVersion: groupVersion(resource), kind: resource.kind }
  const store = new ObjectStore<T>(terms.indexers)
  const stopped = new AbortController()
  const { signal } = stopped
  const synced = Promise.withResolvers<void>()
  // Whoever does not wait for it need not care that it never comes.
  synced.promise.catch(() => {})
  let isSynced = false

  const tell = (events: readonly StoreEvent<T>[]) => {
    for (const event of events) {
      try {
        onEvent?.(event)
      } catch (error) {
        log?.error({ ...where, error }, 'News of an object could not be taken')
      }
    }
  }

  /** Brings the store to the state of one moment; returns that moment's resourceVersion. */
  async function list(): Promise<string> {
    const seen = new Set<string>()
    // Without a resourceVersion: what the server's cache has may be older than what was seen before.
    let page: ObjectList<T> = await client.list(resource, { ...listing, limit: pageSize, signal })
    for (;;) {
      // Of nothing, some servers make null.
      for (const item of page.items ?? []) {
        // Items of a list do not say what they are.
        const object = keep({ ...item, ...kind })
        seen.add(keyOf(object))
        tell(store.set(object, !isSynced))
      }
      const next = page.metadata.continue
      if (!next) break
      try {
        page = await client.list(resource, { ...listing, limit: pageSize, continue: next, signal })
      } catch (error) {
        if (!isExpired(error)) throw error
        log?.info(
          where,
          'Listing took longer than the server keeps the state of its start; listing in one piece',
        )
        seen.clear()
        page = await client.list(resource, { ...listing, signal })
      }
    }
    tell(store.keepOnly(seen))
    return page.metadata.resourceVersion ?? ''
  }

  /** Follows from a resourceVersion until the watch ends; `onVersion` is told how far it came. */
  function watch(resourceVersion: string, onVersion: (version: string) => void): Promise<void> {
    const timeoutSeconds = Math.round(WATCH_SECONDS * (1 + Math.random()))
    return client.watch(
      resource,
      { ...selection, resourceVersion, timeoutSeconds, inactivityMs, signal },
      ({ type, object }) => {
        const version = (object as T | undefined)?.metadata?.resourceVersion
        if (version === undefined) {
          throw new KubeError(
            'InvalidResponse',
            `Watching ${resource.plural} brought an object without version.`,
          )
        }
        if (type === 'DELETED') tell(store.delete(keep(object)))
        else if (type !== 'BOOKMARK') tell(store.set(keep(object)))
        onVersion(version)
      },
    )
  }

  async function run(): Promise<void> {
    let version: string | undefined
    const failures: Failures = { unreachable: 0, refused: 0 }
    let garbage = 0
    let blindSince: number | undefined
    const onProgress = () => {
      if (blindSince !== undefined) {
        const ms = Math.round(performance.now() - blindSince)
        log?.info({ ...where, ms }, 'Following the API server again')
      }
      blindSince = undefined
      failures.unreachable = 0
      failures.refused = 0
    }
    while (!signal.aborted) {
      const startedAt = performance.now()
      try {
        if (version === undefined) {
          version = await list()
          onProgress()
          isSynced = true
          synced.resolve()
        }
        const from: string = version
        await watch(from, reached => {
          version = reached
          garbage = 0
          onProgress()
        })
        if (version !== from || performance.now() - startedAt >= SHORT_WATCH_MS) continue
        failures.refused++
        await sleep(delayOf(undefined, failures, firstDelayMs), signal)
      } catch (error) {
        if (signal.aborted) break
        if (isExpired(error)) {
          log?.info(where, 'The API server no longer has the state that was last seen; listing anew')
          version = undefined
        } else if (
          error instanceof KubeError &&
          error.code === 'InvalidResponse' &&
          ++garbage >= MAX_GARBAGE
        ) {
          version = undefined
          garbage = 0
        }
        if (error instanceof KubeError && error.status > 0) {
          failures.refused++
        } else {
          failures.unreachable++
          failures.refused = 0
        }
        blindSince ??= performance.now()
        const tries = failures.unreachable + failures.refused
        const report = { ...where, failures: tries, ...reasonOf(error) }
        // A server that is away for long is not worth a line each half second.
        const isNews = version !== undefined || !isExpired(error)
        if (isNews && (tries & (tries - 1)) === 0)
          log?.warn(report, 'The API server cannot be followed; trying again')
        await sleep(delayOf(error, failures, firstDelayMs), signal).catch(() => {})
      }
    }
  }

  const running = run().finally(() =>
    synced.reject(new Error(`Following ${resource.plural} has been stopped.`)),
  )
  return {
    store,
    synced: synced.promise,
    get isSynced() {
      return isSynced
    },
    async stop() {
      stopped.abort(new Error('Stopped.'))
      await running
    },
  }
}

/** How long to wait before the next try, in ms; never the same for two clients. */
function delayOf(error: unknown, { unreachable, refused }: Failures, firstDelayMs: number): number {
  const { retryAfterMs = 0 } = error instanceof KubeError ? error : {}
  const short = Math.min(firstDelayMs * 2 ** Math.min(unreachable + refused - 1, 20), MAX_UNREACHABLE_MS)
  const impatience = Math.max(0, refused - PATIENT_TRIES)
  const delay = Math.min(short * 2 ** Math.min(impatience, 20), MAX_REFUSED_MS)
  return Math.max(retryAfterMs, delay * (0.5 + Math.random() / 2))
}

function withoutManagedFields<T extends KubeObject>(object: T): T {
  const { managedFields: _, ...metadata } = object.metadata as T['metadata'] & { managedFields?: unknown }
  return { ...object, metadata }
}
