/** What the operator cannot make of pools and disks, and how it says so. */
import { describe, expect, test, vi } from 'vitest'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import {
  JOBS,
  PERSISTENT_VOLUME_CLAIMS,
  type Resource,
  SERVICES,
  STATEFUL_SETS,
} from '../../operator/kube/objects.ts'
import { DISKS, POOLS } from '../../operator/pool/world.ts'
import { PATIENCE, useOperator } from './operator.ts'

const RESOURCE_QUOTAS: Resource = {
  group: '',
  version: 'v1',
  kind: 'ResourceQuota',
  plural: 'resourcequotas',
  namespaced: true,
}

const operator = useOperator()
const { jobEnds, makeNamespace, pool, disk, waitFor, gone } = operator

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
    expect((await operator.client.get(DISKS, { namespace, name: 'bad' })).status?.attempts).toBe(2)
    const failed = await operator.client.list(JOBS, { namespace })
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
    await operator.client.delete(DISKS, { namespace, name: 'twin' })
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
        const { items } = await operator.client.list(DISKS, { namespace })
        const reasonOf = ({ status }: OnDemandDisk) =>
          status?.conditions?.find(({ type }) => type === 'Ready')?.reason
        const large = items.filter(({ metadata }) => metadata.name === 'large').map(reasonOf)
        expect(['QuotaExceeded', 'TooManyDisks']).toContain(large[0])
        const others = items.filter(({ metadata }) => metadata.name !== 'large').map(reasonOf)
        expect(others.sort()).toEqual(['Ready', 'Ready', 'Ready', 'TooManyDisks', 'TooManyDisks'])
      },
      { timeout: PATIENCE },
    )
    await operator.client.patch(POOLS, { namespace, name: 'lab' }, 'merge', {
      spec: { quota: '100Mi', onDemand: { maxDisks: 100 } },
    })
    for (const name of ['a', 'b', 'c', 'd', 'large'])
      await waitFor(DISKS, { namespace, name }, 'Ready', 'True', 'Ready')
  })

  test('an object that is not ours stands in the way', async () => {
    const namespace = await makeNamespace('taken')
    await operator.client.create(SERVICES, {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { namespace, name: 'lab' },
      spec: { ports: [{ port: 80 }] },
    } as never)
    await pool(namespace)
    expect(await waitFor(POOLS, { namespace, name: 'lab' }, 'Ready', 'False', 'NameTaken')).toContain(
      'Service lab',
    )
    expect(await operator.client.find(STATEFUL_SETS, { namespace, name: 'lab' })).toBeUndefined()
    // That it goes is noticed long before the pool would be looked at again.
    await operator.client.delete(SERVICES, { namespace, name: 'lab' })
    await waitFor(POOLS, { namespace, name: 'lab' }, 'Ready', 'True', 'Ready')
  })

  test('an object of the pool that the API server does not take', async () => {
    const namespace = await makeNamespace('untaken')
    const ref = { namespace, name: 'lab' }
    await pool(namespace, { server: { serviceType: 'NodePort', nodePort: 80 } })
    expect(await waitFor(POOLS, ref, 'Ready', 'False', 'InvalidSpec')).toMatch(/^spec\.server: .*nodePort/)
    await operator.client.patch(POOLS, ref, 'merge', { spec: { server: { nodePort: null } } })
    await waitFor(POOLS, ref, 'Ready', 'True', 'Ready')
    await operator.client.patch(POOLS, ref, 'merge', { spec: { server: { podLabels: { 'no key': 'x' } } } })
    expect(await waitFor(POOLS, ref, 'Ready', 'False', 'InvalidSpec')).toMatch(/^spec\.server: .*no key/)
  })

  test('a Job that the namespace has no place for, which is not asked for over and over', async () => {
    const namespace = await makeNamespace('crammed')
    const quota = { namespace, name: 'no-jobs' }
    await operator.client.create(RESOURCE_QUOTAS, {
      apiVersion: 'v1',
      kind: 'ResourceQuota',
      metadata: quota,
      spec: { hard: { 'count/jobs.batch': '0' } },
    } as never)
    // What the controller-manager would do.
    const counted = { hard: { 'count/jobs.batch': '0' }, used: { 'count/jobs.batch': '0' } }
    await operator.client.patch(
      RESOURCE_QUOTAS,
      quota,
      'merge',
      { status: counted },
      { subresource: 'status' },
    )
    await pool(namespace)
    await waitFor(POOLS, { namespace, name: 'lab' }, 'Ready', 'True', 'Ready')
    await disk(namespace, 'alice')
    const message = await waitFor(DISKS, { namespace, name: 'alice' }, 'Ready', 'False', 'JobRefused')
    expect(message).toContain('exceeded quota')
    await new Promise(resolve => setTimeout(resolve, 5000))
    const { status } = await operator.client.get(DISKS, { namespace, name: 'alice' })
    expect(status?.attempts).toBeLessThan(20)
    await operator.client.delete(RESOURCE_QUOTAS, quota)
    await waitFor(DISKS, { namespace, name: 'alice' }, 'Ready', 'True', 'Ready')
  })

  test('a claim that is not ours stands in the way', async () => {
    const namespace = await makeNamespace('claimed')
    await operator.client.create(PERSISTENT_VOLUME_CLAIMS, {
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
    await operator.client.patch(PERSISTENT_VOLUME_CLAIMS, { namespace, name: 'lab-disks' }, 'merge', claim)
    await operator.client.delete(PERSISTENT_VOLUME_CLAIMS, { namespace, name: 'lab-disks' })
    await waitFor(POOLS, { namespace, name: 'lab' }, 'Ready', 'True', 'Ready')
  })
})

test('Nothing is written while nothing changes, and no user’s mistake left a stack trace in the log', () =>
  operator.expectQuiet())
