/** The operator as a program against a real API server, whose nodes and agents are played by a stub. */
import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, expect, vi } from 'vitest'
import type { DiskPool } from '../../crds/diskpool.ts'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import type { KubeClient } from '../../operator/kube/client.ts'
import {
  JOBS,
  type KubeObject,
  NAMESPACES,
  type Resource,
  SERVICES,
  STATEFUL_SETS,
} from '../../operator/kube/objects.ts'
import { DISKS, POOLS } from '../../operator/pool/world.ts'
import { checkout } from '../harness.ts'
import { type ControlPlane, startControlPlane } from './control-plane.ts'
import { type JobEnd, type StubNode, startStubNode } from './stub-node.ts'

/** For one thing to happen, on a machine that has much else to do, in ms. */
export const PATIENCE = 90_000

interface Operator {
  readonly lines: readonly Record<string, unknown>[]
  kill(): Promise<void>
}

async function startOperator(kubeconfig: string): Promise<Operator> {
  const lines: Record<string, unknown>[] = []
  const argv = [
    ...['run', '--kubeconfig', kubeconfig, '--no-leader-election'],
    ...['--image', 'ondemand-disk:test'],
  ]
  const child: ChildProcess = spawn('node', [join(checkout, 'operator/main.ts'), ...argv], {
    stdio: ['ignore', 'inherit', 'pipe'],
  })
  if (child.stderr) {
    createInterface(child.stderr).on('line', line => {
      try {
        lines.push(JSON.parse(line))
      } catch {
        lines.push({ text: line })
      }
    })
  }
  const ended = new Promise<void>(resolve => child.once('exit', () => resolve()))
  await vi.waitFor(() => expect(lines.map(({ msg }) => msg)).toContain('Acting'), { timeout: PATIENCE })
  return {
    lines,
    async kill() {
      child.kill('SIGKILL')
      await ended
    },
  }
}

type Conditioned = KubeObject & Pick<OnDemandDisk, 'status'>
/** An object's place. */
interface Ref {
  readonly namespace: string
  readonly name: string
}

export interface TestOperator {
  readonly client: KubeClient
  readonly node: StubNode
  /** How the Jobs of disks of these names end; all others succeed. */
  readonly jobEnds: Map<string, JobEnd>
  /** Who has disks of these names open. */
  readonly holders: Map<string, string>
  /** Makes a namespace of the test's own. */
  makeNamespace(name: string): Promise<string>
  /** Makes a DiskPool. */
  pool(namespace: string, spec?: object, name?: string): Promise<DiskPool>
  /** Makes an OnDemandDisk in the pool `lab`. */
  disk(namespace: string, name: string, spec?: object): Promise<OnDemandDisk>
  /** Waits until a condition of an object is so; returns its message. */
  waitFor<T extends Conditioned>(
    resource: Resource<T>,
    ref: Ref,
    type: string,
    state: string,
    reason: string,
  ): Promise<string>
  /** Waits until an object is gone. */
  gone(resource: Resource, ref: Ref): Promise<void>
  /** Kills the operator, and starts another one. */
  restart(): Promise<void>
  /** Fails if anything is written from now on, or if the log has what no user's mistake may leave there. */
  expectQuiet(): Promise<void>
}

/** Starts it all before the tests of the file, and ends it after them. */
export function useOperator(): TestOperator {
  let plane: ControlPlane
  let client: KubeClient
  let node: StubNode
  let operator: Operator
  const jobEnds = new Map<string, JobEnd>()
  const holders = new Map<string, string>()
  vi.setConfig({ testTimeout: 300_000, hookTimeout: 20 * 60_000 })

  beforeAll(async () => {
    plane = await startControlPlane({ customResources: true })
    client = plane.client
    await plane.installCrds()
    node = await startStubNode({
      client,
      endOf: job => {
        const owner = job.metadata.ownerReferences?.[0]?.name ?? ''
        return jobEnds.get(owner) ?? { kind: 'succeeds' }
      },
      clientsOf: disk => holders.get(disk.metadata.name),
    })
    operator = await startOperator(plane.kubeconfig)
  }, 20 * 60_000)

  afterAll(async () => {
    await operator?.kill()
    await node?.stop()
    await plane?.[Symbol.asyncDispose]()
  })

  const soon = { timeout: PATIENCE, interval: 100 }
  return {
    get client() {
      return client
    },
    get node() {
      return node
    },
    jobEnds,
    holders,
    async makeNamespace(name) {
      await client.create(NAMESPACES, { apiVersion: 'v1', kind: 'Namespace', metadata: { name } })
      return name
    },
    pool: (namespace, spec = {}, name = 'lab') =>
      client.create(POOLS, {
        apiVersion: 'ondemanddisk.dev/v1alpha1',
        kind: 'DiskPool',
        metadata: { namespace, name },
        spec: { storage: { claimTemplate: { size: '1Gi' } }, ...spec },
      } as unknown as DiskPool),
    disk: (namespace, name, spec = {}) =>
      client.create(DISKS, {
        apiVersion: 'ondemanddisk.dev/v1alpha1',
        kind: 'OnDemandDisk',
        metadata: { namespace, name },
        spec: { poolName: 'lab', size: '8Mi', ...spec },
      } as unknown as OnDemandDisk),
    waitFor: (resource, ref, type, state, reason) =>
      vi.waitFor(async () => {
        const { status } = await client.get(resource, ref)
        const found = status?.conditions?.find(condition => condition.type === type)
        expect(`${found?.status}/${found?.reason}`, found?.message).toBe(`${state}/${reason}`)
        return found?.message ?? ''
      }, soon),
    gone: (resource, ref) =>
      vi.waitFor(async () => expect(await client.find(resource, ref)).toBeUndefined(), soon),
    async restart() {
      await operator.kill()
      operator = await startOperator(plane.kubeconfig)
    },
    async expectQuiet() {
      // Whatever is still on its way arrives first.
      let before: string[] = []
      await vi.waitFor(
        async () => {
          const last = before
          before = await versionsOf(client)
          expect(before).toEqual(last)
        },
        { timeout: PATIENCE, interval: 3000 },
      )
      await new Promise(resolve => setTimeout(resolve, 5000))
      expect(await versionsOf(client)).toEqual(before)
      expect(operator.lines.filter(isComplaint)).toEqual([])
    },
  }
}

/** Which versions there are of all that the operator writes. */
async function versionsOf(client: KubeClient): Promise<string[]> {
  const lists = await Promise.all(
    [DISKS, POOLS, JOBS, SERVICES, STATEFUL_SETS].map(resource => client.list(resource as Resource)),
  )
  return lists
    .flatMap(({ items }) => items.map(({ metadata }) => `${metadata.uid} ${metadata.resourceVersion}`))
    .sort()
}

/** An error, a stack trace, or what is no line of a log at all. */
const isComplaint = ({ err, error, text, level }: Record<string, unknown>): boolean =>
  err !== undefined || error !== undefined || text !== undefined || level === 'error'
