/**
 * The CSI driver's Identity and Controller services over a real socket, on a real API server with the real operator,
 * agent and server. First each case of csi-sanity, by its name; then what it does not ask.
 */
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import type { VolumeCapability } from '../../operator/csi/protocol/messages.ts'
import { check, run } from '../harness.ts'
import { NAMESPACE, POOL, startPool, type TestPool } from '../kube/pool.ts'
import { PYTHON } from '../libnbd.ts'
import { type Driver, startDriver } from './driver.ts'

const MIB = 2 ** 20
const SLOW = { timeout: 60_000, interval: 100 }
const NODES = ['node-a', 'node-b']
const MISSING = 'fake-vol-id-0123456789'

let pool: TestPool
let driver: Driver

beforeAll(async () => {
  pool = await startPool({ quota: '40Gi' })
  for (const name of NODES) {
    await pool.plane.client.create(
      { group: '', version: 'v1', kind: 'Node', plural: 'nodes', namespaced: false },
      { apiVersion: 'v1', kind: 'Node', metadata: { name } },
    )
  }
  driver = await startDriver(['--kubeconfig', pool.plane.kubeconfig])
}, 300_000)

afterAll(async () => {
  await driver?.[Symbol.asyncDispose]()
  await pool?.[Symbol.asyncDispose]()
})

const mount: VolumeCapability = {
  mount: { fsType: '', mountFlags: [], volumeMountGroup: '' },
  accessMode: { mode: 'SINGLE_NODE_WRITER' },
}
const block: VolumeCapability = { block: {}, accessMode: { mode: 'SINGLE_NODE_WRITER' } }
const parameters = { pool: POOL, poolNamespace: NAMESPACE }
const bytes = (required: number, limit = 0) => ({
  requiredBytes: String(required),
  limitBytes: String(limit),
})
const refused = (code: string, message: string | RegExp = '') =>
  expect.objectContaining({ code, message: expect.stringMatching(message) })

let names = 0
/** As csi-sanity makes them. */
const newName = () => `sanity-volume-${(names++).toString(16).toUpperCase().padStart(8, '0')}-A1B2C3D4`

async function make(fields: object = {}, name = newName()) {
  const request = { name, parameters, volumeCapabilities: [mount], capacityRange: bytes(16 * MIB), ...fields }
  return (await driver.call('CreateVolume', request)).volume
}

const remove = (volumeId: string) => driver.call('DeleteVolume', { volumeId })
const publish = (volumeId: string, nodeId: string, fields: object = {}) =>
  driver.call('ControllerPublishVolume', { volumeId, nodeId, volumeCapability: mount, ...fields })
const unpublish = (volumeId: string, nodeId: string) =>
  driver.call('ControllerUnpublishVolume', { volumeId, nodeId })
const diskOf = async (volumeId: string) => (await pool.disk(volumeId.split('/')[1] ?? '')) as OnDemandDisk

/** A volume for one test. */
async function volume(fields: object = {}) {
  const made = await make(fields)
  return Object.assign(made, {
    async [Symbol.asyncDispose]() {
      await unpublish(made.volumeId, '')
      await remove(made.volumeId)
    },
  })
}

describe('Identity Service', () => {
  test('GetPluginInfo: name and version', async () => {
    const { name, vendorVersion } = await driver.call('GetPluginInfo')
    expect(name).toBe('csi.ondemanddisk.dev')
    expect(name).toMatch(/^[a-zA-Z][A-Za-z0-9-._]{0,61}[a-zA-Z]$/)
    expect(vendorVersion).not.toBe('')
  })

  test('GetPluginCapabilities: appropriate capabilities', async () => {
    const { capabilities } = await driver.call('GetPluginCapabilities')
    expect(
      capabilities.map(({ service, volumeExpansion }) => service?.type ?? volumeExpansion?.type),
    ).toEqual(['CONTROLLER_SERVICE', 'ONLINE'])
  })

  test('Probe: ready', async () => {
    expect(await driver.call('Probe')).toEqual({ ready: { value: true } })
  })
})

