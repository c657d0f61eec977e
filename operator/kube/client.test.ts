import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { createClient, type KubeClient } from './client.ts'
import type { Cluster, Credentials } from './cluster.ts'
import { type HttpTransport, httpTransport } from './http-transport.ts'
import { hasCode, KubeError } from './kube-error.ts'
import type { KubeObject, Resource } from './objects.ts'
import { tokenBucket } from './rate-limiter.ts'
import { TestApi } from './test-api.ts'

type Thing = KubeObject & { readonly spec?: Readonly<Record<string, unknown>>; readonly status?: object }
const THINGS: Resource<Thing> = {
  group: 'x.dev',
  version: 'v1',
  kind: 'Thing',
  plural: 'things',
  namespaced: true,
}
const thing = (name: string, spec: Readonly<Record<string, unknown>> = {}) => ({
  apiVersion: 'x.dev/v1',
  kind: 'Thing',
  metadata: { name, namespace: 'a' },
  spec,
})
const a = { namespace: 'a', name: 'one' }

let api: TestApi
let listening: Awaited<ReturnType<TestApi['listen']>>
let http: HttpTransport
let client: KubeClient
let credentials: Credentials
let renewals: boolean[]
const answers: string[] = []

beforeEach(async () => {
  api = new TestApi()
  listening = await api.listen()
  credentials = { headers: { authorization: 'Bearer t1' }, tls: {} }
  renewals = []
  answers.length = 0
  const cluster: Cluster = {
    server: listening.url,
    namespace: undefined,
    credentials: async renew => {
      renewals.push(renew)
      return credentials
    },
  }
  http = httpTransport(cluster)
  client = createClient({
    transport: http.send,
    onAnswer: (method, code) => answers.push(`${method} ${code}`),
  })
})
afterEach(async () => {
  http.close()
  await listening.close()
})

const errorOf = async (promise: Promise<unknown>): Promise<KubeError> => {
  const error = await promise.then(
    () => expect.unreachable('it succeeded'),
    thrown => thrown,
  )
  expect(error).toBeInstanceOf(KubeError)
  return error
}

describe('objects', () => {
  test('are made, read, changed, listed and deleted', async () => {
    const made = await client.create(THINGS, thing('one', { size: 1 }))
    expect(made.metadata.uid).toBe('uid-1')
    expect(await client.get(THINGS, a)).toEqual(made)
    const patched = await client.patch(THINGS, a, 'merge', { spec: { size: 2 } })
    expect(patched.spec).toEqual({ size: 2 })
    const updated = await client.update(THINGS, { ...patched, spec: { size: 3 } })
    expect(updated.spec).toEqual({ size: 3 })
    expect((await client.list(THINGS, { namespace: 'a' })).items).toHaveLength(1)
    expect((await client.list(THINGS)).items).toHaveLength(1)
    await client.delete(THINGS, a, { preconditions: { uid: 'uid-1' } })
    expect(await client.find(THINGS, a)).toBeUndefined()
    expect(api.requests).toEqual([
      'POST /apis/x.dev/v1/namespaces/a/things',
      'GET /apis/x.dev/v1/namespaces/a/things/one',
      'PATCH /apis/x.dev/v1/namespaces/a/things/one',
      'PUT /apis/x.dev/v1/namespaces/a/things/one',
      'GET /apis/x.dev/v1/namespaces/a/things',
      'GET /apis/x.dev/v1/things',
      'DELETE /apis/x.dev/v1/namespaces/a/things/one',
      'GET /apis/x.dev/v1/namespaces/a/things/one',
    ])
    expect(answers.at(0)).toBe('POST 201')
    expect(answers.at(-1)).toBe('GET 404')
  })

  test('a name never becomes part of the path', async () => {
    await client.find(THINGS, { namespace: 'a', name: 'x/../y?z#' })
    expect(api.requests).toEqual(['GET /apis/x.dev/v1/namespaces/a/things/x%2F..%2Fy%3Fz%23'])
    for (const name of ['', '.', '..'])
      await expect(async () => client.get(THINGS, { ...a, name })).rejects.toThrow(TypeError)
    await expect(async () => client.get(THINGS, { name: 'x' })).rejects.toThrow('none is given')
  })

  test('a server that has the kind in this version says so', async () => {
    api.faults = [{ kind: 'status', status: 404 }]
    expect(await client.serves(THINGS)).toBe(false)
    expect(api.requests).toEqual(['GET /apis/x.dev/v1'])
  })
})

