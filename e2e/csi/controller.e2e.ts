/**
 * The CSI driver's Identity and Controller services over a real socket, on a real API server with the real operator,
 * agent and server: each case of csi-sanity, by its name.
 */
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test, vi } from 'vitest'
import type { VolumeCapability } from '../../operator/csi/protocol/messages.ts'
import { check, run } from '../harness.ts'
import { block, capacity, mount, nameOf, newName, parameters, refused, useController } from './controller.ts'

const MIB = 2 ** 20
const SLOW = { timeout: 60_000, interval: 100 }
const MISSING = 'fake-vol-id-0123456789'

const controller = useController({ quota: '40Gi', nodes: ['node-a', 'node-b'] })
const { call, make, remove, volume, publish, unpublish, diskOf } = controller

describe('Identity Service', () => {
  test('GetPluginInfo: name and version', async () => {
    const { name, vendorVersion } = await call('GetPluginInfo')
    expect(name).toBe('csi.ondemanddisk.dev')
    expect(name).toMatch(/^[a-zA-Z][A-Za-z0-9-._]{0,61}[a-zA-Z]$/)
    expect(vendorVersion).not.toBe('')
  })

  test('GetPluginCapabilities: appropriate capabilities', async () => {
    const { capabilities } = await call('GetPluginCapabilities')
    expect(
      capabilities.map(({ service, volumeExpansion }) => service?.type ?? volumeExpansion?.type),
    ).toEqual(['CONTROLLER_SERVICE', 'ONLINE'])
  })

  test('Probe: ready', async () => {
    expect(await call('Probe')).toEqual({ ready: { value: true } })
  })
})

