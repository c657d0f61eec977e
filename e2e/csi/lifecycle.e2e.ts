/**
 * The life of a volume through both services of one driver, over its real socket, on a real pool with real devices and
 * mounts: the calls that csi-sanity makes, in its order, each of them twice.
 */
import { mkdir, open, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, onTestFailed, test, vi } from 'vitest'
import type { VolumeCapability } from '../../operator/csi/protocol/messages.ts'
import { NODES } from '../../operator/kube/objects.ts'
import { attached } from '../../server/attach/attach.ts'
import { readMounts } from '../../server/fuse/mountinfo.ts'
import { type Scratch, scratch } from '../harness.ts'
import { NAMESPACE, POOL, startPool, type TestPool } from '../kube/pool.ts'
import { type Driver, startDriver } from './driver.ts'

const MIB = 2 ** 20
const NODE = 'node-a'

let pool: TestPool
let driver: Driver
let place: Scratch

beforeAll(async () => {
  place = await scratch()
  pool = await startPool()
  await pool.plane.client.create(NODES, { apiVersion: 'v1', kind: 'Node', metadata: { name: NODE } })
  const services = ['--services', 'controller,node', '--node-id', NODE]
  driver = await startDriver(['--kubeconfig', pool.plane.kubeconfig, ...services])
}, 300_000)

afterAll(async () => {
  await driver?.[Symbol.asyncDispose]()
  await pool?.[Symbol.asyncDispose]()
  await place?.[Symbol.asyncDispose]()
})

const accessMode = { mode: 'SINGLE_NODE_WRITER' } as const
const KINDS: readonly (readonly [string, string, number, VolumeCapability])[] = [
  // The smallest that xfs can be; it grows in use on every kernel.
  [
    'mount, and the driver killed after each call',
    'mount',
    320 * MIB,
    { mount: { fsType: 'xfs', mountFlags: [], volumeMountGroup: '' }, accessMode },
  ],
  ['block', 'block', 16 * MIB, { block: {}, accessMode }],
]

/** The first bytes of a file or device. */
async function head(path: string, length: number): Promise<string> {
  const handle = await open(path)
  try {
    return (await handle.read(Buffer.alloc(length), 0, length, 0)).buffer.toString()
  } finally {
    await handle.close()
  }
}

test.each(KINDS)('should work, and be idempotent: %s', { timeout: 300_000 }, async (...terms) => {
  const [, kind, size, volumeCapability] = terms
  /** Each call is made twice; its client asks again when the driver has died meanwhile. */
  const call: Driver['call'] = async (method, request) => {
    const first = await driver.call(method, request)
    if (kind === 'mount') {
      await driver.kill()
      await driver.start()
    }
    const second = await driver.call(method, request)
    expect(second).toEqual(first)
    return second
  }
  const [stagingTargetPath, targetPath] = ['staging', 'pod'].map(name =>
    join(place.path, `${kind}-${name}`),
  ) as [string, string]
  await mkdir(stagingTargetPath)
  const { volume } = await call('CreateVolume', {
    name: `lifecycle-${kind}`,
    parameters: { pool: POOL, poolNamespace: NAMESPACE },
    volumeCapabilities: [volumeCapability],
    capacityRange: { requiredBytes: String(size), limitBytes: '0' },
  })
  const { volumeId } = volume
  // Of a test that fails nothing stays mounted.
  onTestFailed(async () => {
    await driver.call('NodeUnpublishVolume', { volumeId, targetPath })
    await driver.call('NodeUnstageVolume', { volumeId, stagingTargetPath })
  })
  const of = { volumeId, volumeCapability }
  const { publishContext } = await call('ControllerPublishVolume', { ...of, nodeId: NODE })
  // Only a cluster resolves the pool's name.
  const uri = pool.uri(new URL(publishContext.uri ?? '').pathname.slice(1))
  const staged = { ...of, stagingTargetPath, publishContext: { ...publishContext, uri } }
  await call('NodeStageVolume', staged)
  await call('NodePublishVolume', { ...staged, targetPath })

  const file = kind === 'mount' ? join(targetPath, 'file') : targetPath
  await writeFile(file, 'kept', { flush: true, flag: kind === 'mount' ? 'w' : 'r+' })
  const capacityRange = { requiredBytes: String(2 * size), limitBytes: '0' }
  const grown = await call('ControllerExpandVolume', { ...of, capacityRange })
  expect(grown).toEqual({ capacityBytes: String(2 * size), nodeExpansionRequired: true })
  await call('NodeExpandVolume', { volumeId, volumePath: targetPath, capacityRange })
  const { usage } = await call('NodeGetVolumeStats', { volumeId, volumePath: targetPath })
  expect(Number(usage[0]?.total)).toBeGreaterThan(1.5 * size)
  expect(await head(file, 4)).toBe('kept')

  await call('NodeUnpublishVolume', { volumeId, targetPath })
  await call('NodeUnstageVolume', { volumeId, stagingTargetPath })
  await call('ControllerUnpublishVolume', { volumeId, nodeId: NODE })
  // That nobody is connected any more its status says some seconds later; csi-sanity does not ask again.
  await call('DeleteVolume', { volumeId })
  expect((await attached()).filter(({ uri: other }) => other.startsWith(pool.uri('')))).toEqual([])
  expect((await readMounts()).filter(({ mountpoint }) => mountpoint.startsWith(place.path))).toEqual([])
  expect(await readdir(place.path)).not.toContain(`${kind}-pod`)
  expect(await pool.disks()).toEqual([])
  await vi.waitFor(
    async () => {
      const files = await readdir(join(pool.volume, 'disks'))
      expect(files.filter(name => !name.startsWith('.'))).toEqual([])
    },
    { timeout: 30_000 },
  )
})
