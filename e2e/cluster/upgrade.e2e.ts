/** The release while its disks are in use: upgraded, rolled back, told to look after one namespace only, and uninstalled. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Ended } from '../harness.ts'
import { eventually } from '../until.ts'
import { awaitRoutes, type ClientPod, needClientImage, startClients } from './client.ts'
import { disk, diskPath, gone, PATIENCE, pool, ready, uriOf } from './disks.ts'
import { type Cluster, newNamespace, onCluster, useCluster } from './harness.ts'
import { install, RELEASE, RELEASE_NAMESPACE, uninstall } from './release.ts'

const MARK = 'written before'

let cluster: Cluster
let namespace: Awaited<ReturnType<typeof newNamespace>> | undefined
let ns = ''
let client: ClientPod
let isAsBefore = true

beforeAll(async () => {
  cluster = await useCluster()
  if (cluster.unavailable !== undefined || cluster.clientImage === '') return
  namespace = await newNamespace(cluster, 'e2e-upgrade')
  ns = namespace.name
  await cluster.apply(pool(ns, 'lab'), disk(ns, 'kept', { poolName: 'lab', size: '64Mi' }))
  ;[client] = (await startClients(cluster, ns, 'client')) as [ClientPod]
  await ready(cluster, diskPath(ns, 'kept'))
  await awaitRoutes(client, ns, 'lab')
  await client.python(
    'import nbd, sys; h = nbd.NBD(); h.connect_uri(sys.argv[1]); h.pwrite(sys.argv[2].encode().ljust(512), 8 << 20); h.flush()',
    uriOf(ns, 'lab', 'kept'),
    MARK,
  )
}, 300_000)

afterAll(async () => {
  // Other files count on the release as setup.ts left it, and the namespace's disks on an operator.
  if (!isAsBefore) await install(cluster)
  await namespace?.[Symbol.asyncDispose]()
  await cluster[Symbol.asyncDispose]()
}, 600_000)

beforeEach(context => {
  onCluster(context, cluster, ns, RELEASE_NAMESPACE)
  needClientImage(context, cluster)
})

/** Somebody looks after the namespace: a new disk becomes ready, and goes when it is deleted. */
async function isLookedAfter(name: string): Promise<void> {
  await cluster.apply(disk(ns, name, { poolName: 'lab', size: '16Mi' }))
  await ready(cluster, diskPath(ns, name))
  await cluster.send('DELETE', diskPath(ns, name))
  await gone(cluster, diskPath(ns, name))
}

/** Runs `work` beside a client that keeps the disk open: that is not disconnected, and its server's pod is not replaced. */
async function beside(work: () => Promise<void>): Promise<void> {
  const serverPod = async () => (await cluster.get(`/api/v1/namespaces/${ns}/pods/lab-0`))?.metadata.uid
  const pod = await serverPod()
  await using held = await client.hold(uriOf(ns, 'lab', 'kept'))
  let isCutOff = false
  held.ended.then(() => {
    isCutOff = true
  })
  await work()
  expect([isCutOff, await serverPod()]).toEqual([false, pod])
}

function succeeded({ status, stdout, stderr }: Ended): void {
  expect(`${status} ${stdout}${stderr}`).toMatch(/^0 /)
}

describe('A release whose disks are in use', () => {
  test('is upgraded to look after one namespace only, and rolled back', { timeout: 600_000 }, async () => {
    await using other = await newNamespace(cluster, 'e2e-unwatched')
    const elsewhere = diskPath(other.name, 'alone')
    await beside(async () => {
      isAsBefore = false
      await install(cluster, `watchNamespace=${ns}`)
      // Without a pool: that it is missing is told by an operator that sees the disk.
      await cluster.apply(disk(other.name, 'alone', { poolName: 'lab', size: '16Mi' }))
      await isLookedAfter('upgraded')
      const alone = await cluster.get(elsewhere)
      expect([alone?.metadata.finalizers, alone?.status]).toEqual([undefined, undefined])
      succeeded(
        await cluster.helm([
          ...['rollback', RELEASE, '--namespace', RELEASE_NAMESPACE, '--wait', '--timeout', '120s'],
        ]),
      )
      isAsBefore = true
      await eventually('the other namespace is looked after', PATIENCE, async () => {
        const found = await cluster.get(elsewhere)
        return found?.status?.conditions?.length > 0
      })
      await isLookedAfter('rolled-back')
    })
  })

  test('is uninstalled with allowWithDisks, and taken over by the next one', {
    timeout: 600_000,
  }, async () => {
    await beside(async () => {
      isAsBefore = false
      await install(cluster, 'uninstall.allowWithDisks=true')
      succeeded(await uninstall(cluster.kubeconfig))
      expect((await cluster.get(diskPath(ns, 'kept')))?.metadata.deletionTimestamp).toBeUndefined()
      await install(cluster)
      isAsBefore = true
      await isLookedAfter('after')
      await ready(cluster, diskPath(ns, 'kept'))
    })
    const found = await client.python(
      'import nbd, sys; h = nbd.NBD(); h.connect_uri(sys.argv[1]); print(h.pread(512, 8 << 20).decode())',
      uriOf(ns, 'lab', 'kept'),
    )
    expect(found.trim()).toBe(MARK)
  })
})
