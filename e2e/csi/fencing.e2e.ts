/**
 * One writer node at a time, also where the first one is lost, or lives and does not know that it has lost the volume. The
 * nodes are two devices of this machine, each attached as its node would attach it, by what the controller has told that
 * node; so what keeps them apart is the pool's server alone.
 */
import { mkdir, open, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { VolumeCapability } from '../../operator/csi/protocol/messages.ts'
import { NODES } from '../../operator/kube/objects.ts'
import { attach, detach } from '../../server/attach/attach.ts'
import { connect } from '../../server/client/client.ts'
import { check, scratch } from '../harness.ts'
import { startPool, type TestPool } from '../kube/pool.ts'
import { PYTHON } from '../libnbd.ts'
import { startNodeApart } from './apart.ts'
import { block, parameters, refused } from './controller.ts'
import { type Driver, startDriver } from './driver.ts'

const BLOCK = 4096
const SLOW = { timeout: 30_000, interval: 50 }
/** What ext4 says when its device, or its log, is gone. */
const NO_MORE = /^(EIO|EROFS)$/
const NODE_NAMES = ['node-a', 'node-b'] as const

let pool: TestPool
let driver: Driver
let volumeId: string

beforeAll(async () => {
  pool = await startPool()
  for (const name of NODE_NAMES) {
    await pool.plane.client.create(NODES, { apiVersion: 'v1', kind: 'Node', metadata: { name } })
  }
  driver = await startDriver(['--kubeconfig', pool.plane.kubeconfig])
  const { volume } = await driver.call('CreateVolume', {
    name: 'fenced',
    parameters,
    volumeCapabilities: [block],
    capacityRange: { requiredBytes: String(2 ** 24), limitBytes: '0' },
  })
  ;({ volumeId } = volume)
}, 300_000)

afterAll(async () => {
  await driver?.[Symbol.asyncDispose]()
  await pool?.[Symbol.asyncDispose]()
})

/** Publishes a volume to a node; returns its URI with the pool's real address, which only a cluster resolves. */
async function publish(nodeId: string, fields: object = {}): Promise<string> {
  const { publishContext } = await driver.call('ControllerPublishVolume', {
    ...{ volumeId, nodeId, volumeCapability: block },
    ...fields,
  })
  return pool.uri(new URL(publishContext.uri ?? '').pathname.slice(1))
}

const unpublish = (nodeId: string) => driver.call('ControllerUnpublishVolume', { volumeId, nodeId })

/** Writes one block of a byte, durably. */
async function write(device: string, byte: number): Promise<void> {
  const handle = await open(device, 'r+')
  try {
    await handle.write(Buffer.alloc(BLOCK, byte), 0, BLOCK, 0)
    await handle.sync()
  } finally {
    await handle.close()
  }
}

async function read(device: string): Promise<number> {
  const handle = await open(device, 'r')
  try {
    const { buffer } = await handle.read(Buffer.alloc(BLOCK), 0, BLOCK, 0)
    expect(new Set(buffer).size).toBe(1)
    return buffer[0] ?? -1
  } finally {
    await handle.close()
  }
}

test('a second node is refused, by the name of the first, until that is gone', async () => {
  const uri = await publish('node-a')
  await expect(publish('node-b')).rejects.toEqual(refused('FAILED_PRECONDITION', 'node-a'))
  // The same publication again, as after a crash of whoever asked for it.
  expect(await publish('node-a')).toBe(uri)
  const first = await attach(uri, { readOnly: false, via: 'fuse' })
  await write(first.device, 1)
  await expect(publish('node-b')).rejects.toEqual(refused('FAILED_PRECONDITION', 'node-a'))
  await detach(first.device)
  await unpublish('node-a')
  const second = await attach(await publish('node-b'), { readOnly: false, via: 'fuse' })
  expect(await read(second.device)).toBe(1)
  await detach(second.device)
  await unpublish('node-b')
})

test('a node that lives, and has lost the volume, writes nothing more', async () => {
  const uriOfFirst = await publish('node-a')
  const first = await attach(uriOfFirst, { readOnly: false, via: 'fuse' })
  await write(first.device, 2)
  // By force: nobody has asked the first node, whose connection is as good as ever.
  await unpublish('node-a')
  const uriOfSecond = await publish('node-b')
  const second = await attach(uriOfSecond, { readOnly: false, via: 'fuse' })
  await write(second.device, 3)
  await expect(write(first.device, 4)).rejects.toMatchObject({ code: 'EIO' })
  await detach(first.device)
  await expect(attach(uriOfFirst, { readOnly: false, via: 'fuse' })).rejects.toThrow('ticket is not valid')
  await expect(attach(pool.uri('fenced'), { readOnly: true, via: 'fuse' })).rejects.toThrow(
    'to whom it has been given',
  )
  expect(await read(second.device)).toBe(3)
  await detach(second.device)
  await unpublish('node-b')
})

/** Whether another process has the lock of a file. Locks of both kinds (POSIX, OFD) are in each other's way. */
const IS_LOCKED = `
import fcntl, sys
try:
    fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)
    print(False)
except BlockingIOError:
    print(True)
`

/** Replaces the content of a file that is there, durably. */
async function overwrite(path: string, text: string): Promise<void> {
  const handle = await open(path, 'r+')
  try {
    await handle.write(text, 0)
    await handle.sync()
  } finally {
    await handle.close()
  }
}

test('a node that died with a volume in use, and comes back when another has it, writes nothing more', {
  timeout: 180_000,
}, async () => {
  const capability: VolumeCapability = {
    mount: { fsType: 'ext4', mountFlags: [], volumeMountGroup: '' },
    accessMode: { mode: 'SINGLE_NODE_WRITER' },
  }
  const { volume } = await driver.call('CreateVolume', {
    name: 'outlived',
    parameters,
    volumeCapabilities: [capability],
    capacityRange: { requiredBytes: String(2 ** 24), limitBytes: '0' },
  })
  const uid = (await pool.disk('outlived'))?.metadata.uid ?? ''
  const image = join(pool.volume, 'disks', uid)
  const isLocked = async () => (await check(PYTHON, ['-c', IS_LOCKED, image])) === 'True\n'
  const of = { volumeId: volume.volumeId, volumeCapability: capability }
  await using place = await scratch()
  await using first = await startNodeApart('node-a')
  await using second = await startNodeApart('node-b')
  /** All that a kubelet does for a pod; returns a file in its volume, as the pod has it. */
  const use = async (node: typeof first, name: string, uri: string) => {
    const [stagingTargetPath, targetPath] = ['staging', 'pod'].map(kind =>
      join(place.path, `${name}-${kind}`),
    )
    await mkdir(stagingTargetPath ?? '')
    const request = {
      ...of,
      publishContext: { uri, readonly: 'false' },
      stagingTargetPath: stagingTargetPath ?? '',
    }
    await node.driver.call('NodeStageVolume', request)
    await node.driver.call('NodePublishVolume', { ...request, targetPath: targetPath ?? '' })
    return {
      file: node.path(join(targetPath ?? '', 'file')),
      async leave() {
        await node.driver.call('NodeUnpublishVolume', { ...of, targetPath: targetPath ?? '' })
        await node.driver.call('NodeUnstageVolume', { ...of, stagingTargetPath: stagingTargetPath ?? '' })
      },
    }
  }

  const uriOfFirst = await publish('node-a', of)
  const onFirst = await use(first, 'a', uriOfFirst)
  await (await open(onFirst.file, 'w')).close()
  await overwrite(onFirst.file, 'written by a')
  await first.freeze()
  expect(await isLocked()).toBe(true)
  // A pod of the dead node that is just writing.
  const late = overwrite(onFirst.file, 'late write a').then(
    () => 'written',
    (error: NodeJS.ErrnoException) => error.code,
  )
  await expect(publish('node-b', of)).rejects.toEqual(refused('FAILED_PRECONDITION', 'node-a'))
  // By force: the first node answers nobody. Its connection is as open as before, until the server cuts it.
  await driver.call('ControllerUnpublishVolume', { volumeId: of.volumeId, nodeId: 'node-a' })
  const uriOfSecond = await publish('node-b', of)
  await expect.poll(isLocked, SLOW).toBe(false)
  const onSecond = await use(second, 'b', uriOfSecond)
  expect(await readFile(onSecond.file, 'utf8')).toBe('written by a')
  await overwrite(onSecond.file, 'written by b')
  expect(await isLocked()).toBe(true)
  // And is the second node's alone: one connection.
  await expect(connect(uriOfSecond)).rejects.toThrow(/already has 1 connection/)

  await first.wake()
  expect(await late).toMatch(NO_MORE)
  await expect(overwrite(onFirst.file, 'not by a any more')).rejects.toMatchObject({
    code: expect.stringMatching(NO_MORE),
  })
  await expect(connect(uriOfFirst)).rejects.toThrow('ticket is not valid')
  // What is left of it on its node can be cleared away.
  await onFirst.leave()
  expect(await readFile(onSecond.file, 'utf8')).toBe('written by b')
  await onSecond.leave()
  await driver.call('ControllerUnpublishVolume', { volumeId: of.volumeId, nodeId: 'node-b' })

  await expect.poll(isLocked, SLOW).toBe(false)
  expect(await check('/sbin/debugfs', ['-R', 'cat file', image])).toBe('written by b')
  await check('/sbin/e2fsck', ['-fn', image])
})
