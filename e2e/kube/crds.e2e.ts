/** The CRDs on a real API server: it takes and refuses what the tables say, and drops nothing of a good object. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { badPools, goodPools, poolTransitions } from '../../crds/diskpool.cases.ts'
import { badSnapshots, goodSnapshots, snapshotTransitions } from '../../crds/disksnapshot.cases.ts'
import { badCases, goodCases, transitionCases } from '../../crds/ondemanddisk.cases.ts'
import { DISK_POOLS, DISK_SNAPSHOTS, ON_DEMAND_DISKS } from '../../crds/resources.ts'
import type { KubeClient } from '../../operator/kube/client.ts'
import { KubeError } from '../../operator/kube/kube-error.ts'
import type { KubeObject, Resource } from '../../operator/kube/objects.ts'
import { check, needPrograms } from '../harness.ts'
import { type ControlPlane, CUSTOM_RESOURCE_DEFINITIONS, startControlPlane } from './control-plane.ts'

async function keepsRules(client: KubeClient): Promise<boolean> {
  const stored = await client.get(CUSTOM_RESOURCE_DEFINITIONS, { name: 'diskpools.ondemanddisk.dev' })
  return JSON.stringify(stored).includes('x-kubernetes-validations')
}

let count = 0
const object = ({ kind }: Resource, spec: object, name = `n${++count}`): KubeObject =>
  ({
    apiVersion: 'ondemanddisk.dev/v1alpha1',
    kind,
    metadata: { name, namespace: 'default' },
    spec,
  }) as KubeObject

/**
 * The whole API server of Kubernetes 1.20 knows no rules (CEL), and drops them. That of today's release enforces them,
 * and is had for custom resources only.
 */
