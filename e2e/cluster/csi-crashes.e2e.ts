/** What becomes of volumes that are written to, made and deleted while everything but their users is killed. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { randomFrom } from '../random.ts'
import { eventually } from '../until.ts'
import { CLASS, type CsiCluster, nothingLeft, onCsi, useCsi } from './csi-driver.ts'
import { claim, inPod, PATIENCE, podOf, running } from './csi-workloads.ts'
import type { KubeObject } from './harness.ts'
import { crashContainer } from './kill.ts'
import { RELEASE_NAMESPACE } from './release.ts'

const ROUNDS = 20
/** A crash comes so many ms after the one before, at most; later if its victim has not come back. */
const LATEST = 3000
/** The same order and pauses each time; which moment they hit is left to the machine. */
const SEED = 20260101

let csi: CsiCluster

beforeAll(async () => {
  csi = await useCsi()
}, 2 * PATIENCE)
afterAll(() => csi[Symbol.asyncDispose](), 2 * PATIENCE)
beforeEach(context => onCsi(context, csi))

/**
 * Every block says where it belongs and in which pass it was written, so that a write that was lost is found, too: by
 * checksums alone fio takes what an earlier pass wrote for good.
 */
const FIO =
  'fio --name=verify --filename=/data/file --size=12M --bs=4k --rw=randwrite --ioengine=psync --direct=1 --fsync=16' +
  ' --rate_iops=400 --verify=pattern --verify_pattern="%o\\"pass $pass\\"" --verify_fatal=1 --do_verify=1'

const WRITER = `
pass=1
while [ ! -e /tmp/stop ]; do
  ${FIO} >/tmp/fio 2>&1 || { mv /tmp/fio /tmp/failed; sleep infinity; }
  echo $pass >/tmp/passes.new
  mv /tmp/passes.new /tmp/passes
  pass=$((pass + 1))
done
touch /tmp/over
sleep infinity`

interface Victim {
  readonly part: string
  readonly container: string
  readonly namespace: string
}

const kindsOf = ({ namespace }: CsiCluster): readonly Victim[] => [
  { part: 'csi-node', container: 'csi', namespace: RELEASE_NAMESPACE },
  { part: 'csi-controller', container: 'csi', namespace: RELEASE_NAMESPACE },
  { part: 'server', container: 'nbd', namespace },
]

/** Each kind as often as the others, in an order of chance. */
const inSomeOrder = (kinds: readonly Victim[], random: () => number): readonly Victim[] =>
  Array.from({ length: ROUNDS }, (_, round) => kinds[round % kinds.length] as Victim)
    .map(victim => ({ victim, at: random() }))
    .sort((one, other) => one.at - other.at)
    .map(({ victim }) => victim)

async function podOfVictim({ part, namespace }: Victim): Promise<KubeObject | undefined> {
  const path = `/api/v1/namespaces/${namespace}/pods?labelSelector=app.kubernetes.io/component%3D${part}`
  const pods: KubeObject[] = (await csi.cluster.get(path))?.items ?? []
  return pods.find(({ metadata }) => !metadata.deletionTimestamp)
}

/**
 * The kubelet lets a container that has crashed often wait, longer each time, up to minutes. Its pod is replaced then, with
 * all that is in it, as an upgrade or the loss of a node does.
 */
async function replaceIfWaiting(victim: Victim): Promise<void> {
  const pod = await podOfVictim(victim)
  const status = pod?.status.containerStatuses?.find(({ name }: KubeObject) => name === victim.container)
  if (status?.state?.waiting?.reason !== 'CrashLoopBackOff') return
  await csi.cluster.kubectl([
    ...['delete', 'pod', '-n', victim.namespace, pod?.metadata.name],
    ...['--grace-period=0', '--force', '--wait=false', '--ignore-not-found'],
  ])
}

