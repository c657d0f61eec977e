/** What the operator makes of pools and disks, from the first object to the last. */
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import {
  CONFIG_MAPS,
  JOBS,
  NAMESPACES,
  PERSISTENT_VOLUME_CLAIMS,
  PODS,
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
import { PATIENCE, useOperator } from './operator.ts'

const operator = useOperator()
const { jobEnds, holders, makeNamespace, pool, disk, waitFor, gone } = operator

describe('A pool and its disks', () => {
  test('are made, used and deleted', async () => {
    const namespace = await makeNamespace('life')
    await pool(namespace)
    const alice = await disk(namespace, 'alice')
    await waitFor(POOLS, { namespace, name: 'lab' }, 'Ready', 'True', 'Ready')
    await waitFor(DISKS, { namespace, name: 'alice' }, 'Ready', 'True', 'Ready')
    const { status, metadata } = await operator.client.get(DISKS, { namespace, name: 'alice' })
    expect(status).toMatchObject({ attempts: 1, observedGeneration: 1 })
    expect(metadata.finalizers).toEqual([FINALIZER])
    expect(operator.node.made.get(alice.metadata.uid ?? '')).toBe(1)
    for (const resource of [JOBS, CONFIG_MAPS]) {
      await gone(resource, { namespace, name: `odd-${alice.metadata.uid}` })
    }
    expect((await operator.client.get(POOLS, { namespace, name: 'lab' })).status).toMatchObject({
      uri: 'nbd://lab.life.svc:10809',
    })
    await vi.waitFor(
      async () =>
        expect((await operator.client.get(POOLS, { namespace, name: 'lab' })).status).toMatchObject({
          disks: 1,
          provisioned: 8 * 2 ** 20,
        }),
      { timeout: PATIENCE },
    )

    holders.set('alice', '10.0.0.7')
    await operator.client.delete(DISKS, { namespace, name: 'alice' })
    const refused = await vi.waitFor(
      async () => {
        const { status: now } = await operator.client.get(DISKS, { namespace, name: 'alice' })
        const message = now?.conditions?.find(({ type }) => type === 'Ready')?.message
        expect(message).toContain('10.0.0.7')
        return message
      },
      { timeout: PATIENCE, interval: 100 },
    )
    expect(refused).toContain('force-delete')
    expect(operator.node.files.has(alice.metadata.uid ?? '')).toBe(true)

    await operator.client.delete(POOLS, { namespace, name: 'lab' })
    expect(await waitFor(POOLS, { namespace, name: 'lab' }, 'Ready', 'False', 'Deleting')).toContain('alice')

    await operator.client.patch(DISKS, { namespace, name: 'alice' }, 'merge', {
      metadata: { annotations: { 'ondemanddisk.dev/force-delete': 'true' } },
    })
    await gone(DISKS, { namespace, name: 'alice' })
    expect(operator.node.files.has(alice.metadata.uid ?? '')).toBe(false)
    await gone(POOLS, { namespace, name: 'lab' })
    expect(
      await operator.client.find(PERSISTENT_VOLUME_CLAIMS, { namespace, name: 'lab-disks' }),
    ).toBeDefined()
  })

  test('are taken over with the Job and the ConfigMap of an earlier version', async () => {
    const namespace = await makeNamespace('earlier')
    const { metadata } = await disk(namespace, 'old')
    await waitFor(DISKS, { namespace, name: 'old' }, 'Ready', 'False', 'PoolNotFound')
    const name = diskJobName(metadata.uid ?? '')
    const labels = { ...labelsOf('lab', 'make'), [DISK_LABEL]: metadata.uid ?? '' }
    const owner = { apiVersion: 'ondemanddisk.dev/v1alpha1', kind: 'OnDemandDisk', name: 'old' }
    const ownerReferences = [{ ...owner, uid: metadata.uid ?? '', controller: true }]
    await operator.client.patch(
      DISKS,
      metadata,
      'merge',
      { status: { attempts: 1 } },
      { subresource: 'status' },
    )
    await operator.client.create(CONFIG_MAPS, {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { namespace, name, labels, ownerReferences },
      data: { 'disk.json': '{}' },
    })
    await operator.client.create(JOBS, {
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
    expect(operator.node.made.get(metadata.uid ?? '')).toBe(1)
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
    const job = await vi.waitFor(
      () => operator.client.get(JOBS, { namespace, name: `odd-${metadata.uid}` }),
      {
        timeout: PATIENCE,
      },
    )
    // Kubernetes expands nothing in annotations.
    const template = job.spec?.template
    const { [OBJECT_ANNOTATION]: object = '', ...others } = template?.metadata?.annotations ?? {}
    expect(JSON.parse(object)).toMatchObject({ spec: { exportName: trick } })
    expect(others).toEqual({})
    for (const part of [job.metadata, template?.metadata?.labels, template?.spec]) {
      const { managedFields: _, ...text } = part as { managedFields?: unknown }
      expect(JSON.stringify(text)).not.toMatch(/reboot|\$\(id\)/)
    }
    const server = await operator.client.get(STATEFUL_SETS, { namespace, name: 'lab' })
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

describe('Nothing hangs for ever', () => {
  test('a disk whose pool and claim are gone', async () => {
    const namespace = await makeNamespace('lost')
    await pool(namespace)
    await disk(namespace, 'alice')
    await waitFor(DISKS, { namespace, name: 'alice' }, 'Ready', 'True', 'Ready')
    await operator.client.delete(POOLS, { namespace, name: 'lab' })
    await waitFor(POOLS, { namespace, name: 'lab' }, 'Ready', 'False', 'Deleting')
    await operator.client.patch(POOLS, { namespace, name: 'lab' }, 'merge', {
      metadata: { finalizers: null },
    })
    await gone(POOLS, { namespace, name: 'lab' })
    // What the garbage collector would do.
    await operator.client.delete(STATEFUL_SETS, { namespace, name: 'lab' })
    holders.set('alice', 'somebody')
    onTestFinished(() => void holders.delete('alice'))
    await operator.client.delete(PODS, { namespace, name: 'lab-0' }, { gracePeriodSeconds: 0 })
    await operator.client.delete(DISKS, { namespace, name: 'alice' })
    await gone(DISKS, { namespace, name: 'alice' })
  })

  test('a namespace', async () => {
    const namespace = await makeNamespace('doomed')
    holders.set('held', 'somebody')
    await pool(namespace)
    await disk(namespace, 'held')
    await waitFor(DISKS, { namespace, name: 'held' }, 'Ready', 'True', 'Ready')
    await operator.client.delete(NAMESPACES, { name: namespace })
    // What the namespace controller would do.
    await operator.client.delete(DISKS, { namespace, name: 'held' })
    await operator.client.delete(POOLS, { namespace, name: 'lab' })
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
  ;(operator.node.files as Set<string>).delete(uid)
  operator.node.poke()
  await waitFor(DISKS, { namespace, name: 'alice' }, 'Ready', 'False', 'DataMissing')
  await operator.restart()
  await disk(namespace, 'bob')
  await waitFor(DISKS, { namespace, name: 'bob' }, 'Ready', 'True', 'Ready')
  expect(operator.node.made.get(uid)).toBe(1)
  await waitFor(DISKS, { namespace, name: 'alice' }, 'Ready', 'False', 'DataMissing')
})

test('Nothing is written while nothing changes, and no user’s mistake left a stack trace in the log', () =>
  operator.expectQuiet())