describe('Controller Service', () => {
  test('ControllerGetCapabilities: what is there', async () => {
    const { capabilities } = await driver.call('ControllerGetCapabilities')
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
    await expect(driver.raw('ControllerGetVolume', { volumeId: 'a/b' })).rejects.toEqual(
      refused('UNIMPLEMENTED'),
    )
  })

  describe('GetCapacity', () => {
    test('without optional values, and of a pool', async () => {
      const all = await driver.call('GetCapacity')
      const one = await driver.call('GetCapacity', { parameters })
      expect(one).toEqual(all)
      expect(Number(one.availableCapacity)).toBeGreaterThan(2 ** 30)
      expect(Number(one.availableCapacity)).toBeLessThanOrEqual(40 * 2 ** 30)
      const none = await driver.call('GetCapacity', { parameters: { ...parameters, pool: 'none' } })
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
      const capacityRange = bytes(10 * 2 ** 30, 10 * 2 ** 30)
      const first = await make({ capacityRange }, name)
      expect(first.capacityBytes).toBe(String(10 * 2 ** 30))
      expect(await make({ capacityRange }, name)).toEqual(first)
      await expect(make({ capacityRange: bytes(20 * 2 ** 30, 20 * 2 ** 30) }, name)).rejects.toEqual(
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
      for (const id of [MISSING, `${NAMESPACE}/none`, '../../etc/passwd'])
        expect(await remove(id)).toEqual({})
    })
  })

  describe('ValidateVolumeCapabilities', () => {
    test('needs an id, capabilities and a volume', async () => {
      const validate = (volumeId: string, volumeCapabilities = [mount]) =>
        driver.call('ValidateVolumeCapabilities', { volumeId, volumeCapabilities })
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
        driver.call('ValidateVolumeCapabilities', {
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
      uri: expect.stringMatching(`^nbd://lab\\.default\\.svc:10809/${volumeId.split('/')[1]}/[0-9a-f]{24}$`),
      readonly: 'false',
      filesystem: 'ext4',
    })
    await again(() => unpublish(volumeId, 'node-a'))
    await again(() => remove(volumeId))
    expect(pool.jobs.get(`odd-${name}`)).toBeUndefined()
  })

  describe('ListVolumes', () => {
    test('presence of new volumes and absence of deleted ones, in pages, with their nodes', async () => {
      const list = async () =>
        (await driver.call('ListVolumes')).entries.map(({ volume: { volumeId } }) => volumeId)
      const before = await list()
      const made = await Promise.all([make(), make(), make()])
      const ids = made.map(({ volumeId }) => volumeId)
      const [first = ''] = ids
      await publish(first, 'node-a')
      expect((await list()).sort()).toEqual([...before, ...ids].sort())
      await vi.waitFor(async () => {
        const { entries } = await driver.call('ListVolumes')
        const entry = entries.find(({ volume: { volumeId } }) => volumeId === first)
        expect(entry).toMatchObject({
          volume: { capacityBytes: String(16 * MIB) },
          status: { publishedNodeIds: ['node-a'] },
        })
      }, SLOW)
      const paged: string[] = []
      for (let startingToken = ''; ; ) {
        const page = await driver.call('ListVolumes', { maxEntries: 2, startingToken })
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
      await expect(driver.call('ListVolumes', { startingToken: 'invalid-token' })).rejects.toEqual(
        refused('ABORTED'),
      )
    })
  })

  describe('ControllerExpandVolume', () => {
    const expand = (
      volumeId: string,
      capacityRange: object | null,
      volumeCapability: VolumeCapability | null = null,
    ) => driver.call('ControllerExpandVolume', { volumeId, capacityRange, volumeCapability } as object)

    test('needs an id, a range and a volume', async () => {
      await expect(expand('', bytes(1))).rejects.toEqual(refused('INVALID_ARGUMENT', 'volume_id'))
      await expect(expand(`${NAMESPACE}/none`, null)).rejects.toEqual(
        refused('INVALID_ARGUMENT', 'capacity_range'),
      )
      await expect(expand(MISSING, bytes(1))).rejects.toEqual(refused('NOT_FOUND'))
    })

    test('works, also again, and never shrinks', async () => {
      await using made = await volume()
      const { volumeId } = made
      const grown = { capacityBytes: String(32 * MIB), nodeExpansionRequired: true }
      expect(await expand(volumeId, bytes(32 * MIB, 32 * MIB), mount)).toEqual(grown)
      expect(await expand(volumeId, bytes(32 * MIB, 32 * MIB), mount)).toEqual(grown)
      expect(await expand(volumeId, bytes(16 * MIB), mount)).toEqual(grown)
      await expect(expand(volumeId, bytes(0, 16 * MIB), mount)).rejects.toEqual(
        refused('OUT_OF_RANGE', 'shrink'),
      )
      const { uid = '' } = (await diskOf(volumeId)).metadata
      expect((await stat(join(pool.volume, 'disks', uid))).size).toBe(32 * MIB)
      await expect(expand(volumeId, bytes(50 * 2 ** 30), mount)).rejects.toEqual(
        refused('RESOURCE_EXHAUSTED', 'left'),
      )
      expect((await diskOf(volumeId)).spec.size).toBe(32 * MIB)
    })

    test('of a raw block volume', async () => {
      await using made = await volume({ volumeCapabilities: [block] })
      const { volumeId } = made
      const { uid = '' } = (await diskOf(volumeId)).metadata
      const file = join(pool.volume, 'disks', uid)
      expect((await stat(file)).blocks).toBe(0)
      expect(await expand(volumeId, bytes(32 * MIB), block)).toEqual({
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
      driver.call('ControllerModifyVolume', { volumeId, mutableParameters })

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
      const uri = pool.uri(volumeId.split('/')[1] ?? '')
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

describe('A volume that cannot be made', () => {
  test('for want of a pool or of room is refused, and nothing of it stays', async () => {
    await expect(make({ parameters: { ...parameters, pool: 'none' } })).rejects.toEqual(
      refused('INVALID_ARGUMENT', 'DiskPool none'),
    )
    await expect(make({ capacityRange: bytes(2 ** 40) })).rejects.toEqual(
      refused('RESOURCE_EXHAUSTED', 'spec.quota'),
    )
    await vi.waitFor(async () => {
      const sizes = (await pool.disks()).map(({ spec }) => spec.size ?? 0)
      expect(Math.max(0, ...sizes)).toBeLessThan(2 ** 40)
    }, SLOW)
  })

  test('under a name that somebody else has taken is refused, and theirs is left alone', async () => {
    await pool.apply('theirs', { size: 16 * MIB })
    await expect(make({}, 'theirs')).rejects.toEqual(refused('ALREADY_EXISTS', 'has not been made'))
    expect(await pool.disk('theirs')).toBeDefined()
    await pool.remove('theirs')
    await vi.waitFor(async () => expect(await pool.disk('theirs')).toBeUndefined(), SLOW)
  })

  test('in time says what it waits for, and is found by the next call', async () => {
    const name = newName()
    await pool.operator.kill()
    const request = { name, parameters, volumeCapabilities: [mount], capacityRange: bytes(16 * MIB) }
    await expect(driver.call('CreateVolume', request, 3000)).rejects.toEqual(
      refused('DEADLINE_EXCEEDED', 'operator has not looked'),
    )
    await expect(driver.call('CreateVolume', { ...request, parameters: { pool: POOL } })).rejects.toEqual(
      refused('INVALID_ARGUMENT', 'poolNamespace'),
    )
    await pool.operator.start()
    const { volumeId } = await make({}, name)
    await remove(volumeId)
  })
})

describe('Calls at once', () => {
  test('for one volume: one is at work, the others are aborted', async () => {
    const name = newName()
    const results = await Promise.allSettled(Array.from({ length: 8 }, () => make({}, name)))
    const good = results.filter(result => result.status === 'fulfilled')
    expect(good.length).toBeGreaterThanOrEqual(1)
    for (const result of results) {
      if (result.status === 'rejected') expect(result.reason).toEqual(refused('ABORTED', 'under way'))
    }
    await remove((await make({}, name)).volumeId)
  })

  test('of two drivers for two nodes: one node gets the volume', async () => {
    await using other = await startDriver(['--kubeconfig', pool.plane.kubeconfig])
    await using made = await volume()
    const { volumeId } = made
    for (let round = 0; round < 10; round++) {
      const [a, b] = await Promise.allSettled([
        publish(volumeId, 'node-a'),
        other.call('ControllerPublishVolume', { volumeId, nodeId: 'node-b', volumeCapability: mount }),
      ])
      const winners = [a, b].filter(({ status }) => status === 'fulfilled')
      expect(winners).toHaveLength(1)
      const loser = a.status === 'rejected' ? a : b
      if (loser.status === 'rejected')
        expect(loser.reason).toEqual(refused('FAILED_PRECONDITION', 'node node-'))
      await unpublish(volumeId, '')
    }
  })

  test('50 volumes are made, published and deleted, and nothing is left', { timeout: 240_000 }, async () => {
    const before = await readdir(join(pool.volume, 'disks'))
    const volumes = await Promise.all(Array.from({ length: 50 }, () => make()))
    const ids = volumes.map(({ volumeId }) => volumeId)
    await Promise.all(ids.map(id => publish(id, 'node-a')))
    await Promise.all(ids.map(id => unpublish(id, 'node-a')))
    await Promise.all(ids.map(remove))
    expect(await readdir(join(pool.volume, 'disks'))).toEqual(before)
    expect((await driver.call('ListVolumes')).entries).toEqual([])
  })
})

test('A volume that a client has open is not deleted, and says who', async () => {
  await using made = await volume()
  const { volumeId } = made
  const script = `import nbd, sys, time
h = nbd.NBD(); h.connect_uri(sys.argv[1]); time.sleep(8)`
  const holding = check(PYTHON, ['-c', script, pool.uri(volumeId.split('/')[1] ?? '')])
  await vi.waitFor(async () => expect((await diskOf(volumeId)).status?.connections).toBe(1), SLOW)
  await expect(remove(volumeId)).rejects.toEqual(refused('FAILED_PRECONDITION', '127.0.0.1'))
  await holding
  await vi.waitFor(async () => expect((await diskOf(volumeId)).status?.connections).toBe(0), SLOW)
})

test('A driver that is killed in the middle of everything has lost nothing when it is back', {
  timeout: 240_000,
}, async () => {
  const wanted = Array.from({ length: 5 }, newName)
  for (const [round, delay] of [50, 300, 1000].entries()) {
    const running = wanted.map(name => make({}, name).catch(() => undefined))
    await new Promise(resolve => setTimeout(resolve, delay))
    await driver.kill()
    await Promise.all(running)
    await driver.start()
    const volumes = await Promise.all(wanted.map(name => make({}, name)))
    expect((await pool.disks()).length, `round ${round}`).toBe(wanted.length)
    const [{ volumeId = '' } = {}] = volumes
    await publish(volumeId, 'node-a')
    await driver.kill()
    await driver.start()
    await expect(publish(volumeId, 'node-b')).rejects.toEqual(refused('FAILED_PRECONDITION', 'node-a'))
    await unpublish(volumeId, '')
    const deleting = volumes.map(made => remove(made.volumeId).catch(() => undefined))
    await new Promise(resolve => setTimeout(resolve, delay))
    await driver.kill()
    await Promise.all(deleting)
    await driver.start()
    await Promise.all(volumes.map(made => remove(made.volumeId)))
    expect(await pool.disks()).toEqual([])
  }
})

test('Nothing failed in the driver that nobody foresaw', () => {
  const errors = driver
    .log()
    .split('\n')
    .filter(line => line.includes('"level":"error"'))
  expect(errors).toEqual([])
})
