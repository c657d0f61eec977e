import fc from 'fast-check'
import { afterEach, expect, test } from 'vitest'
import { createClient } from './client.ts'
import { type HttpTransport, httpTransport } from './http-transport.ts'
import type { KubeObject, Resource } from './objects.ts'
import { type Reflector, type ReflectorTerms, startReflector } from './reflector.ts'
import { keyOf, type StoreEvent } from './store.ts'
import { type Fault, TestApi } from './test-api.ts'

const THINGS: Resource = { group: '', version: 'v1', kind: 'Thing', plural: 'things', namespaced: true }
const thing = (name: string, value = 0) => ({ metadata: { name, namespace: 'a' }, value })

const open: (() => unknown)[] = []
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close()
})

interface Followed {
  readonly api: TestApi
  readonly reflector: Reflector<KubeObject>
  readonly events: StoreEvent<KubeObject>[]
  readonly warnings: string[]
}

/** A reflector that follows a test server over HTTP. */
async function follow(api: TestApi, terms: Partial<ReflectorTerms<KubeObject>> = {}): Promise<Followed> {
  const server = await api.listen()
  const http: HttpTransport = httpTransport({
    server: server.url,
    namespace: undefined,
    credentials: async () => ({ headers: {}, tls: {} }),
  })
  const events: StoreEvent<KubeObject>[] = []
  const warnings: string[] = []
  const log = {
    error: () => {},
    warn: (_: object, text: string) => warnings.push(text),
    info: () => {},
    debug: () => {},
  }
  const reflector = startReflector({
    client: createClient({ transport: http.send }),
    resource: THINGS,
    onEvent: event => events.push(event),
    pageSize: 3,
    log,
    ...terms,
  })
  open.push(
    () => server.close(),
    () => http.close(),
    () => reflector.stop(),
  )
  return { api, reflector, events, warnings }
}

/** Waits until the store holds what the server holds. */
async function settled({ api, reflector }: Followed): Promise<void> {
  const versions = (objects: readonly KubeObject[]) =>
    objects
      .map(object => `${keyOf(object)} ${object.metadata.uid} ${object.metadata.resourceVersion}`)
      .toSorted()
  await expect
    .poll(() => versions(reflector.store.list()), { timeout: 20_000, interval: 5 })
    .toEqual(versions(api.objects))
}

test('a list in pages, then the news', async () => {
  const api = new TestApi()
  for (let n = 0; n < 8; n++) api.put(thing(`t${n}`))
  const followed = await follow(api)
  await followed.reflector.synced
  expect(followed.events).toHaveLength(8)
  expect(followed.events.every(event => event.type === 'added' && event.initial)).toBe(true)
  // What the API server leaves out of lists is there all the same, and what nobody reads is not.
  expect(followed.reflector.store.get('a', 't0')).toMatchObject({ apiVersion: 'v1', kind: 'Thing' })
  expect(followed.reflector.store.get('a', 't0')?.metadata).not.toHaveProperty('managedFields')
  api.put(thing('t0', 1))
  api.remove('t1', 'a')
  api.put(thing('t1'))
  await settled(followed)
  expect(followed.events.slice(8).map(({ type, object }) => `${type} ${object.metadata.name}`)).toEqual([
    'updated t0',
    'deleted t1',
    'added t1',
  ])
  const lists = api.requests.filter(request => !request.includes('watch'))
  expect(lists.map(request => new URL(request.slice(4), 'http://x').search)).toEqual([
    '?limit=3',
    '?limit=3&continue=108-5',
    '?limit=3&continue=108-2',
  ])
  expect(api.requests.at(-1)).toMatch(
    /\?watch=true&allowWatchBookmarks=true&resourceVersion=108&timeoutSeconds=\d{3}$/,
  )
})

test('a list that takes longer than its state is kept is made in one piece', async () => {
  const api = new TestApi()
  for (let n = 0; n < 5; n++) api.put(thing(`t${n}`))
  api.mayFail = request => request.includes('continue')
  api.faults = [{ kind: 'status', status: 410 }]
  const followed = await follow(api)
  await followed.reflector.synced
  await settled(followed)
  expect(api.requests[2]).toBe('GET /api/v1/things')
  expect(followed.events).toHaveLength(5)
})

test('a watch from a state that the server has forgotten becomes a list, and its changes are seen', async () => {
  const api = new TestApi()
  for (const name of ['kept', 'changed', 'gone', 'again']) api.put(thing(name))
  const followed = await follow(api)
  await followed.reflector.synced
  await expect.poll(() => api.requests.length).toBe(3)
  followed.events.length = 0
  // The watch is cut off by the next thing that comes, and meanwhile the world goes on.
  api.mayFail = request => request.includes('watch')
  api.faults = [{ kind: 'refuse' }]
  const again = await follow(api)
  await again.reflector.synced
  api.put(thing('changed', 1))
  api.remove('gone', 'a')
  api.remove('again', 'a')
  api.put(thing('again'))
  api.compact()
  await settled(again)
  expect(
    again.events
      .slice(4)
      .map(({ type, object }) => `${type} ${object.metadata.name}`)
      .toSorted(),
  ).toEqual(['added again', 'deleted again', 'deleted gone', 'updated changed'])
})

