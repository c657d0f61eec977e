import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { eventually } from '../until.ts'
import { awaitRoutes, type ClientPod, needClientImage, startClients } from './client.ts'
import { disk, diskPath, pool, poolPath, ready, uriOf } from './disks.ts'
import { type Cluster, newNamespace, onCluster, useCluster } from './harness.ts'
import { RELEASE_NAMESPACE } from './release.ts'

/** Milliseconds after the write until a client that is no longer admitted is disconnected. */
const REVOCATION = 2000

let cluster: Cluster
let namespace: Awaited<ReturnType<typeof newNamespace>>
let ns = ''
let a: ClientPod
let b: ClientPod

beforeAll(async () => {
  cluster = await useCluster()
  if (cluster.unavailable !== undefined || cluster.clientImage === '') return
  namespace = await newNamespace(cluster, 'e2e-access')
  ns = namespace.name
  ;[a, b] = (await startClients(cluster, ns, 'a', 'b')) as [ClientPod, ClientPod]
  await cluster.apply(
    pool(ns, 'lab', { access: { allow: [a.ip] } }),
    disk(ns, 'alice', { poolName: 'lab', size: '64Mi' }),
    pool(ns, 'open'),
    disk(ns, 'bob', { poolName: 'open', size: '64Mi', access: { allow: [`${a.ip}/32`] } }),
  )
  for (const name of ['alice', 'bob']) await ready(cluster, diskPath(ns, name))
  await awaitRoutes(a, ns, 'lab', 'open')
})
afterAll(async () => {
  await namespace?.[Symbol.asyncDispose]()
  await cluster[Symbol.asyncDispose]()
})
beforeEach(context => {
  onCluster(context, cluster, ns, RELEASE_NAMESPACE)
  needClientImage(context, cluster)
})

const isAdmitted = (client: ClientPod, uri: string): Promise<boolean> =>
  client.exec('nbdinfo', '--size', uri).then(
    () => true,
    () => false,
  )

describe('Who may connect', () => {
  test.for([
    ['a pool', 'lab', 'alice', () => poolPath(ns, 'lab')],
    ['a disk', 'open', 'bob', () => diskPath(ns, 'bob')],
  ] as const)('by the rules of %s changes while they are connected', async ([, poolName, name, path]) => {
    const uri = uriOf(ns, poolName, name)
    expect(await isAdmitted(b, uri)).toBe(false)
    await using held = await a.hold(uri)

    await cluster.send('PATCH', path(), { spec: { access: { allow: [b.ip] } } })
    const written = performance.now()
    const took = (await held.ended) - written
    process.stdout.write(`Disconnected ${took.toFixed(0)} ms after the write\n`)
    expect(took).toBeLessThan(REVOCATION)
    await eventually('B is admitted', 10_000, () => isAdmitted(b, uri))
    expect(await isAdmitted(a, uri)).toBe(false)
  })

  test('is refused all names where nothing is allowed to them', async () => {
    await expect(a.exec('nbdinfo', '--list', uriOf(ns, 'lab', ''))).rejects.toThrow('nbdinfo')
    expect(await b.exec('nbdinfo', '--list', '--json', uriOf(ns, 'lab', ''))).toContain('alice')
  })
})
