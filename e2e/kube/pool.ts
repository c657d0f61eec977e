/**
 * A pool without a node: the real operator, agent and server as processes on a real API server, and in place of the
 * kubelet something that runs the program of each Job, the real one, on the pool's volume.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { DISK_POOLS, ON_DEMAND_DISKS } from '../../crds/resources.ts'
import { hasCode, KubeError } from '../../operator/kube/kube-error.ts'
import {
  JOBS,
  type Job,
  type KubeObject,
  PERSISTENT_VOLUME_CLAIMS,
  PODS,
} from '../../operator/kube/objects.ts'
import { startReflector } from '../../operator/kube/reflector.ts'
import { labelsOf, OBJECT_ANNOTATION, poolNames } from '../../operator/terms/names.ts'
import { checkout, run, type ServerProcess, startServer } from '../harness.ts'
import { type ControlPlane, startControlPlane } from './control-plane.ts'

export const NAMESPACE = 'default'
export const POOL = 'lab'

/** A program that can be killed and started again. */
export interface Program {
  kill(): Promise<void>
  start(): Promise<void>
  /** All that it has logged since it was first started. */
  log(): string
}

export interface TestPool extends AsyncDisposable {
  readonly plane: ControlPlane
  /** The pool's volume. */
  readonly volume: string
  readonly operator: Program
  readonly agent: Program
  readonly nbd: Program
  uri(name: string): string
  /** Makes an object, or changes its spec. */
  apply(name: string, spec: object): Promise<OnDemandDisk>
  disk(name: string): Promise<OnDemandDisk | undefined>
  disks(): Promise<readonly OnDemandDisk[]>
  pool(): Promise<KubeObject & { readonly status?: Readonly<Record<string, unknown>> }>
  changePool(spec: object): Promise<void>
  /** Patches metadata. */
  annotate(name: string, annotations: Readonly<Record<string, string>>): Promise<void>
  remove(name: string): Promise<void>
  /** How many Jobs have been run, by their name. */
  readonly jobs: ReadonlyMap<string, number>
}

/** Milliseconds. On a machine that is busy with other things nothing is quick. */
const START_LIMIT = 120_000
const OPERATOR = join(checkout, 'hack/ondemand-disk-operator')
const MAKE = join(checkout, 'hack/ondemand-disk')

function program(command: string, args: readonly string[], started: RegExp): Program & AsyncDisposable {
  let child: ChildProcess | undefined
  let ended: Promise<void> = Promise.resolve()
  let text = ''
  const kill = async () => {
    child?.kill('SIGKILL')
    await ended
    child = undefined
  }
  return {
    kill,
    log: () => text,
    async start() {
      const from = text.length
      const running = spawn(command, [...args], { stdio: ['ignore', 'pipe', 'pipe'] })
      child = running
      ended = new Promise(resolve => running.once('close', () => resolve()))
      await new Promise<void>((resolve, reject) => {
        for (const stream of [running.stdout, running.stderr]) {
          stream.setEncoding('utf8').on('data', (chunk: string) => {
            text += chunk
            if (started.test(text.slice(from))) resolve()
          })
        }
        void ended.then(() => reject(new Error(`${command} ended:\n${text.slice(from)}`)))
      })
    },
    [Symbol.asyncDispose]: kill,
  }
}

/**
 * Runs the Jobs: what a kubelet, the Job controller and the garbage collector do, but with the volume in place of its
 * mount.
 */
