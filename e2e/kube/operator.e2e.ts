/** The operator as a program against a real API server, whose nodes and agents are played by a stub. */
import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import type { DiskPool } from '../../crds/diskpool.ts'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import type { KubeClient } from '../../operator/kube/client.ts'
import {
  CONFIG_MAPS,
  JOBS,
  type KubeObject,
  NAMESPACES,
  PERSISTENT_VOLUME_CLAIMS,
  PODS,
  type Resource,
  SERVICES,
  STATEFUL_SETS,
} from '../../operator/kube/objects.ts'
import { DISKS, POOLS } from '../../operator/pool/world.ts'
import {
  DISK_LABEL,
  diskJobName,
  FINALIZER,
  labelsOf,
  OBJECT_ANNOTATION,
} from '../../operator/terms/names.ts'
import { checkout } from '../harness.ts'
import { type ControlPlane, startControlPlane } from './control-plane.ts'
import { type JobEnd, type StubNode, startStubNode } from './stub-node.ts'

const RESOURCE_QUOTAS: Resource = {
  group: '',
  version: 'v1',
  kind: 'ResourceQuota',
  plural: 'resourcequotas',
  namespaced: true,
}

/** For one thing to happen, on a machine that has much else to do, in ms. */
const PATIENCE = 90_000
vi.setConfig({ testTimeout: 300_000, hookTimeout: 20 * 60_000 })

let plane: ControlPlane
let client: KubeClient
let node: StubNode
let operator: Operator
const jobEnds = new Map<string, JobEnd>()
const holders = new Map<string, string>()

interface Operator {
  readonly lines: readonly Record<string, unknown>[]
  kill(): Promise<void>
}

async function startOperator(): Promise<Operator> {
  const lines: Record<string, unknown>[] = []
  const argv = [
    'run',
    '--kubeconfig',
    plane.kubeconfig,
    '--image',
    'ondemand-disk:test',
    '--no-leader-election',
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
  operator = await startOperator()
}, 20 * 60_000)

afterAll(async () => {
  await operator?.kill()
  await node?.stop()
  await plane?.[Symbol.asyncDispose]()
})

/** A namespace of the test's own. */
async function makeNamespace(name: string): Promise<string> {
  await client.create(NAMESPACES, { apiVersion: 'v1', kind: 'Namespace', metadata: { name } })
  return name
}

function pool(namespace: string, spec: object = {}, name = 'lab') {
  const storage = { claimTemplate: { size: '1Gi' } }
  return client.create(POOLS, {
    apiVersion: 'ondemanddisk.dev/v1alpha1',
    kind: 'DiskPool',
    metadata: { namespace, name },
    spec: { storage, ...spec },
  } as unknown as DiskPool)
}

function disk(namespace: string, name: string, spec: object = {}) {
  return client.create(DISKS, {
    apiVersion: 'ondemanddisk.dev/v1alpha1',
    kind: 'OnDemandDisk',
    metadata: { namespace, name },
    spec: { poolName: 'lab', size: '8Mi', ...spec },
  } as unknown as OnDemandDisk)
}

type Conditioned = KubeObject & Pick<OnDemandDisk, 'status'>

/** Waits until a condition of an object is so; returns its message. */
async function waitFor<T extends Conditioned>(
  resource: Resource<T>,
  ref: { namespace: string; name: string },
  type: string,
  state: string,
  reason: string,
) {
  return await vi.waitFor(
    async () => {
      const { status } = await client.get(resource, ref)
      const found = status?.conditions?.find(condition => condition.type === type)
      expect(`${found?.status}/${found?.reason}`, found?.message).toBe(`${state}/${reason}`)
      return found?.message ?? ''
    },
    { timeout: PATIENCE, interval: 100 },
  )
}

const gone = (resource: Resource, ref: { namespace: string; name: string }) =>
  vi.waitFor(async () => expect(await client.find(resource, ref)).toBeUndefined(), {
    timeout: PATIENCE,
    interval: 100,
  })

