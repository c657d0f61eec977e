/**
 * A reflector on a real API server, over bad lines and through crashes: no change is lost, and it is blind for no
 * longer than it must be.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createClient, type KubeClient } from '../../operator/kube/client.ts'
import { findCluster } from '../../operator/kube/cluster.ts'
import { httpTransport } from '../../operator/kube/http-transport.ts'
import { CONFIG_MAPS, type ConfigMap, NAMESPACES } from '../../operator/kube/objects.ts'
import { startReflector } from '../../operator/kube/reflector.ts'
import type { StoreEvent } from '../../operator/kube/store.ts'
import { type ControlPlane, startControlPlane } from './control-plane.ts'
import { type FaultProxy, startFaultProxy } from './fault-proxy.ts'

let plane: ControlPlane
let client: KubeClient

beforeAll(async () => {
  plane = await startControlPlane()
  client = plane.client
}, 20 * 60_000)
afterAll(async () => {
  await plane?.[Symbol.asyncDispose]()
})

let count = 0
/** A namespace of its own for a test. */
async function newNamespace(): Promise<string> {
  const name = `n${++count}`
  await client.create(NAMESPACES, { apiVersion: 'v1', kind: 'Namespace', metadata: { name } })
  return name
}

const configMap = (namespace: string, name: string, value = ''): ConfigMap => ({
  apiVersion: 'v1',
  kind: 'ConfigMap',
  metadata: { namespace, name },
  data: { value },
})

/** A reflector behind a line that can be made bad. */
async function follow(namespace: string, inactivityMs?: number) {
  const proxy: FaultProxy = await startFaultProxy(Number(plane.server.port))
  const cluster = await findCluster(plane.kubeconfig)
  const transport = httpTransport({ ...cluster, server: new URL(`https://127.0.0.1:${proxy.port}`) })
  const events: StoreEvent<ConfigMap>[] = []
  const reflector = startReflector({
    client: createClient({ transport: transport.send }),
    resource: CONFIG_MAPS,
    namespace,
    onEvent: event => events.push(event),
    ...(inactivityMs !== undefined && { inactivityMs }),
  })
  await reflector.synced
  return {
    proxy,
    reflector,
    events,
    async [Symbol.asyncDispose]() {
      await reflector.stop()
      transport.close()
      await proxy[Symbol.asyncDispose]()
    },
  }
}

type Followed = Awaited<ReturnType<typeof follow>>

/** Waits until the reflector has what the server has, and checks that its events tell of that. */
async function settled({ reflector, events }: Followed, namespace: string): Promise<void> {
  const versions = (items: readonly ConfigMap[]) =>
    items
      .map(({ metadata: { name, uid, resourceVersion } }) => `${name} ${uid} ${resourceVersion}`)
      .toSorted()
  const there = versions((await client.list(CONFIG_MAPS, { namespace })).items)
  await expect.poll(() => versions(reflector.store.list()), { timeout: 40_000, interval: 20 }).toEqual(there)
  const alive = new Map<string, string | undefined>()
  for (const { type, object } of events) {
    const { name, uid } = object.metadata
    expect(alive.get(name), `${type} ${name}`).toBe(type === 'added' ? undefined : uid)
    if (type === 'deleted') alive.delete(name)
    else alive.set(name, uid)
  }
  expect([...alive.keys()].toSorted()).toEqual(
    reflector.store
      .list()
      .map(({ metadata }) => metadata.name)
      .toSorted(),
  )
}

test('1,200 objects come in pages', async () => {
  const namespace = await newNamespace()
  const names = Array.from({ length: 1200 }, (_, n) => `c${n}`)
  for (let start = 0; start < names.length; start += 40) {
    await Promise.all(
      names.slice(start, start + 40).map(name => client.create(CONFIG_MAPS, configMap(namespace, name))),
    )
  }
  await using followed = await follow(namespace)
  expect(followed.reflector.store.size).toBe(1200)
  await settled(followed, namespace)
})