function runJobs(plane: ControlPlane, volume: string, counts: Map<string, number>) {
  const underWay = new Set<Promise<void>>()
  /** By the Jobs' uid. */
  const known = new Map<string, Promise<void>>()
  const { client } = plane

  function follow(work: Promise<void>): Promise<void> {
    const followed = work.finally(() => underWay.delete(followed))
    underWay.add(followed)
    return followed
  }

  async function runJob(job: Job): Promise<void> {
    const { name } = job.metadata
    counts.set(name, (counts.get(name) ?? 0) + 1)
    const beside = await mkdtemp(`${volume}-job-`)
    try {
      // As the kubelet shows a Pod its annotation.
      const { annotations = {} } = job.spec?.template.metadata ?? {}
      await writeFile(join(beside, 'disk.json'), annotations[OBJECT_ANNOTATION] ?? '')
      const spec = job.spec as unknown as {
        template: { spec: { containers: { command: string[]; args: string[] }[] } }
      }
      const [container] = spec.template.spec.containers
      const args = [...(container?.command.slice(1) ?? []), ...(container?.args ?? [])].map(arg =>
        arg
          .replace(/^\/pool\b/, volume)
          .replace(/^\/manifest\b/, beside)
          .replace('/dev/termination-log', join(beside, 'log')),
      )
      const { status, stderr } = await run(MAKE, args)
      const now = `${new Date().toISOString().slice(0, 19)}Z`
      const type = status === 0 ? 'Complete' : 'Failed'
      const condition = { type, status: 'True', lastTransitionTime: now, message: stderr.trim().slice(-300) }
      await patience(() =>
        client.patch(
          JOBS,
          job.metadata,
          'merge',
          { status: { conditions: [condition] } },
          { subresource: 'status' },
        ),
      )
    } catch (error) {
      // The disk was deleted meanwhile.
      if (!hasCode(error, 'NotFound')) throw error
    } finally {
      await rm(beside, { recursive: true, force: true })
    }
  }

  /** A Job that is deleted in the foreground goes when its Pod has gone. */
  async function letGo({ metadata }: Job): Promise<void> {
    await known.get(metadata.uid ?? '')
    try {
      await patience(() => client.patch(JOBS, metadata, 'merge', { metadata: { finalizers: null } }))
    } catch (error) {
      if (!hasCode(error, 'NotFound')) throw error
    }
  }

  const reflector = startReflector<Job>({
    client,
    resource: JOBS,
    namespace: NAMESPACE,
    onEvent({ type, object }) {
      const { uid = '', finalizers = [], deletionTimestamp } = object.metadata
      if (type === 'deleted') return
      if (!known.has(uid) && deletionTimestamp === undefined)
        known.set(uid, follow(patience(() => runJob(object))))
      if (finalizers.includes('foregroundDeletion')) follow(letGo(object))
    },
  })
  return {
    async stop() {
      await reflector.stop()
      await Promise.allSettled(underWay)
    },
  }
}

/** Tries again while the API server is away. */
export async function patience<T>(work: () => Promise<T>, limit = 60_000): Promise<T> {
  const deadline = performance.now() + limit
  for (;;) {
    try {
      return await work()
    } catch (error) {
      // One that has just started does not know the paths of custom resources at first.
      const isStarting = error instanceof KubeError && error.status === 404 && error.details === undefined
      const isAway = hasCode(error, 'Unreachable') || hasCode(error, 'ServiceUnavailable')
      if (!(isAway || isStarting) || performance.now() > deadline) throw error
      await sleep(100)
    }
  }
}

/**
 * Starts everything; `spec` is that of the DiskPool but for its storage. `mount` puts a file system onto the directory of
 * the volume, and returns what takes it away.
 */
