/** The API server's requests: typed by the kind of object, with errors that say why, retries and a rate limit. */
import { bodyOf, cutOff, retryAfter } from './answer.ts'
import { jsonLines, parseJson } from './body.ts'
import { deadlineOf, sleep } from './deadline.ts'
import { errorOfAnswer, KubeError } from './kube-error.ts'
import { groupVersion, type KubeObject, type Resource } from './objects.ts'
import { collectionOf, pathOf, queryOf } from './paths.ts'
import type { RateLimiter } from './rate-limiter.ts'
import type { HttpRequest, HttpResponse, Transport } from './transport.ts'

/** Which object of a kind. */
export interface ObjectRef {
  readonly namespace?: string | undefined
  readonly name: string
}

export interface RequestOptions {
  readonly signal?: AbortSignal | undefined
  /** The whole request with its answer, in ms. Default: 30 s. */
  readonly timeoutMs?: number
}

export interface ListOptions extends RequestOptions {
  /** Default: all namespaces. */
  readonly namespace?: string | undefined
  readonly labelSelector?: string | undefined
  readonly fieldSelector?: string | undefined
  readonly limit?: number
  readonly continue?: string | undefined
}

export interface ObjectList<T> {
  readonly metadata: { readonly resourceVersion?: string; readonly continue?: string }
  readonly items: readonly T[]
}

export interface WatchOptions {
  readonly namespace?: string | undefined
  readonly labelSelector?: string | undefined
  readonly fieldSelector?: string | undefined
  /** From where on. */
  readonly resourceVersion: string
  /** After which the server ends the watch, in s. */
  readonly timeoutSeconds: number
  /** Without a line for so long, in ms, the connection counts as dead. */
  readonly inactivityMs: number
  readonly signal: AbortSignal
}

