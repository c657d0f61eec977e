/** What becomes of a volume that is written to while everything but its user is killed. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { CLASS, type CsiCluster, nothingLeft, onCsi, useCsi } from './csi-driver.ts'
import { claim, inPod, PATIENCE, podOf, running } from './csi-workloads.ts'
import { eventually, type KubeObject } from './harness.ts'
import { crashContainer } from './kill.ts'
import { RELEASE_NAMESPACE } from './release.ts'

const ROUNDS = 20
/** A crash comes so many ms after the round has begun, at most. */
const LATEST = 3000

let csi: CsiCluster

beforeAll(async () => {
  csi = await useCsi()
}, 2 * PATIENCE)
afterAll(() => csi[Symbol.asyncDispose](), 2 * PATIENCE)
beforeEach(context => onCsi(context, csi))

/** Writes random places for ever, each block with its own checksum, and reads all of them again. */
const FIO =
  'while :; do fio --name=verify --filename=/data/file --size=24M --bs=4k --rw=randwrite --ioengine=psync --fsync=16' +
  ' --verify=crc32c --verify_fatal=1 --do_verify=1 --loops=1 --rate_iops=400 --output=/tmp/fio >/dev/null 2>/tmp/errors' +
  ' || { cat /tmp/fio /tmp/errors >/tmp/failed; sleep infinity; }; echo done >>/tmp/rounds; done'

async function podNamed(part: string, namespace: string): Promise<KubeObject | undefined> {
  const path = `/api/v1/namespaces/${namespace}/pods?labelSelector=app.kubernetes.io/component%3D${part}`
  const pods: KubeObject[] = (await csi.cluster.get(path))?.items ?? []
  return pods.find(({ metadata }) => !metadata.deletionTimestamp)
}

const VICTIMS = [
  { part: 'csi-node', container: 'csi', namespace: () => RELEASE_NAMESPACE },
  { part: 'csi-controller', container: 'csi', namespace: () => RELEASE_NAMESPACE },
  { part: 'server', container: 'nbd', namespace: () => csi.namespace },
] as const

test(`fio in a pod notices nothing of ${ROUNDS} crashes of node plug-in, controller and server`, {
  timeout: 6 * PATIENCE,
}, async () => {
  const { cluster, namespace: ns } = csi
  const pod = podOf(ns, 'writer', cluster.clientImage)
  pod.spec.containers[0].command = ['sh', '-c', FIO]
  await cluster.apply(claim(ns, 'writer', { storageClass: CLASS }), pod)
  const { metadata } = await running(cluster, ns, 'writer')
  const state = () =>
    inPod(
      cluster,
      ns,
      'writer',
      'cat /tmp/failed 2>/dev/null || true; wc -l </tmp/rounds 2>/dev/null || echo 0',
    )
  const crashed: string[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const victim = VICTIMS[Math.floor(Math.random() * VICTIMS.length)] as (typeof VICTIMS)[number]
    await sleep(Math.random() * LATEST)
    if (await crashContainer(cluster, await podNamed(victim.part, victim.namespace()), victim.container)) {
      crashed.push(victim.part)
    }
    // A plug-in that is upgraded: its pod goes, with all its processes.
    if (round === ROUNDS / 2) {
      const plugIn = await podNamed('csi-node', RELEASE_NAMESPACE)
      await cluster.send('DELETE', `/api/v1/namespaces/${RELEASE_NAMESPACE}/pods/${plugIn?.metadata.name}`)
    }
  }
  expect(crashed.length, crashed.join()).toBeGreaterThan(ROUNDS / 4)
  const done = Number((await state()).trim())
  await eventually(
    'the writer goes on when all is over',
    PATIENCE,
    async () => Number((await state()).trim()) >= done + 2,
  )
  expect(await state()).toMatch(/^\d+\n$/)
  const now = await cluster.get(`/api/v1/namespaces/${ns}/pods/writer`)
  expect(now.metadata.uid).toBe(metadata.uid)
  expect(now.status.containerStatuses[0].restartCount).toBe(0)
  await cluster.send('DELETE', `/api/v1/namespaces/${ns}/pods/writer`)
  await cluster.send('DELETE', `/api/v1/namespaces/${ns}/persistentvolumeclaims/writer`)
  await nothingLeft(csi)
})