export async function startPool(
  spec: object = {},
  mount?: (path: string) => Promise<() => Promise<unknown>>,
): Promise<TestPool> {
  const cleanups: (() => Promise<unknown>)[] = []
  const dispose = async () => {
    for (const cleanup of cleanups.reverse()) await cleanup()
  }
  try {
    const base = await mkdtemp(join(tmpdir(), 'ondemand-disk-pool-'))
    cleanups.push(() => rm(base, { recursive: true, force: true }))
    const [volume, manifests, control] = ['pool', 'manifests', 'control'].map(name => join(base, name)) as [
      string,
      string,
      string,
    ]
    for (const path of [volume, manifests, control]) await mkdir(path)
    if (mount) cleanups.push(await mount(volume))
    await mkdir(join(volume, 'disks'))
    const plane = await startControlPlane({ customResources: true })
    cleanups.push(async () => await plane[Symbol.asyncDispose]())
    const { client } = plane
    await plane.installCrds()
    await client.create(PERSISTENT_VOLUME_CLAIMS, claim() as never)
    await client.create(DISK_POOLS, {
      apiVersion: 'ondemanddisk.dev/v1alpha1',
      kind: 'DiskPool',
      metadata: { name: POOL, namespace: NAMESPACE },
      spec: { storage: { claimName: 'claim' }, ...spec },
    } as never)
    await createServerPod(plane)
    const counts = new Map<string, number>()
    const jobs = runJobs(plane, volume, counts)
    cleanups.push(() => jobs.stop())

    const common = ['--kubeconfig', plane.kubeconfig, '--namespace', NAMESPACE]
    const operator = program(
      OPERATOR,
      ['run', ...common, '--no-leader-election', '--image', 'none'],
      /API server/,
    )
    const agent = program(
      OPERATOR,
      [
        ...['agent', ...common, '--pool', POOL, '--dir', volume, '--manifests', manifests],
        ...['--control', join(control, 'nbd.sock'), '--ask', join(control, 'agent.sock')],
        ...['--policy', join(control, 'policy.json'), '--log-level', 'debug'],
      ],
      /API server/,
    )
    let server: ServerProcess | undefined
    let logs = ''
    let port = 0
    const nbd: Program = {
      async kill() {
        await server?.kill()
        logs += server?.log() ?? ''
        server = undefined
      },
      async start() {
        server = await startServer(
          [
            ...['--dir', join(volume, 'disks'), '--disks', manifests, '--no-create'],
            ...['--control', join(control, 'nbd.sock'), '--ask', join(control, 'agent.sock')],
            ...['--policy', join(control, 'policy.json')],
          ],
          { port, limit: START_LIMIT },
        )
        port = server.port
      },
      log: () => logs + (server?.log() ?? ''),
    }
    cleanups.push(
      () => operator.kill(),
      () => agent.kill(),
      () => nbd.kill(),
    )
    await Promise.all([operator.start(), agent.start(), nbd.start()])
    // Nobody is admitted until the agent has said who is; the server looks four times a second.
    while (!existsSync(join(control, 'policy.json'))) await sleep(100)
    await sleep(500)
    const ref = (name: string) => ({ namespace: NAMESPACE, name })
    return {
      ...{ plane, volume, operator, agent, nbd, jobs: counts },
      uri: name => `nbd://127.0.0.1:${port}/${name}`,
      async apply(name, diskSpec) {
        const full = { poolName: POOL, ...diskSpec }
        const known = await client.find<OnDemandDisk>(ON_DEMAND_DISKS, ref(name))
        if (known)
          return await client.patch<OnDemandDisk>(ON_DEMAND_DISKS, ref(name), 'merge', { spec: full })
        return await client.create<OnDemandDisk>(ON_DEMAND_DISKS, {
          apiVersion: 'ondemanddisk.dev/v1alpha1',
          kind: 'OnDemandDisk',
          metadata: ref(name),
          spec: full,
        } as never)
      },
      disk: name => client.find<OnDemandDisk>(ON_DEMAND_DISKS, ref(name)),
      disks: async () => (await client.list<OnDemandDisk>(ON_DEMAND_DISKS, { namespace: NAMESPACE })).items,
      pool: () => client.get(DISK_POOLS, ref(POOL)),
      async changePool(change) {
        await client.patch(DISK_POOLS, ref(POOL), 'merge', { spec: change })
      },
      async annotate(name, annotations) {
        await client.patch(ON_DEMAND_DISKS, ref(name), 'merge', { metadata: { annotations } })
      },
      remove: name => client.delete(ON_DEMAND_DISKS, ref(name)),
      [Symbol.asyncDispose]: dispose,
    }
  } catch (error) {
    await dispose()
    throw error
  }
}

const claim = () => ({
  apiVersion: 'v1',
  kind: 'PersistentVolumeClaim',
  metadata: { name: 'claim', namespace: NAMESPACE },
  spec: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '10Gi' } } },
})

/** The Pod that the StatefulSet's controller would make, on a node that is not there. */
async function createServerPod({ client }: ControlPlane): Promise<void> {
  await client
    .create(
      { group: '', version: 'v1', kind: 'ServiceAccount', plural: 'serviceaccounts', namespaced: true },
      {
        apiVersion: 'v1',
        kind: 'ServiceAccount',
        metadata: { name: 'default', namespace: NAMESPACE },
      } as never,
    )
    .catch((error: unknown) => {
      if (!hasCode(error, 'AlreadyExists')) throw error
    })
  await client.create(PODS, {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: poolNames(POOL).pod, namespace: NAMESPACE, labels: labelsOf(POOL, 'server') },
    spec: {
      nodeName: 'node',
      automountServiceAccountToken: false,
      containers: [{ name: 'nbd', image: 'none' }],
    },
  } as never)
}
