/**
 * For tests: as much of an API server as this library asks for, in memory, and faults on demand. Written from the
 * API's description, not from the client; the end-to-end tests hold both against the real one.
 */
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { KubeObject } from './objects.ts'
import type { HttpRequest, Transport } from './transport.ts'

/** What goes wrong with the next answers. */
export type Fault =
  /** No answer, and the connection is gone. */
  | { readonly kind: 'refuse' }
  /** An answer with this status, and with a header Retry-After or a body of its own where there is one. */
  | {
      readonly kind: 'status'
      readonly status: number
      readonly retryAfter?: number
      readonly body?: object
    }
  /** The body breaks off after so many bytes. */
  | { readonly kind: 'cut'; readonly bytes: number }
  /** The body ends in order after so many bytes, as behind a proxy that gives up. */
  | { readonly kind: 'truncate'; readonly bytes: number }
  /** The body's head is replaced. */
  | { readonly kind: 'garbage'; readonly text: string }
  /** Nothing comes for ever. */
  | { readonly kind: 'silence' }

interface Change {
  readonly version: number
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED'
  readonly object: KubeObject
}

type Answer = { readonly status: number; readonly body: AsyncIterable<string>; readonly retryAfter?: number }

/** How an object is addressed: the collection's path, and its name. */
const PATH =
  /^((?:\/api\/v1|\/apis\/[^/]+\/[^/]+)(?:\/namespaces\/([^/]+))?\/([^/]+))(?:\/([^/]+))?(?:\/(status))?$/

export class TestApi {
  /** Requests as they came: `GET /api/v1/pods?limit=500`. */
  readonly requests: string[] = []
  /** Taken one by one by the requests that this function picks. */
  faults: Fault[] = []
  mayFail: (request: string) => boolean = () => true
  #version = 100
  #uid = 0
  readonly #objects = new Map<string, KubeObject>()
  #changes: Change[] = []
  /** The oldest state that a watch or a list's next page can start from. */
  #oldest = 0
  readonly #pages = new Map<string, KubeObject[]>()
  readonly #wakers = new Set<() => void>()

  readonly transport: Transport = async request => {
    const name = `${request.method} ${request.path}`
    this.requests.push(name)
    const fault = this.mayFail(name) ? this.faults.shift() : undefined
    if (fault?.kind === 'refuse')
      throw Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' })
    const answer: Answer =
      fault?.kind === 'status'
        ? {
            ...(fault.body ? success(fault.body, fault.status) : failure(fault.status, 'Fault')),
            ...(fault.retryAfter !== undefined && { retryAfter: fault.retryAfter }),
          }
        : this.#answer(request)
    return {
      status: answer.status,
      headers: answer.retryAfter === undefined ? {} : { 'retry-after': String(answer.retryAfter) },
      body: bytesOf(answer.body, fault, request.signal),
    }
  }

