/**
 * The CSI driver's Node service over a real socket, with real devices (FUSE and loop) and mounts, on disks of a real
 * server. First each case of csi-sanity, by its name; then what it does not ask. Needs root.
 */
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { VolumeCapability } from '../../operator/csi/protocol/messages.ts'
import { attached } from '../../server/attach/attach.ts'
import { readMounts } from '../../server/fuse/mountinfo.ts'
import { check, type Scratch, type ServerProcess, scratch, startServer } from '../harness.ts'
import { block, refused } from './controller.ts'
import { type Driver, startDriver } from './driver.ts'

const MIB = 2 ** 20
const NODE = 'node-a'

let place: Scratch
let server: ServerProcess
let driver: Driver

/** Other tests of the machine may mount other things. */
const count = async () => ({
  devices: (await attached()).filter(({ uri }) => uri.startsWith(server.uri(''))).length,
  mounts: (await readMounts()).filter(({ mountpoint }) => mountpoint.startsWith(place.path)).length,
})

beforeAll(async () => {
  place = await scratch()
  for (const name of ['disks', 'manifests', 'staging', 'pods']) await mkdir(join(place.path, name))
  server = await startServer(['--dir', join(place.path, 'disks'), '--disks', join(place.path, 'manifests')])
  driver = await startDriver(['--services', 'node', '--node-id', NODE])
})

afterAll(async () => {
  await driver?.[Symbol.asyncDispose]()
  await server?.kill()
  await place?.[Symbol.asyncDispose]()
})

const mount = (fields: object = {}, mode = 'SINGLE_NODE_WRITER'): VolumeCapability =>
  ({
    mount: { fsType: '', mountFlags: [], volumeMountGroup: '', ...fields },
    accessMode: { mode },
  }) as VolumeCapability

let names = 0
async function declare(name: string, size: number, spec: object): Promise<void> {
  const disk = {
    apiVersion: 'ondemanddisk.dev/v1alpha1',
    kind: 'OnDemandDisk',
    metadata: { name },
    spec: { poolName: 'lab', size, ...spec },
  }
  await writeFile(join(place.path, 'manifests', `${name}.yaml`), JSON.stringify(disk))
}

/** A disk of the server as a volume, and the calls that are made for it. */
async function volume(terms: { capability?: VolumeCapability; spec?: object; readonly?: boolean } = {}) {
  const name = `volume-${names++}`
  const { capability = mount(), spec = {}, readonly = false } = terms
  const size = 32 * MIB
  await declare(name, size, spec)
  const volumeId = `default/${name}`
  const stagingTargetPath = join(place.path, 'staging', name)
  await mkdir(stagingTargetPath)
  const common = {
    volumeId,
    stagingTargetPath,
    volumeCapability: capability,
    publishContext: { uri: server.uri(name), readonly: String(readonly) },
  }
  const target = (pod = 'a') => join(place.path, 'pods', `${name}-${pod}`)
  return {
    ...{ name, volumeId, size, stagingTargetPath, target },
    stage: (fields: object = {}) => driver.call('NodeStageVolume', { ...common, ...fields }),
    publish: (fields: object = {}) =>
      driver.call('NodePublishVolume', { ...common, targetPath: target(), readonly, ...fields }),
    unpublish: (targetPath = target()) => driver.call('NodeUnpublishVolume', { volumeId, targetPath }),
    unstage: () => driver.call('NodeUnstageVolume', { volumeId, stagingTargetPath }),
    async [Symbol.asyncDispose]() {
      for (const pod of ['a', 'b'])
        await driver.call('NodeUnpublishVolume', { volumeId, targetPath: target(pod) })
      await driver.call('NodeUnstageVolume', { volumeId, stagingTargetPath })
    },
  }
}

const CAP_SYS_RESOURCE = 24n

/** Without it the kernel lets nobody grow a mounted ext4. */
async function hasSysResource(): Promise<boolean> {
  const [, mask = '0'] = /^CapEff:\s*(\w+)$/m.exec(await readFile('/proc/self/status', 'utf8')) ?? []
  return ((BigInt(`0x${mask}`) >> CAP_SYS_RESOURCE) & 1n) === 1n
}

afterEach(async () => {
  expect(await count()).toEqual({ devices: 0, mounts: 0 })
})