/** A line of a watch. */
export type WatchEvent<T> =
  | { readonly type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK'; readonly object: T }
  | { readonly type: 'ERROR'; readonly object: unknown }

/** How an object is changed: by merging (RFC 7386), by operations (RFC 6902), or by server-side apply. */
export type PatchType = 'merge' | 'json' | 'apply'

export interface PatchOptions extends RequestOptions {
  readonly subresource?: 'status'
  /** Needed with `apply`: who owns the fields. */
  readonly fieldManager?: string
  /** With `apply`: take fields from whoever owned them. */
  readonly force?: boolean
}

export interface DeleteOptions extends RequestOptions {
  /** Whether what the object owns goes before, after or not at all. Default: `Background`. */
  readonly propagationPolicy?: 'Foreground' | 'Background' | 'Orphan'
  /** Refused with `Conflict` where the object is not this one, or no longer in this state. */
  readonly preconditions?: { readonly uid?: string; readonly resourceVersion?: string }
  readonly gracePeriodSeconds?: number
}

/** All methods throw KubeError, or the signal's reason when the caller aborts. */
export interface KubeClient {
  get<T extends KubeObject>(resource: Resource<T>, ref: ObjectRef, options?: RequestOptions): Promise<T>
  /** As `get`; undefined where there is no such object. */
  find<T extends KubeObject>(
    resource: Resource<T>,
    ref: ObjectRef,
    options?: RequestOptions,
  ): Promise<T | undefined>
  list<T extends KubeObject>(resource: Resource<T>, options?: ListOptions): Promise<ObjectList<T>>
  create<T extends KubeObject>(
    resource: Resource<T>,
    object: Unnamed<T>,
    options?: RequestOptions,
  ): Promise<T>
  /** Replaces the object if its resourceVersion is still this one. */
  update<T extends KubeObject>(
    resource: Resource<T>,
    object: T,
    options?: RequestOptions & { readonly subresource?: 'status' },
  ): Promise<T>
  patch<T extends KubeObject>(
    resource: Resource<T>,
    ref: ObjectRef,
    type: PatchType,
    patch: unknown,
    options?: PatchOptions,
  ): Promise<T>
  delete(resource: Resource, ref: ObjectRef, options?: DeleteOptions): Promise<void>
  /**
   * Hands over each event as it comes. Resolves when the server ends the watch, which it does now and then.
   * An event of the type ERROR is thrown, as are lines that are none.
   */
  watch<T extends KubeObject>(
    resource: Resource<T>,
    options: WatchOptions,
    onEvent: (event: Exclude<WatchEvent<T>, { type: 'ERROR' }>) => void,
  ): Promise<void>
  /** Does the server know this kind in this version? */
  serves(resource: Resource, options?: RequestOptions): Promise<boolean>
}

/** The server may be asked to make up the name, by `metadata.generateName`. */
export type Unnamed<T extends KubeObject> = Omit<T, 'metadata'> & {
  readonly metadata: Partial<T['metadata']> & { readonly generateName?: string }
}

export interface ClientTerms {
  readonly transport: Transport
  /** Default: none; the server's own flow control answers 429 then, which is obeyed. */
  readonly limiter?: RateLimiter
  /** Told of every answer; the code is the HTTP status, or `<error>`. */
  readonly onAnswer?: (method: string, code: string) => void
  /** What the server's log is to call this program. */
  readonly userAgent?: string
}

const TIMEOUT_MS = 30_000
/** Retries of what the server puts off; by a request's own timeout fewer. */
const MAX_RETRIES = 10
const MAX_RETRY_AFTER_MS = 60_000

const PATCH_TYPES: Readonly<Record<PatchType, string>> = {
  merge: 'application/merge-patch+json',
  json: 'application/json-patch+json',
  apply: 'application/apply-patch+yaml',
}

/** A client over a transport. */
export function createClient({ transport, limiter, onAnswer, userAgent }: ClientTerms): KubeClient {
  const base = {
    accept: 'application/json',
    ...(userAgent !== undefined && { 'user-agent': userAgent }),
  }

  async function sendOnce(what: string, request: HttpRequest): Promise<HttpResponse> {
    await limiter?.take(request.signal)
    try {
      const response = await transport(request)
      onAnswer?.(request.method, String(response.status))
      return response
    } catch (error) {
      request.signal.throwIfAborted()
      onAnswer?.(request.method, '<error>')
      const reason = error instanceof Error ? error.message : String(error)
      throw new KubeError('Unreachable', `${what} got no answer: ${reason}`, { cause: error })
    }
  }

  /** The head of a good answer; whatever the server puts off is asked again when it wants it. */
  async function send(what: string, request: HttpRequest): Promise<HttpResponse> {
    for (let attempt = 0; ; attempt++) {
      const response = await sendOnce(what, request)
      if (response.status < 300) return response
      const body = await bodyOf(what, response, request.signal)
      const error = errorOfAnswer(what, response.status, body, retryAfter(response))
      const putOff = error.retryAfterMs !== undefined && (error.status === 429 || error.status >= 500)
      if (!putOff || attempt >= MAX_RETRIES) throw error
      await sleep(Math.min(error.retryAfterMs ?? 0, MAX_RETRY_AFTER_MS), request.signal)
    }
  }

  async function call<T>(
    method: HttpRequest['method'],
    path: string,
    { signal, timeoutMs = TIMEOUT_MS }: RequestOptions,
    body?: { readonly type: string; readonly value: unknown },
  ): Promise<T> {
    const what = `${method} ${path}`
    const deadline = deadlineOf(what, timeoutMs, signal)
    try {
      const response = await send(what, {
        method,
        path,
        headers: { ...base, ...(body && { 'content-type': body.type }) },
        ...(body && { body: JSON.stringify(body.value) }),
        signal: deadline.signal,
      })
      return parseJson(what, await bodyOf(what, response, deadline.signal)) as T
    } finally {
      deadline.clear()
    }
  }

  const client: KubeClient = {
    get: (resource, ref, options = {}) => call('GET', pathOf(resource, ref), options),

    async find(resource, ref, options) {
      try {
        return await client.get(resource, ref, options)
      } catch (error) {
        if (error instanceof KubeError && error.status === 404) return undefined
        throw error
      }
    },

    list(resource, { namespace, labelSelector, fieldSelector, limit, continue: next, ...options } = {}) {
      const query = queryOf({ labelSelector, fieldSelector, limit, continue: next })
      return call('GET', `${collectionOf(resource, namespace)}${query}`, options)
    },

    create: (resource, object, options = {}) =>
      call('POST', collectionOf(resource, object.metadata.namespace), options, {
        type: 'application/json',
        value: object,
      }),

    update: (resource, object, { subresource, ...options } = {}) =>
      call('PUT', pathOf(resource, object.metadata, subresource), options, {
        type: 'application/json',
        value: object,
      }),

    patch(resource, ref, type, patch, { subresource, fieldManager, force, ...options } = {}) {
      const query = queryOf({ fieldManager, force })
      return call('PATCH', `${pathOf(resource, ref, subresource)}${query}`, options, {
        type: PATCH_TYPES[type],
        value: patch,
      })
    },

    async delete(resource, ref, { signal, timeoutMs, ...options } = {}) {
      await call(
        'DELETE',
        pathOf(resource, ref),
        { signal, ...(timeoutMs !== undefined && { timeoutMs }) },
        {
          type: 'application/json',
          value: { kind: 'DeleteOptions', apiVersion: 'v1', propagationPolicy: 'Background', ...options },
        },
      )
    },

    async watch(resource, options, onEvent) {
      const { namespace, inactivityMs, signal, ...query } = options
      const path = `${collectionOf(resource, namespace)}${queryOf({ watch: true, allowWatchBookmarks: true, ...query })}`
      const what = `Watching ${resource.plural}`
      const quiet = deadlineOf(what, inactivityMs, signal)
      try {
        const request = { method: 'GET', path, headers: base, signal: quiet.signal } as const
        const response = await sendOnce(what, request)
        if (response.status >= 300) {
          const body = await bodyOf(what, response, quiet.signal)
          throw errorOfAnswer(what, response.status, body, retryAfter(response))
        }
        for await (const lines of jsonLines(what, response.body)) {
          quiet.restart()
          for (const line of lines) {
            const event = line as WatchEvent<KubeObject>
            if (event.type === 'ERROR') {
              const status = event.object as { code?: number } | null
              throw errorOfAnswer(what, status?.code ?? 500, JSON.stringify(status), undefined)
            }
            onEvent(event as Parameters<typeof onEvent>[0])
          }
        }
      } catch (error) {
        throw cutOff(what, error, quiet.signal)
      } finally {
        quiet.clear()
      }
    },

    async serves(resource, options = {}) {
      const path = `/${resource.group === '' ? 'api' : 'apis'}/${groupVersion(resource)}`
      try {
        const { resources = [] } = await call<{ resources?: { name: string }[] }>('GET', path, options)
        return resources.some(({ name }) => name === resource.plural)
      } catch (error) {
        if (error instanceof KubeError && error.status === 404) return false
        throw error
      }
    },
  }
  return client
}
