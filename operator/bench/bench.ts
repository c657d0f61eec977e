/**
 * Measures the operator on a real API server without nodes, whose Jobs and agents a stub plays: `npm run
 * bench:operator`. Exits with 1 when a figure is not what it is to be. API server, etcd and the stub share the
 * machine's processors with the operator: the share of each is told.
 */
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { startControlPlane } from '../../e2e/kube/control-plane.ts'
import { startStubNode } from '../../e2e/kube/stub-node.ts'
import { endWithChildren } from '../../server/bench/process.ts'
import type { KubeClient } from '../kube/client.ts'
import { NAMESPACES } from '../kube/objects.ts'
import { startReflector } from '../kube/reflector.ts'
import { DISKS, POOLS } from '../pool/world.ts'
import { FINALIZER } from '../terms/names.ts'
import { asPod } from './as-pod.ts'
import { diskObject, inParallel, makeOldDisks } from './objects.ts'
import { type OperatorProcess, startOperator } from './operator-process.ts'
import { countProcessor } from './processor.ts'
import { failures, remark, report } from './report.ts'
import { measureSpares } from './spare.ts'

const argument = (name: string, otherwise: number) => {
  const index = process.argv.indexOf(`--${name}`)
  return index < 0 ? otherwise : Number(process.argv[index + 1])
}
const NEW_DISKS = argument('disks', 1000)
const ALL_DISKS = argument('all', 10_000)
const IDLE_SECONDS = argument('idle', 60)

const NAMESPACE = 'bench'
/** Disks of the bare requests. */
const BARE = 'bare'
const BARE_DISKS = 500

const isReady = ({ status }: OnDemandDisk) =>
  status?.conditions?.some(({ type, status: is }) => type === 'Ready' && is === 'True') === true

/** Resolves with the seconds until it holds for the disk, seen by a watch. */
function waiter(client: KubeClient) {
  let waiting: {
    readonly holds: (disk: OnDemandDisk) => boolean
    readonly done: () => void
    left: Set<string> | undefined
  }[] = []
  const reflector = startReflector({
    client,
    resource: DISKS,
    namespace: NAMESPACE,
    onEvent({ object }) {
      for (const entry of waiting) {
        if (!entry.left?.has(object.metadata.name) || !entry.holds(object)) continue
        entry.left.delete(object.metadata.name)
        if (entry.left.size === 0) entry.done()
      }
    },
  })
  return {
    store: reflector.store,
    synced: reflector.synced,
    stop: () => reflector.stop(),
    all(
      names: readonly string[],
      holds: (disk: OnDemandDisk) => boolean,
      limitSeconds: number,
    ): Promise<void> {
      const left = new Set(
        names.filter(name => {
          const disk = reflector.store.get(NAMESPACE, name)
          return disk === undefined || !holds(disk)
        }),
      )
      if (left.size === 0) return Promise.resolve()
      return new Promise((resolve, reject) => {
        const timer = setTimeout(
          () => reject(new Error(`${left.size} disks are not there after ${limitSeconds} s.`)),
          limitSeconds * 1000,
        )
        const entry = {
          holds,
          left,
          done: () => {
            clearTimeout(timer)
            waiting = waiting.filter(other => other !== entry)
            resolve()
          },
        }
        waiting.push(entry)
      })
    },
  }
}

const isClaimed = ({ metadata }: OnDemandDisk) => metadata.finalizers?.includes(FINALIZER) === true

