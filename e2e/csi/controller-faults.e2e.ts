/** The CSI driver's Controller service where it is in trouble: no room, calls at once, clients in the way, a kill. */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test, vi } from 'vitest'
import { check } from '../harness.ts'
import { PYTHON } from '../libnbd.ts'
import { capacity, mount, nameOf, newName, parameters, refused, useController } from './controller.ts'
import { startDriver } from './driver.ts'

const MIB = 2 ** 20
const SLOW = { timeout: 60_000, interval: 100 }

const controller = useController({ quota: '40Gi', nodes: ['node-a', 'node-b'] })
const { call, make, remove, volume, publish, unpublish, diskOf } = controller

describe('A volume that cannot be made', () => {
  test('for want of a pool or of room is refused, and nothing of it stays', async () => {
    await expect(make({ parameters: { ...parameters, pool: 'none' } })).rejects.toEqual(
      refused('INVALID_ARGUMENT', 'DiskPool none'),
    )
    await expect(make({ capacityRange: capacity(2 ** 40) })).rejects.toEqual(
      refused('RESOURCE_EXHAUSTED', 'spec.quota'),
    )
    await vi.waitFor(async () => {
      const sizes = (await controller.pool.disks()).map(({ spec }) => spec.size ?? 0)
      expect(Math.max(0, ...sizes)).toBeLessThan(2 ** 40)
    }, SLOW)
  })

  test('under a name that somebody else has taken is refused, and theirs is left alone', async () => {
    await controller.pool.apply('theirs', { size: 16 * MIB })
    await expect(make({}, 'theirs')).rejects.toEqual(refused('ALREADY_EXISTS', 'has not been made'))
    expect(await controller.pool.disk('theirs')).toBeDefined()
    await controller.pool.remove('theirs')
    await vi.waitFor(async () => expect(await controller.pool.disk('theirs')).toBeUndefined(), SLOW)
  })

  test('in time says what it waits for, and is found by the next call', async () => {
    const name = newName()
    await controller.pool.operator.kill()
    const request = { name, parameters, volumeCapabilities: [mount], capacityRange: capacity(16 * MIB) }
    await expect(call('CreateVolume', request, 3000)).rejects.toEqual(
      refused('DEADLINE_EXCEEDED', 'operator has not looked'),
    )
    await expect(call('CreateVolume', { ...request, parameters: { pool: parameters.pool } })).rejects.toEqual(
      refused('INVALID_ARGUMENT', 'poolNamespace'),
    )
    await controller.pool.operator.start()
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
    await using other = await startDriver(['--kubeconfig', controller.pool.plane.kubeconfig])
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
    const before = await readdir(join(controller.pool.volume, 'disks'))
    const volumes = await Promise.all(Array.from({ length: 50 }, () => make()))
    const ids = volumes.map(({ volumeId }) => volumeId)
    await Promise.all(ids.map(id => publish(id, 'node-a')))
    await Promise.all(ids.map(id => unpublish(id, 'node-a')))
    await Promise.all(ids.map(remove))
    expect(await readdir(join(controller.pool.volume, 'disks'))).toEqual(before)
    expect((await call('ListVolumes')).entries).toEqual([])
  })
})

test('A volume that a client has open is not deleted, and says who', async () => {
  await using made = await volume()
  const { volumeId } = made
  const script = `import nbd, sys, time
h = nbd.NBD(); h.connect_uri(sys.argv[1]); time.sleep(8)`
  const holding = check(PYTHON, ['-c', script, controller.pool.uri(nameOf(volumeId))])
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
    await controller.driver.kill()
    await Promise.all(running)
    await controller.driver.start()
    const volumes = await Promise.all(wanted.map(name => make({}, name)))
    expect((await controller.pool.disks()).length, `round ${round}`).toBe(wanted.length)
    const [{ volumeId = '' } = {}] = volumes
    await publish(volumeId, 'node-a')
    await controller.driver.kill()
    await controller.driver.start()
    await expect(publish(volumeId, 'node-b')).rejects.toEqual(refused('FAILED_PRECONDITION', 'node-a'))
    await unpublish(volumeId, '')
    const deleting = volumes.map(made => remove(made.volumeId).catch(() => undefined))
    await new Promise(resolve => setTimeout(resolve, delay))
    await controller.driver.kill()
    await Promise.all(deleting)
    await controller.driver.start()
    await Promise.all(volumes.map(made => remove(made.volumeId)))
    expect(await controller.pool.disks()).toEqual([])
  }
})

test('Nothing failed in the driver that nobody foresaw', () => {
  expect(controller.errors()).toEqual([])
})