test('a line that is cut again and again, at any byte, loses nothing', async () => {
  const namespace = await newNamespace()
  await using followed = await follow(namespace)
  for (let n = 0; n < 60; n++) {
    // The first bytes are those of the handshake, the later ones those of events.
    followed.proxy.cutAfter(n % 3 === 0 ? 1500 + n * 37 : undefined)
    if (n % 5 === 0) followed.proxy.cut()
    const name = `c${n % 7}`
    const old = await client.find(CONFIG_MAPS, { namespace, name })
    if (!old) await client.create(CONFIG_MAPS, configMap(namespace, name, 'x'.repeat(n * 50)))
    else if (n % 2 === 0) await client.delete(CONFIG_MAPS, { namespace, name })
    else await client.patch(CONFIG_MAPS, old.metadata, 'merge', { data: { value: String(n) } })
  }
  followed.proxy.heal()
  await settled(followed, namespace)
})

test('a line of a few bytes at a time is slow and no more', async () => {
  const namespace = await newNamespace()
  await using followed = await follow(namespace)
  followed.proxy.slow()
  followed.proxy.cut()
  for (let n = 0; n < 5; n++) await client.create(CONFIG_MAPS, configMap(namespace, `c${n}`))
  await settled(followed, namespace)
})

test('a line on which nothing comes any more is left for a new one', async () => {
  const namespace = await newNamespace()
  await using followed = await follow(namespace, 1000)
  await expect.poll(() => followed.proxy.connections).toBeGreaterThan(0)
  followed.proxy.stall()
  await client.create(CONFIG_MAPS, configMap(namespace, 'unseen'))
  // Nobody says that the connections are dead, and they never come to life again.
  await new Promise(resolve => setTimeout(resolve, 300))
  expect(followed.reflector.store.size).toBe(0)
  const dead = followed.proxy.connections
  await expect.poll(() => followed.proxy.connections, { timeout: 20_000 }).not.toBe(dead)
  followed.proxy.heal()
  await settled(followed, namespace)
})

// The second is of a machine that is not busy with all else: it may be tried again.
test('an API server that is killed and started again is seen within a second, with all that has changed', {
  retry: 2,
  timeout: 180_000,
}, async () => {
  const namespace = await newNamespace()
  await using followed = await follow(namespace)
  for (const name of ['kept', 'changed', 'gone', 'again'])
    await client.create(CONFIG_MAPS, configMap(namespace, name))
  await settled(followed, namespace)
  const again = followed.reflector.store.get(namespace, 'again')?.metadata.uid
  // While the line is dead the world goes on, and then the server forgets what it was.
  followed.proxy.stall()
  await client.patch(CONFIG_MAPS, { namespace, name: 'changed' }, 'merge', { data: { value: '1' } })
  await client.delete(CONFIG_MAPS, { namespace, name: 'gone' })
  await client.delete(CONFIG_MAPS, { namespace, name: 'again' })
  await client.create(CONFIG_MAPS, configMap(namespace, 'again'))
  await plane.killApiServer()
  followed.proxy.cut()
  followed.proxy.heal()
  followed.events.length = 4
  await new Promise(resolve => setTimeout(resolve, 2000))
  const started = plane.startApiServer()
  // The first write that the new server takes is when it is back.
  for (let n = 0; ; n++) {
    const made = await client
      .create(CONFIG_MAPS, configMap(namespace, `back${n}`), { timeoutMs: 1000 })
      .catch(() => undefined)
    if (made) break
    await new Promise(resolve => setTimeout(resolve, 10))
  }
  const backAt = performance.now()
  const isBack = () =>
    followed.reflector.store.list().some(({ metadata }) => metadata.name.startsWith('back'))
  await expect.poll(isBack, { timeout: 20_000, interval: 5 }).toBe(true)
  const blindMs = performance.now() - backAt
  await started
  await settled(followed, namespace)
  const told = followed.events.slice(4).map(({ type, object }) => `${type} ${object.metadata.name}`)
  expect(told).toEqual(
    expect.arrayContaining(['updated changed', 'deleted gone', 'deleted again', 'added again']),
  )
  expect(told).not.toContain('updated kept')
  expect(followed.reflector.store.get(namespace, 'again')?.metadata.uid).not.toBe(again)
  expect(blindMs).toBeLessThan(1000)
})