  /** Makes or changes an object from outside; returns it as it is stored. */
  put(object: { readonly metadata: { readonly name: string; readonly namespace?: string } }): KubeObject {
    const { name, namespace } = object.metadata
    const key = `${namespace ?? ''}/${name}`
    const old = this.#objects.get(key)
    const stored = {
      apiVersion: 'v1',
      kind: 'Thing',
      ...object,
      metadata: {
        ...object.metadata,
        uid: old?.metadata.uid ?? `uid-${++this.#uid}`,
        resourceVersion: String(++this.#version),
        managedFields: [{ manager: 'test' }],
      },
    } as KubeObject
    this.#store(key, stored, old ? 'MODIFIED' : 'ADDED')
    return stored
  }

  /** Removes an object from outside. */
  remove(name: string, namespace?: string): void {
    const key = `${namespace ?? ''}/${name}`
    const old = this.#objects.get(key)
    if (!old) return
    this.#objects.delete(key)
    const object = { ...old, metadata: { ...old.metadata, resourceVersion: String(++this.#version) } }
    this.#changes.push({ version: this.#version, type: 'DELETED', object })
    this.#wake()
  }

  get objects(): KubeObject[] {
    return [...this.#objects.values()]
  }

  /** Forgets the past, as etcd's compaction does: what was seen before now is no place to start from. */
  compact(): void {
    this.#oldest = this.#version
    this.#changes = []
    this.#pages.clear()
  }

  /** Serves all this over HTTP. */
  async listen(): Promise<{ readonly url: URL; close(): Promise<void> }> {
    const server = createServer(async (incoming, outgoing) => {
      const stop = new AbortController()
      outgoing.on('close', () => stop.abort(new Error('gone')))
      try {
        const response = await this.transport({
          method: incoming.method as HttpRequest['method'],
          path: incoming.url ?? '',
          headers: incoming.headers as Record<string, string>,
          body: await textOf(incoming),
          signal: stop.signal,
        })
        outgoing.writeHead(response.status, response.headers)
        outgoing.flushHeaders()
        for await (const chunk of response.body) outgoing.write(chunk)
        outgoing.end()
      } catch {
        outgoing.destroy()
      }
    })
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as AddressInfo
    return {
      url: new URL(`http://127.0.0.1:${port}`),
      close: () =>
        new Promise<void>(resolve => {
          server.close(() => resolve())
          server.closeAllConnections()
        }),
    }
  }

  #store(key: string, object: KubeObject, type: Change['type']): void {
    this.#objects.set(key, object)
    this.#changes.push({ version: Number(object.metadata.resourceVersion), type, object })
    this.#wake()
  }

  #wake(): void {
    for (const wake of [...this.#wakers]) wake()
  }

  #answer({ method, path, headers, body = '{}', signal }: HttpRequest): Answer {
    const url = new URL(path, 'http://api')
    const [, , namespace, , name] = PATH.exec(url.pathname) ?? []
    const key = `${namespace ?? ''}/${name}`
    const old = this.#objects.get(key)
    const given = JSON.parse(body || '{}')
    if (method === 'GET' && name === undefined) {
      return url.searchParams.has('watch')
        ? this.#watch(url.searchParams, namespace, signal)
        : this.#list(url.searchParams, namespace)
    }
    if (method === 'POST') {
      const { metadata } = given as KubeObject
      const posted = `${namespace ?? ''}/${metadata.name}`
      if (this.#objects.has(posted)) return failure(409, 'AlreadyExists')
      return success(this.put({ ...given, metadata: { ...metadata, namespace } }), 201)
    }
    if (!old) {
      if (method === 'PATCH' && headers['content-type'] === 'application/apply-patch+yaml') {
        return success(this.put(given), 201)
      }
      return failure(404, 'NotFound')
    }
    if (method === 'GET') return success(old)
    if (method === 'DELETE') {
      const { uid, resourceVersion } = given.preconditions ?? {}
      if (uid !== undefined && uid !== old.metadata.uid) return failure(409, 'Conflict')
      if (resourceVersion !== undefined && resourceVersion !== old.metadata.resourceVersion) {
        return failure(409, 'Conflict')
      }
      this.remove(name ?? '', namespace)
      return success(old)
    }
    const version = given.metadata?.resourceVersion
    if (version !== undefined && version !== old.metadata.resourceVersion) return failure(409, 'Conflict')
    const next = method === 'PUT' ? given : merged(old, given)
    if (JSON.stringify(next) === JSON.stringify(old)) return success(old)
    return success(this.put(next))
  }

  #list(query: URLSearchParams, namespace: string | undefined): Answer {
    const token = query.get('continue')
    const limit = Number(query.get('limit') ?? 0)
    let items: KubeObject[]
    let version = this.#version
    if (token === null) {
      items = this.objects.filter(
        ({ metadata }) => namespace === undefined || metadata.namespace === namespace,
      )
    } else {
      const rest = this.#pages.get(token)
      if (!rest) return failure(410, 'Expired')
      items = rest
      version = Number(token.split('-')[0])
    }
    const metadata: Record<string, string> = { resourceVersion: String(version) }
    const page = limit === 0 ? items : items.slice(0, limit)
    if (page.length < items.length) {
      metadata.continue = `${version}-${items.length - page.length}`
      this.#pages.set(metadata.continue, items.slice(page.length))
    }
    // Items of a list do not say what they are.
    return success({ metadata, items: page.map(({ apiVersion: _, kind: __, ...item }) => item) })
  }

  #watch(query: URLSearchParams, namespace: string | undefined, signal: AbortSignal): Answer {
    let version = Number(query.get('resourceVersion'))
    const api = this
    async function* events(): AsyncGenerator<string> {
      for (;;) {
        // Also a watch that had begun, when what it has not yet told is forgotten: it must not go on after a gap.
        if (version < api.#oldest) {
          const status = { kind: 'Status', code: 410, reason: 'Expired', message: 'too old resource version' }
          yield `${JSON.stringify({ type: 'ERROR', object: status })}\n`
          return
        }
        const news = api.#changes.filter(change => change.version > version)
        for (const { type, object, version: reached } of news) {
          version = reached
          if (namespace !== undefined && object.metadata.namespace !== namespace) continue
          yield `${JSON.stringify({ type, object })}\n`
        }
        if (signal.aborted) return
        await new Promise<void>(resolve => {
          const wake = () => {
            api.#wakers.delete(wake)
            signal.removeEventListener('abort', wake)
            resolve()
          }
          api.#wakers.add(wake)
          signal.addEventListener('abort', wake, { once: true })
        })
      }
    }
    return { status: 200, body: events() }
  }
}

async function* one(text: string): AsyncGenerator<string> {
  yield text
}

function success(object: unknown, status = 200): Answer {
  return { status, body: one(JSON.stringify(object)) }
}

function failure(status: number, reason: string): Answer {
  const body = {
    kind: 'Status',
    apiVersion: 'v1',
    status: 'Failure',
    code: status,
    reason,
    message: `It is ${reason}.`,
  }
  return { status, body: one(JSON.stringify(body)) }
}

/** RFC 7386. */
function merged<T>(target: T, patch: unknown): T {
  if (patch === null || typeof patch !== 'object' || Array.isArray(patch)) return patch as T
  const result: Record<string, unknown> = { ...(target as object) }
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete result[key]
    else result[key] = merged(result[key], value)
  }
  return result as T
}

async function* bytesOf(
  text: AsyncIterable<string>,
  fault: Fault | undefined,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  if (fault?.kind === 'silence') {
    await new Promise((_, reject) => {
      if (signal.aborted) reject(signal.reason)
      signal.addEventListener('abort', () => reject(signal.reason), { once: true })
    })
  }
  if (fault?.kind === 'garbage') yield Buffer.from(fault.text)
  let left = fault?.kind === 'cut' || fault?.kind === 'truncate' ? fault.bytes : Number.POSITIVE_INFINITY
  for await (const piece of text) {
    const bytes = Buffer.from(piece)
    if (bytes.length < left) {
      left -= bytes.length
      yield bytes
      continue
    }
    yield bytes.subarray(0, left)
    if (fault?.kind === 'truncate') return
    throw Object.assign(new Error('aborted'), { code: 'ECONNRESET' })
  }
  if (signal.aborted) throw signal.reason
}

async function textOf(incoming: IncomingMessage): Promise<string> {
  let text = ''
  for await (const chunk of incoming) text += chunk
  return text
}
