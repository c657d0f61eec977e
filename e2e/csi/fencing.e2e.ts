/**
 * One writer node at a time, also where the first one is lost, or lives and does not know that it has lost the volume. The
 * nodes are two devices of this machine, each attached as its node would attach it, by what the controller has told that
 * node; so what keeps them apart is the pool's server alone.
 */
import { open } from 'node:fs/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { VolumeCapability } from '../../operator/csi/protocol/messages.ts'
import { attach, detach } from '../../server/attach/attach.ts'
import { NAMESPACE, POOL, startPool, type TestPool } from '../kube/pool.ts'
import { type Driver, startDriver } from './driver.ts'

const BLOCK = 4096
const NODES = ['node-a', 'node-b'] as const
const volumeCapability: VolumeCapability = { block: {}, accessMode: { mode: 'SINGLE_NODE_WRITER' } }
const refused = (code: string, message: string | RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) })

let pool: TestPool
let driver: Driver
let volumeId: string

beforeAll(async () => {
  pool = await startPool()
  for (const name of NODES) {
    await pool.plane.client.create(
      { group: '', version: 'v1', kind: 'Node', plural: 'nodes', namespaced: false },
      { apiVersion: 'v1', kind: 'Node', metadata: { name } },
    )
  }
  driver = await startDriver(['--kubeconfig', pool.plane.kubeconfig])
  const { volume } = await driver.call('CreateVolume', {
    name: 'fenced',
    parameters: { pool: POOL, poolNamespace: NAMESPACE },
    volumeCapabilities: [volumeCapability],
    capacityRange: { requiredBytes: String(2 ** 24), limitBytes: '0' },
  })
  ;({ volumeId } = volume)
}, 300_000)

afterAll(async () => {
  await driver?.[Symbol.asyncDispose]()
  await pool?.[Symbol.asyncDispose]()
})

/** Publishes the volume to a node; returns its URI with the pool's real address, which only a cluster resolves. */
async function publish(nodeId: string): Promise<string> {
  const { publishContext } = await driver.call('ControllerPublishVolume', {
    volumeId,
    nodeId,
    volumeCapability,
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