describe('Node Service', () => {
  test('NodeGetCapabilities and NodeGetInfo', async () => {
    const { capabilities } = await driver.call('NodeGetCapabilities')
    expect(capabilities.map(({ rpc }) => rpc.type)).toEqual([
      'STAGE_UNSTAGE_VOLUME',
      'GET_VOLUME_STATS',
      'EXPAND_VOLUME',
      'SINGLE_NODE_MULTI_WRITER',
    ])
    expect(await driver.call('NodeGetInfo')).toMatchObject({ nodeId: NODE, maxVolumesPerNode: '0' })
  })

  test('each call without what it needs is refused', async () => {
    const volumeId = 'default/x'
    const [stagingTargetPath, targetPath, volumePath] = [
      '/nowhere/staging',
      '/nowhere/target',
      '/nowhere/target',
    ]
    const volumeCapability = mount()
    const calls = [
      ['NodeStageVolume', { volumeId, stagingTargetPath, volumeCapability }],
      ['NodePublishVolume', { volumeId, targetPath, volumeCapability }],
      ['NodeUnpublishVolume', { volumeId, targetPath }],
      ['NodeUnstageVolume', { volumeId, stagingTargetPath }],
      ['NodeGetVolumeStats', { volumeId, volumePath }],
      ['NodeExpandVolume', { volumeId, volumePath }],
    ] as const
    for (const [method, request] of calls)
      for (const field of Object.keys(request)) {
        const without = { ...request, [field]: field === 'volumeCapability' ? null : '' }
        await expect(driver.call(method, without as never)).rejects.toEqual(refused('INVALID_ARGUMENT'))
      }
  })

  test('NodeGetVolumeStats and NodeExpandVolume: no such volume, no such path', async () => {
    await using made = await volume()
    await made.stage()
    for (const volumeId of ['default/none', made.volumeId])
      for (const volumePath of ['/nowhere', 'some/path'])
        for (const method of ['NodeGetVolumeStats', 'NodeExpandVolume'] as const)
          await expect(driver.call(method, { volumeId, volumePath })).rejects.toEqual(refused('NOT_FOUND'))
  })

  test('NodePublishVolume: SINGLE_NODE_SINGLE_WRITER at a second target is refused', async () => {
    await using made = await volume({ capability: mount({}, 'SINGLE_NODE_SINGLE_WRITER') })
    await made.stage()
    await made.publish()
    await expect(made.publish({ targetPath: made.target('b') })).rejects.toEqual(
      refused('FAILED_PRECONDITION', 'once only'),
    )
  })

  test('NodeUnpublishVolume removes the target path', async () => {
    await using made = await volume()
    await made.stage()
    await made.publish()
    await made.unpublish()
    expect(await readdir(join(place.path, 'pods'))).toEqual([])
  })

  test.for([
    ['mount', mount()],
    ['block', block],
  ] as const)('should work, and be idempotent: %s', async ([kind, capability]) => {
    await using made = await volume({
      capability,
      spec: kind === 'block' ? { filesystem: { type: 'none' } } : {},
    })
    for (let times = 0; times < 10; times++) await made.stage()
    for (let times = 0; times < 10; times++) await made.publish()
    expect(await count()).toEqual({ devices: 1, mounts: 2 })
    const { usage } = await driver.call('NodeGetVolumeStats', {
      volumeId: made.volumeId,
      volumePath: made.target(),
    })
    expect(usage.map(({ unit }) => unit)).toEqual(kind === 'mount' ? ['BYTES', 'INODES'] : ['BYTES'])
    expect(Number(usage[0]?.total)).toBeGreaterThan(made.size / 2)
    expect(Number(usage[0]?.total)).toBeLessThanOrEqual(made.size)
    for (let times = 0; times < 10; times++) await made.unpublish()
    for (let times = 0; times < 10; times++) await made.unstage()
  })
})