/** Waits until it is there again, as ready as before. */
const isBack = (victim: Victim) =>
  eventually(`${victim.part} is back`, PATIENCE, async () => {
    const pod = await podOfVictim(victim)
    const isReady = pod?.status.containerStatuses?.every(({ ready }: KubeObject) => ready)
    if (!isReady) await replaceIfWaiting(victim)
    return isReady
  })

/** Kills it, once it runs. */
const crash = (victim: Victim) =>
  eventually(`${victim.part} is killed`, PATIENCE, async () => {
    if (await crashContainer(csi.cluster, await podOfVictim(victim), victim.container)) return true
    await replaceIfWaiting(victim)
    return false
  })

test(`${ROUNDS} crashes of node plug-in, controller and server, and no volume notices`, {
  timeout: 6 * PATIENCE,
  // What a crash broke once is broken, whatever the next one does.
  retry: 0,
}, async () => {
  const { cluster, namespace: ns } = csi
  const path = (kind: string, name: string) => `/api/v1/namespaces/${ns}/${kind}/${name}`
  const remove = async (name: string) => {
    await cluster.send('DELETE', path('pods', name))
    await cluster.send('DELETE', path('persistentvolumeclaims', name))
  }
  const random = randomFrom(SEED)
  const pod = podOf(ns, 'writer', cluster.clientImage)
  pod.spec.containers[0].command = ['sh', '-c', WRITER]
  await cluster.apply(claim(ns, 'writer', { storageClass: CLASS }), pod)
  const { metadata } = await running(cluster, ns, 'writer')
  /** How often all has been written and found again. Throws what fio said when it failed. */
  const passes = async (): Promise<number> => {
    const command = 'if [ -e /tmp/failed ]; then cat /tmp/failed; else cat /tmp/passes || echo 0; fi'
    const said = (await inPod(cluster, ns, 'writer', command)).trim()
    expect(said).toMatch(/^\d+$/)
    return Number(said)
  }

  let isOver = false
  /** Volumes that are made, used and deleted meanwhile. */
  const churning = (async () => {
    let count = 0
    for (; !isOver; count++) {
      const name = `churn-${count}`
      await cluster.apply(
        claim(ns, name, { size: '16Mi', storageClass: CLASS }),
        podOf(ns, name, cluster.clientImage),
      )
      await running(cluster, ns, name)
      await inPod(cluster, ns, name, 'echo kept >/data/file; sync /data/file; cat /data/file')
      await remove(name)
    }
    return count
  })()
  churning.catch(() => undefined)

  const kinds = kindsOf(csi)
  for (const [round, victim] of inSomeOrder(kinds, random).entries()) {
    await sleep(random() * LATEST)
    for (const kind of kinds) await replaceIfWaiting(kind)
    await crash(victim)
    const count = await passes()
    process.stdout.write(`Round ${round}: ${victim.part} crashed; the writer has made ${count} passes\n`)
  }
  for (const kind of kinds) await isBack(kind)
  isOver = true
  expect(await churning).toBeGreaterThan(0)
  const before = await passes()
  await eventually('the writer goes on', PATIENCE, async () => (await passes()) >= before + 2)
  await inPod(cluster, ns, 'writer', 'touch /tmp/stop')
  await eventually('the writer is done', PATIENCE, () => inPod(cluster, ns, 'writer', 'ls /tmp/over'))
  const last = await passes()
  const now = await cluster.get(path('pods', 'writer'))
  expect(now.metadata.uid).toBe(metadata.uid)
  expect(now.status.containerStatuses[0].restartCount).toBe(0)

  // What the disk holds, when nothing of it is in any cache of the node.
  await cluster.send('DELETE', path('pods', 'writer'))
  await eventually('the writer is gone', PATIENCE, async () => !(await cluster.get(path('pods', 'writer'))))
  await cluster.apply(podOf(ns, 'writer', cluster.clientImage))
  await running(cluster, ns, 'writer')
  await inPod(cluster, ns, 'writer', `cd /tmp; pass=${last}; ${FIO} --verify_only`)
  await remove('writer')
  await nothingLeft(csi)
})