describe.each([
  ['Kubernetes 1.20', false],
  ['Kubernetes of today', true],
] as const)('On %s', (_, customResources) => {
  let plane: ControlPlane
  let client: KubeClient
  let enforcesRules: boolean

  beforeAll(async () => {
    plane = await startControlPlane({ customResources })
    client = plane.client
    await plane.installCrds()
    enforcesRules = customResources || (await keepsRules(client))
  }, 20 * 60_000)
  afterAll(async () => {
    await plane?.[Symbol.asyncDispose]()
  })

  /** Makes an object; what the server refuses is its reason and message. */
  async function make(resource: Resource, spec: object, name?: string): Promise<KubeObject | string> {
    try {
      return await client.create(resource, object(resource, spec, name))
    } catch (error) {
      if (error instanceof KubeError && error.code === 'Invalid') return error.message
      throw error
    }
  }

  describe.each([
    ['OnDemandDisk', ON_DEMAND_DISKS as Resource, goodCases, badCases, transitionCases],
    ['DiskPool', DISK_POOLS as Resource, goodPools, badPools, poolTransitions],
    ['DiskSnapshot', DISK_SNAPSHOTS as Resource, goodSnapshots, badSnapshots, snapshotTransitions],
  ] as const)('%s', (_, resource, good, bad, transitions) => {
    test('good ones are taken, and nothing of them is dropped', async () => {
      for (const { title, spec, name } of good) {
        const made = await make(resource, spec, name)
        expect(made, title).toMatchObject({ spec })
        await client.delete(resource, (made as KubeObject).metadata)
      }
    })

    test('bad ones are refused where they can be', async () => {
      for (const { title, spec, name, by } of bad) {
        const made = await make(resource, spec, name)
        const refused = by === 'openapi' || (by === 'cel' && enforcesRules)
        expect(typeof made, `${title}: ${JSON.stringify(made)}`).toBe(refused ? 'string' : 'object')
        if (typeof made !== 'string') await client.delete(resource, made.metadata)
      }
    })

    test('changes are refused where they can be', async () => {
      for (const { title, before, after, by } of transitions) {
        const made = (await make(resource, before, 'disk')) as KubeObject
        const changed = { ...object(resource, after, 'disk'), metadata: made.metadata }
        const refusal = await client.update(resource, changed).then(
          () => undefined,
          error => error,
        )
        if (by === 'cel' && enforcesRules) expect(refusal, title).toMatchObject({ code: 'Invalid' })
        else expect(refusal, title).toBeUndefined()
        await client.delete(resource, made.metadata)
      }
    })

    test('a status is written apart from the spec, and limited too', async () => {
      const made = (await make(resource, good[0]?.spec ?? {})) as KubeObject
      const ready = {
        type: 'Ready',
        status: 'True',
        reason: 'Fine',
        message: 'It is.',
        lastTransitionTime: '2026-11-20T10:00:00Z',
      }
      const own = resource.kind === 'DiskSnapshot' ? { size: 4096, readyToUse: true } : { uri: 'nbd://a' }
      const status = { observedGeneration: 1, conditions: [ready], ...own }
      const patched = await client.patch(
        resource,
        made.metadata,
        'merge',
        { status, spec: { quota: 1 } },
        { subresource: 'status' },
      )
      expect(patched).toMatchObject({ status })
      expect((patched as unknown as { spec: object }).spec).toEqual(
        (made as unknown as { spec: object }).spec,
      )
      for (const bad of [{ conditions: [{ ...ready, status: 'true' }] }, { observedGeneration: -1 }]) {
        const refused = client.patch(
          resource,
          made.metadata,
          'merge',
          { status: bad },
          { subresource: 'status' },
        )
        await expect(refused, JSON.stringify(bad)).rejects.toMatchObject({ code: 'Invalid' })
      }
      await client.delete(resource, made.metadata)
    })
  })

  test('kubectl shows the columns, filled', async context => {
    await needPrograms(context, 'kubectl')
    const ready = {
      type: 'Ready',
      status: 'False',
      reason: 'InvalidSpec',
      message: 'x',
      lastTransitionTime: '2026-11-20T10:00:00Z',
    }
    const disk = await client.create(
      ON_DEMAND_DISKS as Resource,
      object(ON_DEMAND_DISKS, { size: '10Gi' }, 'shown'),
    )
    const pool = await client.create(
      DISK_POOLS as Resource,
      object(DISK_POOLS, { storage: { claimName: 'c' } }, 'shown'),
    )
    for (const [resource, { metadata }] of [
      [ON_DEMAND_DISKS as Resource, disk],
      [DISK_POOLS as Resource, pool],
    ] as const) {
      const status = { conditions: [ready], uri: 'nbd://shown' }
      const fields =
        resource.kind === 'DiskPool' ? { disks: 3, spares: 2, free: 1024 } : { filesystem: 'xfs' }
      await client.patch(
        resource,
        metadata,
        'merge',
        { status: { ...status, ...fields } },
        { subresource: 'status' },
      )
    }
    const snapshot = await client.create(
      DISK_SNAPSHOTS as Resource,
      object(DISK_SNAPSHOTS, { diskName: 'shown' }, 'shown'),
    )
    const taken = { size: 4096, readyToUse: false, creationTime: '2026-11-20T10:00:00Z', conditions: [ready] }
    await client.patch(
      DISK_SNAPSHOTS as Resource,
      snapshot.metadata,
      'merge',
      { status: taken },
      { subresource: 'status' },
    )
    const get = async (...args: string[]) => {
      const text = await check('kubectl', ['--kubeconfig', plane.kubeconfig, 'get', ...args])
      return text.split('\n').map(line => line.trim().split(/\s{2,}/))
    }
    const [diskHead, diskRow] = await get('odd', 'shown')
    expect(diskHead).toEqual(['NAME', 'SIZE', 'FS', 'READY', 'REASON', 'URI', 'AGE'])
    expect(diskRow?.slice(0, -1)).toEqual(['shown', '10Gi', 'xfs', 'False', 'InvalidSpec', 'nbd://shown'])
    const [poolHead, poolRow] = await get('diskpool', 'shown', '-o', 'wide')
    expect(poolHead).toEqual(['NAME', 'DISKS', 'SPARES', 'FREE', 'READY', 'REASON', 'URI', 'AGE'])
    expect(poolRow?.slice(0, -1)).toEqual(['shown', '3', '2', '1024', 'False', 'InvalidSpec', 'nbd://shown'])
    const [snapshotHead, snapshotRow] = await get('dsnap', 'shown')
    expect(snapshotHead).toEqual(['NAME', 'DISK', 'SIZE', 'READY', 'REASON', 'TAKEN', 'AGE'])
    expect(snapshotRow?.slice(0, 5)).toEqual(['shown', 'shown', '4096', 'false', 'InvalidSpec'])
    const all = await check('kubectl', ['--kubeconfig', plane.kubeconfig, 'get', 'storage', '-o', 'name'])
    expect(all.trim().split('\n')).toEqual(
      expect.arrayContaining(['diskpool.ondemanddisk.dev/shown', 'ondemanddisk.ondemanddisk.dev/shown']),
    )
    await client.delete(ON_DEMAND_DISKS, disk.metadata)
    await client.delete(DISK_POOLS, pool.metadata)
    await client.delete(DISK_SNAPSHOTS, snapshot.metadata)
  })
})