describe('what is refused', () => {
  test('has the reason for its code', async () => {
    await client.create(THINGS, thing('one'))
    const error = await errorOf(client.create(THINGS, thing('one')))
    expect(error).toMatchObject({ code: 'AlreadyExists', status: 409 })
    expect(error.message).toBe(
      'POST /apis/x.dev/v1/namespaces/a/things was refused with 409 AlreadyExists: It is AlreadyExists.',
    )
    const stale = client.patch(THINGS, a, 'merge', { metadata: { resourceVersion: '1' } })
    expect(hasCode(await errorOf(stale), 'Conflict')).toBe(true)
  })

  test('without a reason it is that of the status', async () => {
    api.faults = [{ kind: 'garbage', text: '<html>' }]
    expect(await errorOf(client.get(THINGS, a))).toMatchObject({ code: 'NotFound', status: 404 })
  })

  test('an answer that is no JSON, or half of one, is no answer', async () => {
    await client.create(THINGS, thing('one'))
    api.faults = [
      { kind: 'garbage', text: '<' },
      { kind: 'truncate', bytes: 20 },
      { kind: 'cut', bytes: 20 },
    ]
    expect((await errorOf(client.get(THINGS, a))).code).toBe('InvalidResponse')
    expect((await errorOf(client.get(THINGS, a))).code).toBe('InvalidResponse')
    expect((await errorOf(client.get(THINGS, a))).code).toBe('Unreachable')
  })

  test('a server that is not there', async () => {
    api.faults = [{ kind: 'refuse' }]
    const error = await errorOf(client.patch(THINGS, a, 'merge', {}))
    expect(error).toMatchObject({ code: 'Unreachable', status: 0 })
    expect(error.cause).toBeInstanceOf(Error)
    expect(answers).toEqual(['PATCH <error>'])
  })
})

describe('patience', () => {
  test('what the server puts off is asked again when it wants it', async () => {
    await client.create(THINGS, thing('one'))
    api.faults = [
      { kind: 'status', status: 429, retryAfter: 0.05 },
      { kind: 'status', status: 503, retryAfter: 0 },
    ]
    const startedAt = performance.now()
    await client.get(THINGS, a)
    expect(performance.now() - startedAt).toBeGreaterThan(40)
    expect(answers).toEqual(['POST 201', 'GET 429', 'GET 503', 'GET 200'])
  })

  test('but not for ever, and not without being told to', async () => {
    api.faults = Array(20).fill({ kind: 'status', status: 429, retryAfter: 0 })
    expect(await errorOf(client.get(THINGS, a))).toMatchObject({
      code: 'Fault',
      status: 429,
      retryAfterMs: 0,
    })
    expect(answers).toHaveLength(11)
    api.faults = [{ kind: 'status', status: 500 }]
    expect((await errorOf(client.get(THINGS, a))).status).toBe(500)
    expect(answers).toHaveLength(12)
  })

  test('a request that gets nothing ends', async () => {
    api.faults = [{ kind: 'silence' }]
    expect(await errorOf(client.get(THINGS, a, { timeoutMs: 50 }))).toMatchObject({
      code: 'RequestTimeout',
      status: 0,
    })
    api.faults = [{ kind: 'status', status: 429, retryAfter: 30 }]
    expect((await errorOf(client.get(THINGS, a, { timeoutMs: 50 }))).code).toBe('RequestTimeout')
  })

  test('a caller who gives up gets his own reason, at once and before', async () => {
    const stop = new AbortController()
    api.faults = [{ kind: 'silence' }]
    const waiting = client.get(THINGS, a, { signal: stop.signal })
    const reason = new Error('enough')
    void expect
      .poll(() => api.requests.length)
      .toBe(1)
      .then(() => stop.abort(reason))
    await expect(waiting).rejects.toBe(reason)
    await expect(client.get(THINGS, a, { signal: stop.signal })).rejects.toBe(reason)
    expect(api.requests).toHaveLength(1)
  })

  test('a bucket holds requests back, in order, and gives back what is not used', async () => {
    const bucket = tokenBucket(50, 2)
    const order: number[] = []
    const never = new AbortController().signal
    const gone = new AbortController()
    const startedAt = performance.now()
    const taken = [0, 1, 2, 3].map(async n => {
      await bucket.take(never)
      order.push(n)
    })
    const given = bucket.take(gone.signal)
    gone.abort(new Error('gone'))
    await expect(given).rejects.toThrow('gone')
    await Promise.all(taken)
    expect(order).toEqual([0, 1, 2, 3])
    // Two at once, then one each 20 ms.
    expect(performance.now() - startedAt).toBeGreaterThan(38)
    await bucket.take(never)
    expect(performance.now() - startedAt).toBeLessThan(1000)
  })
})

describe('credentials', () => {
  test('are asked for before each request, and anew after a refusal', async () => {
    api.faults = [{ kind: 'status', status: 401 }]
    expect((await errorOf(client.get(THINGS, a))).status).toBe(401)
    await client.create(THINGS, thing('one'))
    await client.get(THINGS, a)
    expect(renewals).toEqual([false, true, false])
  })
})