describe('A pool and its disks', () => {
  test('are made, used and deleted', async () => {
    const namespace = await makeNamespace('life')
    await pool(namespace)
    const alice = await disk(namespace, 'alice')
    await waitFor(POOLS, { namespace, name: 'lab' }, 'Ready', 'True', 'Ready')
    await waitFor(DISKS, { namespace, name: 'alice' }, 'Ready', 'True', 'Ready')
    const { status, metadata } = await client.get(DISKS, { namespace, name: 'alice' })
    expect(status).toMatchObject({ attempts: 1, observedGeneration: 1 })
    expect(metadata.finalizers).toEqual([FINALIZER])
    expect(node.made.get(alice.metadata.uid ?? '')).toBe(1)
    for (const resource of [JOBS, CONFIG_MAPS]) {
      await gone(resource, { namespace, name: `odd-${alice.metadata.uid}` })
    }
    expect((await client.get(POOLS, { namespace, name: 'lab' })).status).toMatchObject({
      uri: 'nbd://lab.life.svc:10809',
    })
    await vi.waitFor(
      async () =>
        expect((await client.get(POOLS, { namespace, name: 'lab' })).status).toMatchObject({
          disks: 1,
          provisioned: 8 * 2 ** 20,
        }),
      { timeout: PATIENCE },
    )

    holders.set('alice', '10.0.0.7')
    await client.delete(DISKS, { namespace, name: 'alice' })
    const refused = await vi.waitFor(
      async () => {
        const { status: now } = await client.get(DISKS, { namespace, name: 'alice' })
        const message = now?.conditions?.find(({ type }) => type === 'Ready')?.message
        expect(message).toContain('10.0.0.7')
        return message
      },
      { timeout: PATIENCE, interval: 100 },
    )
    expect(refused).toContain('force-delete')
    expect(node.files.has(alice.metadata.uid ?? '')).toBe(true)

    await client.delete(POOLS, { namespace, name: 'lab' })
    expect(await waitFor(POOLS, { namespace, name: 'lab' }, 'Ready', 'False', 'Deleting')).toContain('alice')

    await client.patch(DISKS, { namespace, name: 'alice' }, 'merge', {
      metadata: { annotations: { 'ondemanddisk.dev/force-delete': 'true' } },
    })
    await gone(DISKS, { namespace, name: 'alice' })
    expect(node.files.has(alice.metadata.uid ?? '')).toBe(false)
    await gone(POOLS, { namespace, name: 'lab' })
    expect(await client.find(PERSISTENT_VOLUME_CLAIMS, { namespace, name: 'lab-disks' })).toBeDefined()
  })

  test('are taken over with the Job and the ConfigMap of an earlier version', async () => {
    const namespace = await makeNamespace('earlier')
    const { metadata } = await disk(namespace, 'old')
    await waitFor(DISKS, { namespace, name: 'old' }, 'Ready', 'False', 'PoolNotFound')
    const name = diskJobName(metadata.uid ?? '')
    const labels = { ...labelsOf('lab', 'make'), [DISK_LABEL]: metadata.uid ?? '' }
    const owner = { apiVersion: 'ondemanddisk.dev/v1alpha1', kind: 'OnDemandDisk', name: 'old' }
    const ownerReferences = [{ ...owner, uid: metadata.uid ?? '', controller: true }]
    await client.patch(DISKS, metadata, 'merge', { status: { attempts: 1 } }, { subresource: 'status' })
    await client.create(CONFIG_MAPS, {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { namespace, name, labels, ownerReferences },
      data: { 'disk.json': '{}' },
    })
    await client.create(JOBS, {
      apiVersion: 'batch/v1',
      kind: 'Job',
      metadata: { namespace, name, labels, ownerReferences },
      spec: {
        template: {
          metadata: { labels },
          spec: {
            restartPolicy: 'Never',
            containers: [{ name: 'make', image: 'x' }],
            volumes: [{ name: 'manifest', configMap: { name } }],
          },
        },
      },
    })
    for (const resource of [JOBS, CONFIG_MAPS]) await gone(resource, { namespace, name })
    await pool(namespace)
    await waitFor(DISKS, { namespace, name: 'old' }, 'Ready', 'True', 'Ready')
    expect(node.made.get(metadata.uid ?? '')).toBe(1)
  })

  test('keep no trace of a user in the Pods, and every Pod is restricted', async () => {
    const namespace = await makeNamespace('restricted')
    jobEnds.set('trick', { kind: 'hangs' })
    await pool(namespace)
    const trick = '$(reboot) `reboot` $IFS'
    const { metadata } = await disk(namespace, 'trick', {
      exportName: trick,
      filesystem: { type: 'ext4', label: '$(id)' },
    })
    const job = await vi.waitFor(() => client.get(JOBS, { namespace, name: `odd-${metadata.uid}` }), {
      timeout: PATIENCE,
    })
    // Kubernetes expands nothing in annotations.
    const template = job.spec?.template
    const { [OBJECT_ANNOTATION]: object = '', ...others } = template?.metadata?.annotations ?? {}
    expect(JSON.parse(object)).toMatchObject({ spec: { exportName: trick } })
    expect(others).toEqual({})
    for (const part of [job.metadata, template?.metadata?.labels, template?.spec]) {
      const { managedFields: _, ...text } = part as { managedFields?: unknown }
      expect(JSON.stringify(text)).not.toMatch(/reboot|\$\(id\)/)
    }
    const server = await client.get(STATEFUL_SETS, { namespace, name: 'lab' })
    for (const spec of [job.spec?.template.spec, server.spec?.template.spec]) {
      expect(spec).toMatchObject({
        automountServiceAccountToken: false,
        securityContext: { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
      })
      for (const container of [...(spec?.containers ?? []), ...(spec?.initContainers ?? [])]) {
        expect(container.securityContext).toEqual({
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
          capabilities: { drop: ['ALL'] },
        })
      }
    }
    const mounts = Object.fromEntries(
      server.spec?.template.spec?.containers.map(({ name, volumeMounts }) => [
        name,
        volumeMounts?.map(mount => mount.name),
      ]) ?? [],
    )
    expect(mounts.agent).toContain('token')
    expect(mounts.nbd).not.toContain('token')
    expect(job.spec?.template.spec).toMatchObject({ affinity: { podAffinity: {} } })
  })
})

describe('What cannot be made says why', () => {
  test('failure, retry and invalid spec', async () => {
    const namespace = await makeNamespace('failing')
    await pool(namespace)
    jobEnds.set('bad', { kind: 'fails', exitCode: 1, message: 'mkfs.ext4 failed: no luck' })
    jobEnds.set('wrong', {
      kind: 'fails',
      exitCode: 2,
      message: 'spec.filesystem.type: There is no program mkfs.nosuchfs',
    })
    await disk(namespace, 'bad')
    await disk(namespace, 'wrong', { filesystem: { type: 'nosuchfs' } })
    expect(await waitFor(DISKS, { namespace, name: 'bad' }, 'Ready', 'False', 'FormatFailed')).toMatch(
      /^mkfs\.ext4 failed: no luck \(attempt 1; the next is at /,
    )
    expect(await waitFor(DISKS, { namespace, name: 'wrong' }, 'Ready', 'False', 'InvalidSpec')).toMatch(
      /^spec\.filesystem\.type: /,
    )
    jobEnds.delete('bad')
    await waitFor(DISKS, { namespace, name: 'bad' }, 'Ready', 'True', 'Ready')
    expect((await client.get(DISKS, { namespace, name: 'bad' })).status?.attempts).toBe(2)
    const failed = await client.list(JOBS, { namespace })
    expect(failed.items.map(({ metadata }) => metadata.ownerReferences?.[0]?.name)).toEqual(['wrong'])
  })

  test('limits, names and pools', async () => {
    const namespace = await makeNamespace('limits')
    await disk(namespace, 'early')
    await waitFor(DISKS, { namespace, name: 'early' }, 'Ready', 'False', 'PoolNotFound')
    await pool(namespace, { quota: '20Mi', onDemand: { maxDisks: 3 } })
    await waitFor(DISKS, { namespace, name: 'early' }, 'Ready', 'True', 'Ready')
    await disk(namespace, 'twin', { exportName: 'early' })
    expect(await waitFor(DISKS, { namespace, name: 'twin' }, 'Ready', 'False', 'ExportNameTaken')).toContain(
      'early',
    )
    await client.delete(DISKS, { namespace, name: 'twin' })
    await gone(DISKS, { namespace, name: 'twin' })
    await disk(namespace, 'large', { size: '16Mi' })
    expect(await waitFor(DISKS, { namespace, name: 'large' }, 'Ready', 'False', 'QuotaExceeded')).toContain(
      '20 MiB',
    )
    await Promise.all(['a', 'b', 'c', 'd'].map(name => disk(namespace, name, { size: '1Mi' })))
    // Which two of the four have a place is told by their age. There is none then for the large one, either, whose reason
    // is as true as before, and is said anew only if it is looked at after the two have started.
    await vi.waitFor(
      async () => {
        const { items } = await client.list(DISKS, { namespace })
        const reasonOf = ({ status }: OnDemandDisk) =>
          status?.conditions?.find(({ type }) => type === 'Ready')?.reason
        const large = items.filter(({ metadata }) => metadata.name === 'large').map(reasonOf)
        expect(['QuotaExceeded', 'TooManyDisks']).toContain(large[0])
        const others = items.filter(({ metadata }) => metadata.name !== 'large').map(reasonOf)
        expect(others.sort()).toEqual(['Ready', 'Ready', 'Ready', 'TooManyDisks', 'TooManyDisks'])
      },
      { timeout: PATIENCE },
    )
    await client.patch(POOLS, { namespace, name: 'lab' }, 'merge', {
      spec: { quota: '100Mi', onDemand: { maxDisks: 100 } },
    })
    for (const name of ['a', 'b', 'c', 'd', 'large'])
      await waitFor(DISKS, { namespace, name }, 'Ready', 'True', 'Ready')
  })

  test('an object that is not ours stands in the way', async () => {
    const namespace = await makeNamespace('taken')
    await client.create(SERVICES, {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { namespace, name: 'lab' },
      spec: { ports: [{ port: 80 }] },
    } as never)
    await pool(namespace)
    expect(await waitFor(POOLS, { namespace, name: 'lab' }, 'Ready', 'False', 'NameTaken')).toContain(
      'Service lab',
    )
    expect(await client.find(STATEFUL_SETS, { namespace, name: 'lab' })).toBeUndefined()
    // That it goes is noticed long before the pool would be looked at again.
    await client.delete(SERVICES, { namespace, name: 'lab' })
    await waitFor(POOLS, { namespace, name: 'lab' }, 'Ready', 'True', 'Ready')
  })

  test('an object of the pool that the API server does not take', async () => {
    const namespace = await makeNamespace('untaken')
    const ref = { namespace, name: 'lab' }
    await pool(namespace, { server: { serviceType: 'NodePort', nodePort: 80 } })
    expect(await waitFor(POOLS, ref, 'Ready', 'False', 'InvalidSpec')).toMatch(/^spec\.server: .*nodePort/)
    await client.patch(POOLS, ref, 'merge', { spec: { server: { nodePort: null } } })
    await waitFor(POOLS, ref, 'Ready', 'True', 'Ready')
    await client.patch(POOLS, ref, 'merge', { spec: { server: { podLabels: { 'no key': 'x' } } } })
    expect(await waitFor(POOLS, ref, 'Ready', 'False', 'InvalidSpec')).toMatch(/^spec\.server: .*no key/)
  })

  test('a Job that the namespace has no place for, which is not asked for over and over', async () => {
    const namespace = await makeNamespace('crammed')
    const quota = { namespace, name: 'no-jobs' }
    await client.create(RESOURCE_QUOTAS, {
      apiVersion: 'v1',
      kind: 'ResourceQuota',
      metadata: quota,
      spec: { hard: { 'count/jobs.batch': '0' } },
    } as never)
    // What the controller-manager would do.
    const counted = { hard: { 'count/jobs.batch': '0' }, used: { 'count/jobs.batch': '0' } }
    await client.patch(RESOURCE_QUOTAS, quota, 'merge', { status: counted }, { subresource: 'status' })
    await pool(namespace)
    await waitFor(POOLS, { namespace, name: 'lab' }, 'Ready', 'True', 'Ready')
    await disk(namespace, 'alice')
    const message = await waitFor(DISKS, { namespace, name: 'alice' }, 'Ready', 'False', 'JobRefused')
    expect(message).toContain('exceeded quota')
    await new Promise(resolve => setTimeout(resolve, 5000))
    const { status } = await client.get(DISKS, { namespace, name: 'alice' })
    expect(status?.attempts).toBeLessThan(20)
    await client.delete(RESOURCE_QUOTAS, quota)
    await waitFor(DISKS, { namespace, name: 'alice' }, 'Ready', 'True', 'Ready')
  })

  test('a claim that is not ours stands in the way', async () => {
    const namespace = await makeNamespace('claimed')
    await client.create(PERSISTENT_VOLUME_CLAIMS, {
      apiVersion: 'v1',
      kind: 'PersistentVolumeClaim',
      metadata: { namespace, name: 'lab-disks' },
      spec: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '1Gi' } } },
    } as never)
    await pool(namespace)
    expect(await waitFor(POOLS, { namespace, name: 'lab' }, 'Ready', 'False', 'NameTaken')).toContain(
      'PersistentVolumeClaim lab-disks',
    )
    const claim = { metadata: { finalizers: null } }
    await client.patch(PERSISTENT_VOLUME_CLAIMS, { namespace, name: 'lab-disks' }, 'merge', claim)
    await client.delete(PERSISTENT_VOLUME_CLAIMS, { namespace, name: 'lab-disks' })
    await waitFor(POOLS, { namespace, name: 'lab' }, 'Ready', 'True', 'Ready')
  })
})

