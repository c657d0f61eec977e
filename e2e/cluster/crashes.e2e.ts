import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { eventually } from '../until.ts'
import { type ClientPod, needClientImage, startClients } from './client.ts'
import { condition, disk, diskPath, filesOfPool, gone, pool, poolPath, ready, uriOf } from './disks.ts'
import { type Cluster, type KubeObject, newNamespace, onCluster, useCluster } from './harness.ts'
import { crashApiServer, crashContainer } from './kill.ts'
import { RELEASE_NAMESPACE } from './release.ts'

const ROUNDS = 20
/** A crash comes so many ms after the round has begun, at most. */
const LATEST = 4000
/** Milliseconds: the kubelet waits longer each time before it starts a container that crashes again and again. */
const PATIENCE = 360_000
const VICTIMS = ['operator', 'agent', 'nbd', 'make', 'apiserver'] as const

let cluster: Cluster
let namespace: Awaited<ReturnType<typeof newNamespace>>
let ns = ''
let client: ClientPod

beforeAll(async () => {
  cluster = await useCluster()
  if (cluster.unavailable !== undefined || cluster.clientImage === '') return
  namespace = await newNamespace(cluster, 'e2e-crashes')
  ns = namespace.name
  ;[client] = (await startClients(cluster, ns, 'client')) as [ClientPod]
  await cluster.apply(pool(ns, 'lab'))
  await ready(cluster, poolPath(ns, 'lab'))
})
afterAll(async () => {
  await namespace?.[Symbol.asyncDispose]()
  await cluster[Symbol.asyncDispose]()
})
beforeEach(context => {
  onCluster(context, cluster, ns, RELEASE_NAMESPACE)
  needClientImage(context, cluster)
})

/** The UUID that mkfs gave the filesystem, and a mark in the middle of the disk, which is written where there is none. */
const IDENTITY = `
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
uuid = h.pread(16, 1024 + 0x68).hex()
mark = h.pread(16, 48 * 2**20)
if mark == bytes(16):
    h.pwrite(sys.argv[2].encode().ljust(16, b'.'), 48 * 2**20, nbd.CMD_FLAG_FUA)
    mark = h.pread(16, 48 * 2**20)
print(uuid, mark.decode())
h.shutdown()
`

const name = (round: number) => `disk-${round}`
const identity = (round: number): Promise<string> =>
  eventually(`${name(round)} can be read`, PATIENCE, async () => {
    const said = await client.python(IDENTITY, uriOf(ns, 'lab', name(round)), `round-${round}`)
    // An API server that is killed may cut the output off without kubectl calling that an error.
    return /^[0-9a-f]{32} \S{16}$/.test(said.trim()) && said
  })

/** Tries again while the API server is away. */
const send = (...request: Parameters<Cluster['send']>): Promise<KubeObject> =>
  eventually('the API server takes a request', PATIENCE, () => cluster.send(...request))

async function create(round: number): Promise<string> {
  const object = disk(ns, name(round), { poolName: 'lab', size: '64Mi' })
  await eventually('the disk is created', PATIENCE, async () => {
    // A request whose answer was lost may have been obeyed.
    if ((await cluster.get(diskPath(ns, name(round)))) === undefined)
      await cluster.send('POST', diskPath(ns, '').slice(0, -1), object)
    return true
  })
  await ready(cluster, diskPath(ns, name(round)), PATIENCE)
  return identity(round)
}

async function grow(round: number, before: string): Promise<void> {
  await send('PATCH', diskPath(ns, name(round)), { spec: { size: '96Mi' } })
  await eventually(`${name(round)} is larger`, PATIENCE, async () => {
    const found = await cluster.get(diskPath(ns, name(round)))
    return found?.status?.size === 96 * 2 ** 20 && condition(found, 'Ready')?.status === 'True'
  })
  expect(await identity(round)).toBe(before)
}

