/**
 * Measures the operator on a real API server without nodes, whose Jobs and agents a stub plays: `npm run
 * bench:operator`. Exits with 1 when a figure is not what it is to be. The operator's memory includes what reading a
 * kubeconfig takes, which a Pod does not need.
 */
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { installCrds, startControlPlane } from '../../e2e/kube/control-plane.ts'
import { startStubNode } from '../../e2e/kube/stub-node.ts'
import type { KubeClient } from '../kube/client.ts'
import { NAMESPACES } from '../kube/objects.ts'
import { startReflector } from '../kube/reflector.ts'
import { DISKS, POOLS } from '../pool/world.ts'
import { ACCEPTED_ANNOTATION, FINALIZER, POOL_LABEL } from '../terms/names.ts'
import { type OperatorProcess, startOperator } from './operator-process.ts'

const argument = (name: string, otherwise: number) => {
  const index = process.argv.indexOf(`--${name}`)
  return index < 0 ? otherwise : Number(process.argv[index + 1])
}
const NEW_DISKS = argument('disks', 1000)
const ALL_DISKS = argument('all', 10_000)
const IDLE_SECONDS = argument('idle', 60)

const NAMESPACE = 'bench'
const failures: string[] = []

function report(
  what: string,
  value: number,
  unit: string,
  promise: { atLeast?: number; atMost?: number },
): void {
  const { atLeast, atMost } = promise
  const isKept = value >= (atLeast ?? value) && value <= (atMost ?? value)
  const wanted =
    atLeast === undefined ? (atMost === undefined ? '' : `at most ${atMost}`) : `at least ${atLeast}`
  process.stdout.write(
    `${what.padEnd(64)} ${value.toFixed(value < 100 ? 1 : 0).padStart(8)} ${unit.padEnd(10)} ${wanted}${isKept ? '' : '  NOT KEPT'}\n`,
  )
  if (!isKept) failures.push(what)
}

/** Runs so many of them at once. */
async function inParallel(
  count: number,
  atOnce: number,
  run: (index: number) => Promise<unknown>,
): Promise<void> {
  let next = 0
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      while (next < count) await run(next++)
    }),
  )
}

const diskObject = (name: string, metadata: object = {}) =>
  ({
    apiVersion: 'ondemanddisk.dev/v1alpha1',
    kind: 'OnDemandDisk',
    metadata: { namespace: NAMESPACE, name, ...metadata },
    spec: { poolName: 'lab', size: '8Mi', filesystem: { type: 'ext4' } },
  }) as unknown as OnDemandDisk

const isReady = ({ status }: OnDemandDisk) =>
  status?.conditions?.some(({ type, status: is }) => type === 'Ready' && is === 'True') === true

/** Disks as the operator and an agent have left them long ago. */
async function makeOldDisks(client: KubeClient, count: number): Promise<void> {
  const accepted = JSON.stringify({ poolName: 'lab', mode: 'Persistent', filesystem: { type: 'ext4' } })
  await inParallel(count, 32, async index => {
    const name = `old-${index}`
    const own = JSON.stringify({ ...JSON.parse(accepted), exportName: name })
    const object = await client.create(
      DISKS,
      diskObject(name, {
        finalizers: [FINALIZER],
        labels: { [POOL_LABEL]: 'lab' },
        annotations: { [ACCEPTED_ANNOTATION]: own },
      }),
    )
    const condition = (type: string, reason: string, message: string) => ({
      ...{ type, status: 'True', reason, message, observedGeneration: 1 },
      lastTransitionTime: '2026-01-01T00:00:00Z',
    })
    const made = 'The disk has been made. It will never be formatted again.'
    const status = {
      ...{
        observedGeneration: 1,
        attempts: 1,
        size: 8 * 2 ** 20,
        connections: 0,
        filesystem: 'ext4',
        uri: `nbd://stub/${name}`,
      },
      conditions: [
        condition('Provisioned', 'Formatted', made),
        condition('Formatted', 'Formatted', made),
        condition('Ready', 'Ready', 'Clients can use the disk.'),
        condition('Exported', 'Serving', 'Clients can connect.'),
      ],
    }
    await client.patch(DISKS, object.metadata, 'merge', { status }, { subresource: 'status' })
  })
}

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
        names.filter(
          name => !reflector.store.list().some(disk => disk.metadata.name === name && holds(disk)),
        ),
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
  await using plane = await startControlPlane()
  const { client, kubeconfig } = plane
  await installCrds(client)
  await client.create(NAMESPACES, { apiVersion: 'v1', kind: 'Namespace', metadata: { name: NAMESPACE } })
  const disks = waiter(client)
  await disks.synced
  const operators: OperatorProcess[] = []
  const start = async (...options: string[]) => {
    const operator = await startOperator(kubeconfig, options)
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
    await client.create(DISKS, diskObject('warm'))
    await disks.all(['warm'], isReady, 60)
    const names = Array.from({ length: NEW_DISKS }, (_, index) => `new-${index}`)
    first.pause()
    await inParallel(NEW_DISKS, 32, index => client.create(DISKS, diskObject(names[index] ?? '')))
    const before = await first.requests(true)
    const startedAt = performance.now()
    await disks.all(names, isReady, 300)
    const seconds = (performance.now() - startedAt) / 1000
    await first.idle()
    const calls = await first.requests(false)
    report(`${NEW_DISKS} disks, Pending to Ready`, NEW_DISKS / seconds, 'disks/s', { atLeast: 50 })
    for (const [method, count] of Object.entries(calls)) {
      report(
        `  requests of the operator for each disk: ${method}`,
        (count - (before[method] ?? 0)) / NEW_DISKS,
        '',
        {},
      )
    }
    await first.kill()
    await node.stop()

    process.stderr.write(`${ALL_DISKS} disks that are there\n`)
    await makeOldDisks(client, ALL_DISKS - NEW_DISKS - 1)
    const startedColdAt = performance.now()
    const starting = start('--no-leader-election')
    await client.create(DISKS, diskObject('first'))
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
    report('  at its highest', second.memory().highest / 1e6, 'MB', {})
    await second.kill()

    process.stderr.write('The leader is killed\n')
    const elected = ['--lease-namespace', NAMESPACE]
    const leader = await start(...elected)
    await start(...elected).catch(() => undefined)
    const killedAt = performance.now()
    await leader.kill()
    await client.create(DISKS, diskObject('orphan'))
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

await main()
if (failures.length > 0) {
  process.stderr.write(`Not kept: ${failures.join('; ')}\n`)
  process.exitCode = 1
}