test('a peer that says nothing is left after a while', async () => {
  const api = new TestApi()
  api.put(thing('x'))
  api.mayFail = request => request.includes('watch')
  api.faults = [{ kind: 'silence' }]
  const followed = await follow(api, { inactivityMs: 300 })
  await followed.reflector.synced
  api.put(thing('x', 1))
  await settled(followed)
  expect(followed.warnings.length).toBeGreaterThan(0)
})

test('news that cannot be taken do not stop the news', async () => {
  const api = new TestApi()
  let calls = 0
  const followed = await follow(api, {
    onEvent: () => {
      calls++
      throw new Error('no')
    },
  })
  await followed.reflector.synced
  api.put(thing('x'))
  api.put(thing('y'))
  await settled(followed)
  expect(calls).toBe(2)
})

test('it can be stopped at any time, and says so to who waits', async () => {
  const api = new TestApi()
  api.faults = Array(1000).fill({ kind: 'refuse' })
  const { reflector } = await follow(api)
  await new Promise(resolve => setTimeout(resolve, 120))
  expect(reflector.isSynced).toBe(false)
  await reflector.stop()
  await expect(reflector.synced).rejects.toThrow('stopped')
})

test('a server that is away is tried often, one that refuses ever less', async () => {
  const api = new TestApi()
  api.faults = Array(4).fill({ kind: 'status', status: 500 })
  const startedAt = performance.now()
  const followed = await follow(api)
  await followed.reflector.synced
  // 50 + 100 + 200 + 400 ms, each less up to half.
  expect(performance.now() - startedAt).toBeGreaterThan(370)
  expect(followed.warnings.length).toBeGreaterThan(1)
})

test('whatever the connection does, no change is lost', async () => {
  const fault: fc.Arbitrary<Fault> = fc.oneof(
    fc.constant<Fault>({ kind: 'refuse' }),
    fc.record({
      kind: fc.constant('status' as const),
      status: fc.constantFrom(401, 403, 410, 429, 500, 503),
    }),
    fc.record({ kind: fc.constant('cut' as const), bytes: fc.integer({ min: 0, max: 600 }) }),
    fc.record({ kind: fc.constant('truncate' as const), bytes: fc.integer({ min: 0, max: 600 }) }),
    fc.record({
      kind: fc.constant('garbage' as const),
      text: fc.constantFrom('{', '<html>\n', '{}\n', '\0\n', '{"a":1}'),
    }),
    fc.constant<Fault>({ kind: 'silence' }),
  )
  const name = fc.constantFrom('v', 'w', 'x', 'y', 'z')
  const step = fc.oneof(
    { weight: 5, arbitrary: fc.record({ do: fc.constant('put' as const), name }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('remove' as const), name }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('fault' as const), fault }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('compact' as const) }) },
    {
      weight: 3,
      arbitrary: fc.record({ do: fc.constant('wait' as const), ms: fc.integer({ min: 0, max: 15 }) }),
    },
  )
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 30 }), async steps => {
      const api = new TestApi()
      for (const first of ['v', 'w', 'x', 'y']) api.put(thing(first))
      const followed = await follow(api, { inactivityMs: 250, pageSize: 2, firstDelayMs: 1 })
      let value = 0
      for (const step of steps) {
        if (step.do === 'put') api.put(thing(step.name, ++value))
        else if (step.do === 'remove') api.remove(step.name, 'a')
        else if (step.do === 'fault') api.faults.push(step.fault)
        else if (step.do === 'compact') api.compact()
        else await new Promise(resolve => setTimeout(resolve, step.ms))
      }
      await followed.reflector.synced
      await settled(followed)
      // The events tell of objects that begin once, end once, and are as they are now.
      const alive = new Map<string, string>()
      for (const { type, object } of followed.events) {
        const uid = object.metadata.uid ?? ''
        expect(alive.get(keyOf(object))).toBe(type === 'added' ? undefined : uid)
        if (type === 'deleted') alive.delete(keyOf(object))
        else alive.set(keyOf(object), uid)
      }
      expect(alive.size).toBe(api.objects.length)
      for (const close of open.splice(0).reverse()) await close()
    }),
    // A failure takes as long as the waiting for what does not come: to shrink it would take minutes.
    { numRuns: 20, endOnFailure: true },
  )
})