describe('Nothing hangs for ever', () => {
  test('a disk whose pool and claim are gone', async () => {
    const namespace = await makeNamespace('lost')
    await pool(namespace)
    await disk(namespace, 'alice')
    await waitFor(DISKS, { namespace, name: 'alice' }, 'Ready', 'True', 'Ready')
    await client.delete(POOLS, { namespace, name: 'lab' })
    await waitFor(POOLS, { namespace, name: 'lab' }, 'Ready', 'False', 'Deleting')
    await client.patch(POOLS, { namespace, name: 'lab' }, 'merge', { metadata: { finalizers: null } })
    await gone(POOLS, { namespace, name: 'lab' })
    // What the garbage collector would do.
    await client.delete(STATEFUL_SETS, { namespace, name: 'lab' })
    holders.set('alice', 'somebody')
    onTestFinished(() => void holders.delete('alice'))
    await client.delete(PODS, { namespace, name: 'lab-0' }, { gracePeriodSeconds: 0 })
    await client.delete(DISKS, { namespace, name: 'alice' })
    await gone(DISKS, { namespace, name: 'alice' })
  })

  test('a namespace', async () => {
    const namespace = await makeNamespace('doomed')
    holders.set('held', 'somebody')
    await pool(namespace)
    await disk(namespace, 'held')
    await waitFor(DISKS, { namespace, name: 'held' }, 'Ready', 'True', 'Ready')
    await client.delete(NAMESPACES, { name: namespace })
    // What the namespace controller would do.
    await client.delete(DISKS, { namespace, name: 'held' })
    await client.delete(POOLS, { namespace, name: 'lab' })
    await gone(DISKS, { namespace, name: 'held' })
    await gone(POOLS, { namespace, name: 'lab' })
  })
})