async function main(): Promise<void> {
  process.stderr.write('Starting a control plane\n')
  const { GOGC } = process.env
  remark(
    `API server and etcd, whose files are in memory, run with GOGC=${GOGC ?? '100, which is the default'}.`,
  )
  await using plane = await startControlPlane()
  const { client, kubeconfig } = plane
  await using pod = await asPod(kubeconfig)
  await plane.installCrds()
  for (const name of [NAMESPACE, BARE]) {
    await client.create(NAMESPACES, { apiVersion: 'v1', kind: 'Namespace', metadata: { name } })
  }
  const controlPlane = {
    'the API server': await plane.pid('apiserver'),
    etcd: await plane.pid('etcd'),
    'this bench, with its stub of nodes and agents': process.pid,
  }
  process.stderr.write(`${2 * BARE_DISKS} bare requests\n`)
  await makeOldDisks(client, BARE, 'warm', 100)
  const bareAt = performance.now()
  const bareShares = countProcessor(controlPlane)
  await makeOldDisks(client, BARE, 'bare', BARE_DISKS)
  const bare = (2 * BARE_DISKS) / ((performance.now() - bareAt) / 1000)
  report('bare writes of disks, 32 at once, with nobody watching', bare, 'writes/s')
  bareShares(2 * BARE_DISKS)

  const disks = waiter(client)
  await disks.synced
  const operators: OperatorProcess[] = []
  const start = async (...options: string[]) => {
    const operator = await startOperator(pod, options)
    operators.push(operator)
    return operator
  }
  const node = await startStubNode({ client, workers: 16 })
  try {
    await client.create(POOLS, {
      apiVersion: 'ondemanddisk.dev/v1alpha1',
      kind: 'DiskPool',
      metadata: { namespace: NAMESPACE, name: 'lab' },
      spec: { storage: { claimTemplate: { size: '1Ti' } } },
    } as never)

    process.stderr.write(`${NEW_DISKS} new disks\n`)
    const first = await start('--no-leader-election')
    await client.create(DISKS, diskObject(NAMESPACE, 'warm'))
    await disks.all(['warm'], isReady, 60)
    const names = Array.from({ length: NEW_DISKS }, (_, index) => `new-${index}`)
    first.pause()
    await inParallel(NEW_DISKS, 32, index => client.create(DISKS, diskObject(NAMESPACE, names[index] ?? '')))
    const before = await first.requests(true)
    const shares = countProcessor({ 'the operator': first.pid, ...controlPlane })
    const startedAt = performance.now()
    await disks.all(names, isReady, 300)
    const seconds = (performance.now() - startedAt) / 1000
    report(`${NEW_DISKS} disks, Pending to Ready`, NEW_DISKS / seconds, 'disks/s', { atLeast: 50 })
    shares(NEW_DISKS)
    await first.idle()
    const calls = await first.requests(false)
    const each = (method: string) => ((calls[method] ?? 0) - (before[method] ?? 0)) / NEW_DISKS
    report(
      'requests of the operator for each disk',
      Object.keys(calls).reduce((sum, method) => sum + each(method), 0),
      '',
    )
    for (const method of Object.keys(calls)) report(`  ${method}`, each(method), '')
    report('  beside them the Job and the disk as nodes and agents write them', 2, '')
    report('resident memory of the operator after that', first.memory().resident / 1e6, 'MB')
    await first.kill()
    await node.stop()

    process.stderr.write(`${ALL_DISKS} disks that are there\n`)
    await makeOldDisks(client, NAMESPACE, 'old', ALL_DISKS - NEW_DISKS - BARE_DISKS - 101)
    const startedColdAt = performance.now()
    const starting = start('--no-leader-election')
    await client.create(DISKS, diskObject(NAMESPACE, 'first'))
    await disks.all(['first'], isClaimed, 120)
    report(
      `first new disk beside ${ALL_DISKS}, from a cold start`,
      (performance.now() - startedColdAt) / 1000,
      's',
      { atMost: 10 },
    )
    const second = await starting
    await second.idle()
    const quiet = await second.requests(false)
    process.stderr.write(`Idle for ${IDLE_SECONDS} s\n`)
    await new Promise(resolve => setTimeout(resolve, IDLE_SECONDS * 1000))
    const after = await second.requests(false)
    const writes = ['POST', 'PUT', 'PATCH', 'DELETE'].reduce(
      (sum, method) => sum + (after[method] ?? 0) - (quiet[method] ?? 0),
      0,
    )
    report(`writes in ${IDLE_SECONDS} idle seconds`, writes, '', { atMost: 0 })
    report(`resident memory with ${ALL_DISKS} disks`, second.memory().resident / 1e6, 'MB', { atMost: 250 })
    report('  at its highest', second.memory().highest / 1e6, 'MB')
    if (pod.caveat !== undefined) remark(`  ${pod.caveat}`)
    await second.kill()

    process.stderr.write('The leader is killed\n')
    const elected = ['--lease-namespace', NAMESPACE]
    const leader = await start(...elected)
    await leader.leading
    await start(...elected)
    const killedAt = performance.now()
    await leader.kill()
    await client.create(DISKS, diskObject(NAMESPACE, 'orphan'))
    await disks.all(['orphan'], isClaimed, 120)
    report('the next acts after the leader was killed', (performance.now() - killedAt) / 1000, 's', {
      atMost: 20,
    })
  } finally {
    await Promise.allSettled(operators.map(operator => operator.kill()))
    await node.stop().catch(() => {})
    await disks.stop()
  }
}

endWithChildren()
if (process.argv.includes('--only-spares')) await measureSpares()
else {
  await main()
  await measureSpares()
}
if (failures.length > 0) {
  process.stderr.write(`Not kept: ${failures.join('; ')}\n`)
  process.exitCode = 1
}