describe('Controller Service', () => {
  test('ControllerGetCapabilities: what is there', async () => {
    const { capabilities } = await call('ControllerGetCapabilities')
    expect(capabilities.map(({ rpc }) => rpc.type)).toEqual([
      'CREATE_DELETE_VOLUME',
      'PUBLISH_UNPUBLISH_VOLUME',
      'LIST_VOLUMES',
      'GET_CAPACITY',
      'CREATE_DELETE_SNAPSHOT',
      'LIST_SNAPSHOTS',
      'CLONE_VOLUME',
      'PUBLISH_READONLY',
      'EXPAND_VOLUME',
      'LIST_VOLUMES_PUBLISHED_NODES',
      'SINGLE_NODE_MULTI_WRITER',
      'MODIFY_VOLUME',
    ])
  })

  test('methods that are not there say so', async () => {
    await expect(controller.driver.raw('ControllerGetVolume', { volumeId: 'a/b' })).rejects.toEqual(
      refused('UNIMPLEMENTED'),
    )
  })

  describe('GetCapacity', () => {
    test('without optional values, and of a pool', async () => {
      const all = await call('GetCapacity')
      const one = await call('GetCapacity', { parameters })
      expect(one).toEqual(all)
      expect(Number(one.availableCapacity)).toBeGreaterThan(2 ** 30)
      expect(Number(one.availableCapacity)).toBeLessThanOrEqual(40 * 2 ** 30)
      const none = await call('GetCapacity', {
        parameters: { ...parameters, pool: 'none' },
      })
      expect(none.availableCapacity).toBe('0')
    })
  })

  describe('CreateVolume', () => {
    test('without a name, or without capabilities, is refused', async () => {
      await expect(make({}, '')).rejects.toEqual(refused('INVALID_ARGUMENT', 'name'))
      await expect(make({ volumeCapabilities: [] })).rejects.toEqual(
        refused('INVALID_ARGUMENT', 'capabilities'),
      )
    })

    test('SINGLE_NODE_WRITER, without capacity', async () => {
      const name = newName()
      const { volumeId, capacityBytes } = await make({ capacityRange: null }, name)
      expect(volumeId.length).toBeLessThanOrEqual(128)
      expect(capacityBytes).toBe(String(2 ** 30))
      expect((await diskOf(volumeId)).metadata.annotations).toMatchObject({
        'ondemanddisk.dev/volume-name': name,
      })
      await remove(volumeId)
    })

    test('with capacity: 10 GiB; the same again, with another size, and from there on gone', async () => {
      const name = newName()
      const capacityRange = capacity(10 * 2 ** 30, 10 * 2 ** 30)
      const first = await make({ capacityRange }, name)
      expect(first.capacityBytes).toBe(String(10 * 2 ** 30))
      expect(await make({ capacityRange }, name)).toEqual(first)
      await expect(make({ capacityRange: capacity(20 * 2 ** 30, 20 * 2 ** 30) }, name)).rejects.toEqual(
        refused('ALREADY_EXISTS', 'capacity_range'),
      )
      await remove(first.volumeId)
      expect(await diskOf(first.volumeId)).toBeUndefined()
      await remove(first.volumeId)
    })

    test('a name of 128 characters, and names that differ in case only', async () => {
      const long = `${'x'.repeat(110)}-ABCDEF01-23456789`.slice(0, 128).padEnd(128, 'Z')
      const volumes = await Promise.all(['Case', 'case', long].map(name => make({}, name)))
      expect(new Set(volumes.map(({ volumeId }) => volumeId)).size).toBe(3)
      await Promise.all(volumes.map(({ volumeId }) => remove(volumeId)))
      await expect(make({}, 'x'.repeat(129))).rejects.toEqual(refused('INVALID_ARGUMENT', '128 bytes'))
    })

    test('with mutable parameters, and with bad ones', async () => {
      await using made = await volume({ mutableParameters: { iops: '100', allow: '127.0.0.1' } })
      expect((await diskOf(made.volumeId)).spec).toMatchObject({
        access: { allow: ['127.0.0.1'] },
        limits: { iops: 100 },
      })
      await expect(make({ mutableParameters: { colour: 'red' } })).rejects.toEqual(
        refused('INVALID_ARGUMENT', '"colour"'),
      )
      await expect(make({ mutableParameters: { allow: 'everybody' } })).rejects.toEqual(
        refused('INVALID_ARGUMENT', /spec\.access\.allow/),
      )
    })

    test('from a source that is not there', async () => {
      await expect(make({ volumeContentSource: { volume: { volumeId: MISSING } } })).rejects.toEqual(
        refused('NOT_FOUND'),
      )
    })
  })

  describe('DeleteVolume', () => {
    test('without an id is refused; of a volume that is not there it succeeds', async () => {
      await expect(remove('')).rejects.toEqual(refused('INVALID_ARGUMENT'))
      for (const id of [MISSING, `${parameters.poolNamespace}/none`, '../../etc/passwd'])
        expect(await remove(id)).toEqual({})
    })
  })

  describe('ValidateVolumeCapabilities', () => {
    test('needs an id, capabilities and a volume', async () => {
      const validate = (volumeId: string, volumeCapabilities = [mount]) =>
        call('ValidateVolumeCapabilities', { volumeId, volumeCapabilities })
      await expect(validate('')).rejects.toEqual(refused('INVALID_ARGUMENT'))
      await expect(validate(MISSING)).rejects.toEqual(refused('NOT_FOUND'))
      await using made = await volume()
      await expect(validate(made.volumeId, [])).rejects.toEqual(refused('INVALID_ARGUMENT'))
      expect((await validate(made.volumeId)).confirmed?.volumeCapabilities).toHaveLength(1)
      const many: VolumeCapability = { ...mount, accessMode: { mode: 'MULTI_NODE_MULTI_WRITER' } }
      expect(await validate(made.volumeId, [many])).toMatchObject({
        confirmed: null,
        message: expect.stringContaining('MULTI_NODE_MULTI_WRITER'),
      })
    })

    test('confirms no volume_context but that of the volume', async () => {
      // Whatever was sent was confirmed. CreateVolume gives none; Kubernetes' own parts add keys of theirs.
      await using made = await volume()
      const validate = (volumeContext: Record<string, string>) =>
        call('ValidateVolumeCapabilities', {
          volumeId: made.volumeId,
          volumeCapabilities: [mount],
          volumeContext,
        })
      const ofKubernetes = { 'storage.kubernetes.io/csiProvisionerIdentity': '17-csi.ondemanddisk.dev' }
      expect(await validate(ofKubernetes)).toMatchObject({ confirmed: { volumeContext: ofKubernetes } })
      expect(await validate({ ...ofKubernetes, pool: 'another' })).toMatchObject({
        confirmed: null,
        message: expect.stringContaining('"pool"'),
      })
    })
  })

  describe('ControllerPublishVolume', () => {
    test('needs an id, a node and a capability, all of which are there', async () => {
      await using made = await volume()
      await expect(publish('', 'node-a')).rejects.toEqual(refused('INVALID_ARGUMENT', 'volume_id'))
      await expect(publish(made.volumeId, '')).rejects.toEqual(refused('INVALID_ARGUMENT', 'node_id'))
      await expect(publish(made.volumeId, 'node-a', { volumeCapability: null })).rejects.toEqual(
        refused('INVALID_ARGUMENT', 'volume_capability'),
      )
      await expect(publish(MISSING, 'node-a')).rejects.toEqual(refused('NOT_FOUND', 'volume'))
      for (const node of ['some-fake-node-id', '../x']) {
        await expect(publish(made.volumeId, node)).rejects.toEqual(refused('NOT_FOUND', 'node'))
      }
    })

    test('of a volume that is published otherwise, or elsewhere, is refused', async () => {
      await using made = await volume()
      const { volumeId } = made
      await publish(volumeId, 'node-a')
      await expect(publish(volumeId, 'node-a', { readonly: true })).rejects.toEqual(refused('ALREADY_EXISTS'))
      await expect(publish(volumeId, 'node-b')).rejects.toEqual(refused('FAILED_PRECONDITION', 'node-a'))
      await expect(remove(volumeId)).rejects.toEqual(refused('FAILED_PRECONDITION', 'node-a'))
      await unpublish(volumeId, 'node-b')
      await expect(publish(volumeId, 'node-b')).rejects.toEqual(refused('FAILED_PRECONDITION', 'node-a'))
      await unpublish(volumeId, 'node-a')
      await publish(volumeId, 'node-b')
    })
  })

  test('ControllerUnpublishVolume: without an id it is refused; of a volume that is not there it succeeds', async () => {
    await expect(unpublish('', 'node-a')).rejects.toEqual(refused('INVALID_ARGUMENT'))
    expect(await unpublish(MISSING, 'node-a')).toEqual({})
  })

  test('volume lifecycle: works, and each step ten times is as good as once', {
    timeout: 240_000,
  }, async () => {
    const TIMES = 10
    const again = async <T>(work: () => Promise<T>): Promise<T> => {
      const first = await work()
      for (let i = 1; i < TIMES; i++) expect(await work()).toEqual(first)
      return first
    }
    const name = newName()
    const { volumeId } = await again(() => make({}, name))
    const { publishContext } = await again(() => publish(volumeId, 'node-a'))
    expect(publishContext).toEqual({
      // The last part is the ticket of this publication.
      uri: expect.stringMatching(`^nbd://lab\\.default\\.svc:10809/${nameOf(volumeId)}/[0-9a-f]{24}$`),
      readonly: 'false',
      filesystem: 'ext4',
    })
    await again(() => unpublish(volumeId, 'node-a'))
    await again(() => remove(volumeId))
    expect(controller.pool.jobs.get(`odd-${name}`)).toBeUndefined()
  })

  describe('ListVolumes', () => {
    test('presence of new volumes and absence of deleted ones, in pages, with their nodes', async () => {
      const list = async () => (await call('ListVolumes')).entries.map(({ volume: { volumeId } }) => volumeId)
      const before = await list()
      const made = await Promise.all([make(), make(), make()])
      const ids = made.map(({ volumeId }) => volumeId)
      const [first = ''] = ids
      await publish(first, 'node-a')
      expect((await list()).sort()).toEqual([...before, ...ids].sort())
      await vi.waitFor(async () => {
        const { entries } = await call('ListVolumes')
        const entry = entries.find(({ volume: { volumeId } }) => volumeId === first)
        expect(entry).toMatchObject({
          volume: { capacityBytes: String(16 * MIB) },
          status: { publishedNodeIds: ['node-a'] },
        })
      }, SLOW)
      const paged: string[] = []
      for (let startingToken = ''; ; ) {
        const page = await call('ListVolumes', { maxEntries: 2, startingToken })
        paged.push(...page.entries.map(({ volume: { volumeId } }) => volumeId))
        if (page.nextToken === '') break
        startingToken = page.nextToken
      }
      expect(paged).toEqual([...before, ...ids].sort())
      await unpublish(first, 'node-a')
      await Promise.all(ids.map(remove))
      expect(await list()).toEqual(before)
    })

    test('with an invalid starting_token is refused', async () => {
      await expect(call('ListVolumes', { startingToken: 'invalid-token' })).rejects.toEqual(
        refused('ABORTED'),
      )
    })
  })

  describe('ControllerExpandVolume', () => {
    const expand = (
      volumeId: string,
      capacityRange: object | null,
      volumeCapability: VolumeCapability | null = null,
    ) =>
      call('ControllerExpandVolume', {
        volumeId,
        capacityRange,
        volumeCapability,
      } as object)

    test('needs an id, a range and a volume', async () => {
      await expect(expand('', capacity(1))).rejects.toEqual(refused('INVALID_ARGUMENT', 'volume_id'))
      await expect(expand(`${parameters.poolNamespace}/none`, null)).rejects.toEqual(
        refused('INVALID_ARGUMENT', 'capacity_range'),
      )
      await expect(expand(MISSING, capacity(1))).rejects.toEqual(refused('NOT_FOUND'))
    })

    test('works, also again, and never shrinks', async () => {
      await using made = await volume()
      const { volumeId } = made
      const grown = { capacityBytes: String(32 * MIB), nodeExpansionRequired: true }
      expect(await expand(volumeId, capacity(32 * MIB, 32 * MIB), mount)).toEqual(grown)
      expect(await expand(volumeId, capacity(32 * MIB, 32 * MIB), mount)).toEqual(grown)
      expect(await expand(volumeId, capacity(16 * MIB), mount)).toEqual(grown)
      await expect(expand(volumeId, capacity(0, 16 * MIB), mount)).rejects.toEqual(
        refused('OUT_OF_RANGE', 'shrink'),
      )
      const { uid = '' } = (await diskOf(volumeId)).metadata
      expect((await stat(join(controller.pool.volume, 'disks', uid))).size).toBe(32 * MIB)
      await expect(expand(volumeId, capacity(50 * 2 ** 30), mount)).rejects.toEqual(
        refused('RESOURCE_EXHAUSTED', 'left'),
      )
      expect((await diskOf(volumeId)).spec.size).toBe(32 * MIB)
    })

    test('of a raw block volume', async () => {
      await using made = await volume({ volumeCapabilities: [block] })
      const { volumeId } = made
      const { uid = '' } = (await diskOf(volumeId)).metadata
      const file = join(controller.pool.volume, 'disks', uid)
      expect((await stat(file)).blocks).toBe(0)
      expect(await expand(volumeId, capacity(32 * MIB), block)).toEqual({
        capacityBytes: String(32 * MIB),
        nodeExpansionRequired: true,
      })
      expect((await stat(file)).size).toBe(32 * MIB)
      await expect(publish(volumeId, 'node-a')).rejects.toEqual(refused('INVALID_ARGUMENT', 'raw block'))
      await publish(volumeId, 'node-a', { volumeCapability: block })
    })
  })

  describe('ControllerModifyVolume', () => {
    const modify = (volumeId: string, mutableParameters: Record<string, string>) =>
      call('ControllerModifyVolume', { volumeId, mutableParameters })

    test('needs an id, a volume, and parameters that are some', async () => {
      await expect(modify('', {})).rejects.toEqual(refused('INVALID_ARGUMENT'))
      await expect(modify(MISSING, {})).rejects.toEqual(refused('NOT_FOUND'))
      await using made = await volume()
      await expect(modify(made.volumeId, { colour: 'red' })).rejects.toEqual(refused('INVALID_ARGUMENT'))
      await expect(modify(made.volumeId, { deny: 'x' })).rejects.toEqual(refused('INVALID_ARGUMENT', 'deny'))
      expect(await modify(made.volumeId, {})).toEqual({})
    })

    test('holds when it is answered: who may not connect cannot', async () => {
      await using made = await volume({ mutableParameters: { iops: '1000' } })
      const { volumeId } = made
      const uri = controller.pool.uri(nameOf(volumeId))
      const canConnect = async () => (await run('nbdinfo', ['--size', uri])).status === 0
      expect(await canConnect()).toBe(true)
      await modify(volumeId, { deny: '127.0.0.1', iops: '' })
      expect(await canConnect()).toBe(false)
      expect((await diskOf(volumeId)).spec.limits).toEqual({})
      await modify(volumeId, { deny: '', readOnly: 'true' })
      expect(await canConnect()).toBe(true)
      const info = JSON.parse(await check('nbdinfo', ['--json', uri]))
      expect(info.exports[0].is_read_only).toBe(true)
    })
  })
})

test('Nothing failed in the driver that nobody foresaw', () => {
  expect(controller.errors()).toEqual([])
})