test('A disk whose Job is done, but whose file has gone, is never made again, also by an operator that has just started', async () => {
  const namespace = await makeNamespace('missing')
  await pool(namespace)
  const { metadata } = await disk(namespace, 'alice')
  await waitFor(DISKS, { namespace, name: 'alice' }, 'Ready', 'True', 'Ready')
  const uid = metadata.uid ?? ''
  ;(node.files as Set<string>).delete(uid)
  node.poke()
  await waitFor(DISKS, { namespace, name: 'alice' }, 'Ready', 'False', 'DataMissing')
  await operator.kill()
  operator = await startOperator()
  await disk(namespace, 'bob')
  await waitFor(DISKS, { namespace, name: 'bob' }, 'Ready', 'True', 'Ready')
  expect(node.made.get(uid)).toBe(1)
  await waitFor(DISKS, { namespace, name: 'alice' }, 'Ready', 'False', 'DataMissing')
})

test('Nothing is written while nothing changes, and no user’s mistake left a stack trace in the log', async () => {
  const versions = async () => {
    const lists = await Promise.all(
      [DISKS, POOLS, JOBS, SERVICES, STATEFUL_SETS].map(resource => client.list(resource as Resource)),
    )
    return lists
      .flatMap(({ items }) => items.map(({ metadata }) => `${metadata.uid} ${metadata.resourceVersion}`))
      .sort()
  }
  // Whatever is still on its way arrives first.
  let before: string[] = []
  await vi.waitFor(
    async () => {
      const last = before
      before = await versions()
      expect(before).toEqual(last)
    },
    { timeout: PATIENCE, interval: 3000 },
  )
  await new Promise(resolve => setTimeout(resolve, 5000))
  expect(await versions()).toEqual(before)
  const bad = operator.lines.filter(
    line =>
      line.err !== undefined || line.error !== undefined || line.text !== undefined || line.level === 'error',
  )
  expect(bad).toEqual([])
})