describe('Filesystems', () => {
  test.for(['ext2', 'ext4', 'xfs', 'btrfs'])('%s keeps what was written, and grows', async type => {
    const size = 320 * MIB
    await using made = await volume({
      capability: mount({ fsType: type }),
      spec: { size, filesystem: { type } },
    })
    const room = async () => {
      const { usage } = await driver.call('NodeGetVolumeStats', {
        volumeId: made.volumeId,
        volumePath: made.target(),
      })
      return Number(usage[0]?.total)
    }
    await made.stage()
    await made.publish()
    await writeFile(join(made.target(), 'file'), 'kept')
    const small = await room()
    await declare(made.name, 2 * size, { filesystem: { type } })
    await expect
      .poll(async () => (await stat(join(place.path, 'disks', made.name))).size, { timeout: 30_000 })
      .toBe(2 * size)
    const growing = driver.call('NodeExpandVolume', {
      volumeId: made.volumeId,
      volumePath: made.target(),
      capacityRange: { requiredBytes: String(2 * size), limitBytes: '0' },
    })
    const canGrow = type === 'ext4' ? await hasSysResource() : type !== 'ext2'
    if (canGrow) {
      expect((await growing).capacityBytes).toBe(String(2 * size))
      expect(await room()).toBeGreaterThan(1.5 * small)
    } else {
      await expect(growing).rejects.toEqual(refused('FAILED_PRECONDITION', 'resize2fs'))
    }
    await made.unpublish()
    await made.unstage()
    await made.stage()
    await made.publish()
    expect(await readFile(join(made.target(), 'file'), 'utf8')).toBe('kept')
    expect(await room()).toBeGreaterThan(1.5 * small)
  })

  test('a disk without a filesystem is never formatted', async () => {
    await using made = await volume({ spec: { filesystem: { type: 'none' } } })
    await expect(made.stage()).rejects.toEqual(refused('FAILED_PRECONDITION', 'no filesystem'))
    const held = await readFile(join(place.path, 'disks', made.name))
    expect(held.equals(Buffer.alloc(made.size))).toBe(true)
  })

  test('another filesystem than the one that is there is refused', async () => {
    await using made = await volume({ capability: mount({ fsType: 'xfs' }) })
    await expect(made.stage()).rejects.toEqual(refused('FAILED_PRECONDITION', 'holds ext'))
  })

  test('mount flags are used, and those that a volume cannot have are refused', async () => {
    await using made = await volume({ capability: mount({ mountFlags: ['noatime'] }) })
    await made.stage()
    expect(await check('findmnt', ['-no', 'OPTIONS', made.stagingTargetPath])).toMatch(/noatime/)
    for (const flag of ['bind', 'remount', 'loop', 'x-mount.mkdir', 'a b', '-v', 'noatime,move'])
      await expect(made.stage({ volumeCapability: mount({ mountFlags: [flag] }) })).rejects.toEqual(
        refused('INVALID_ARGUMENT', 'cannot be mounted with'),
      )
  })

  test('read-only, of the whole volume and of one target', async () => {
    await using whole = await volume({ readonly: true })
    await whole.stage()
    await whole.publish()
    await expect(writeFile(join(whole.target(), 'file'), '')).rejects.toMatchObject({ code: 'EROFS' })
    await using one = await volume()
    await one.stage()
    await one.publish({ readonly: true })
    await one.publish({ readonly: true })
    await one.publish({ targetPath: one.target('b') })
    await expect(writeFile(join(one.target(), 'file'), '')).rejects.toMatchObject({ code: 'EROFS' })
    await writeFile(join(one.target('b'), 'file'), 'there')
    expect(await readFile(join(one.target(), 'file'), 'utf8')).toBe('there')
    await expect(one.publish()).rejects.toEqual(refused('ALREADY_EXISTS', 'read-only'))
  })
})

describe('A driver that is killed', () => {
  test('finds its volumes again; data flow on meanwhile', async () => {
    await using made = await volume()
    await made.stage()
    await made.publish()
    await driver.kill()
    await writeFile(join(made.target(), 'file'), 'written without a driver')
    await check('sync', ['-f', made.target()])
    await driver.start()
    await made.stage()
    await made.publish()
    expect(await readFile(join(made.target(), 'file'), 'utf8')).toBe('written without a driver')
  })

  test('at any point of staging leaves nothing that the next calls do not find', async () => {
    for (let round = 0; round < 5; round++) {
      await using made = await volume()
      const cut = made.stage().catch(() => undefined)
      await new Promise(resolve => setTimeout(resolve, 100 * round))
      await driver.kill()
      await cut
      await driver.start()
      if (round % 2 === 0) await made.stage()
    }
  })
})