async function remove(round: number): Promise<void> {
  await eventually(`${name(round)} is being deleted`, PATIENCE, async () => {
    const found = await cluster.get(diskPath(ns, name(round)))
    if (found !== undefined && found.metadata.deletionTimestamp === undefined)
      await cluster.send('DELETE', diskPath(ns, name(round)))
    return true
  })
  await gone(cluster, diskPath(ns, name(round)), PATIENCE)
}

const podOf = async (namespace: string, selector: string): Promise<KubeObject | undefined> => {
  const path = `/api/v1/namespaces/${namespace}/pods?labelSelector=${encodeURIComponent(selector)}`
  return (await cluster.get(path))?.items[0]
}

/** Crashes it at a moment of this round; the Pod that makes a disk, as soon as it runs and some ms later. */
async function crash(victim: (typeof VICTIMS)[number], after: number): Promise<void> {
  if (victim === 'make') {
    const selector = 'app.kubernetes.io/component=make'
    for (let attempt = 0; attempt < 100; attempt++) {
      const pod = await podOf(ns, selector).catch(() => undefined)
      if (await crashContainer(cluster, pod, 'make')) return
      await sleep(20 + after / 100)
    }
    return
  }
  await sleep(after)
  if (victim === 'apiserver') await crashApiServer(after / 2)
  else if (victim === 'operator')
    await crashContainer(
      cluster,
      await podOf(RELEASE_NAMESPACE, 'app.kubernetes.io/component=operator'),
      victim,
    )
  else await crashContainer(cluster, await cluster.get(`/api/v1/namespaces/${ns}/pods/lab-0`), victim)
}

/** Victims in an order of chance, each as often as the others. */
function victims(): (typeof VICTIMS)[number][] {
  const kinds = VICTIMS.filter(kind => cluster.own || kind !== 'apiserver')
  const order = Array.from({ length: ROUNDS }, (_, round) => kinds[round % kinds.length] ?? 'operator')
  return order
    .map(victim => ({ victim, at: Math.random() }))
    .sort((one, other) => one.at - other.at)
    .map(({ victim }) => victim)
}

describe('Whatever crashes', () => {
  test('every disk ends Ready or gone, formatted once, and nothing is left over', {
    timeout: 40 * 60_000,
    // What a crash broke once is broken, whatever the next one does.
    retry: 0,
  }, async () => {
    const identities = new Map<number, string>()
    const order = victims()
    // Each round makes a disk, grows the one before and deletes the one before that, while something crashes.
    for (let round = 0; round < ROUNDS + 2; round++) {
      const begin = performance.now()
      const work: Promise<void>[] = []
      if (round < ROUNDS)
        work.push(
          create(round).then(made => {
            identities.set(round, made)
          }),
        )
      const before = identities.get(round - 1)
      if (before !== undefined) work.push(grow(round - 1, before))
      if (round >= 2) work.push(remove(round - 2))
      const victim = order[round]
      const after = Math.random() * LATEST
      if (victim !== undefined) work.push(crash(victim, after))
      // What crashed is there again before anything is said of a failure.
      const failure = (await Promise.allSettled(work)).findLast(ended => ended.status === 'rejected')
      // The last says why what crashed is not there again, which would be why all others failed.
      if (failure !== undefined) throw failure.reason
      process.stdout.write(
        `Round ${round}: ${victim ?? 'nothing'} crashed after ${after.toFixed(0)} ms; ${((performance.now() - begin) / 1000).toFixed(1)} s\n`,
      )
    }
    expect(new Set(identities.values()).size).toBe(ROUNDS)

    expect(await filesOfPool(cluster, ns)).toEqual([])
    const left = async (path: string) =>
      ((await cluster.get(path))?.items ?? []).map(({ metadata }: KubeObject) => metadata.name)
    await eventually('no Job is left', 60_000, async () => {
      return (await left(`/apis/batch/v1/namespaces/${ns}/jobs`)).length === 0
    })
    const maps = await left(`/api/v1/namespaces/${ns}/configmaps`)
    expect(maps.filter((name: string) => name.startsWith('odd-'))).toEqual([])
  })
})
