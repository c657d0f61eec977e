/** A server that is killed and started again while a disk that is attached by FUSE is written and verified. */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { check, checkout, needPrograms, run, type ServerProcess, scratch, startServer } from '../harness.ts'
import { mountDevice, needRoot, verifyJob } from './mounts.ts'

const RESTARTS = 10

test('A server that is killed and started again ten times goes unnoticed by a disk attached by FUSE', {
  timeout: 600_000,
  // What a crash broke once is broken, whatever the next one does.
  retry: 0,
}, async context => {
  needRoot(context)
  await needPrograms(context, 'fio')
  await using dir = await scratch()
  await using folder = await scratch()
  const options = ['--dir', dir.path, '--size', '512M']
  let server: ServerProcess = await startServer(options)
  await using _last = { [Symbol.asyncDispose]: () => server.kill() }
  const { port } = server
  const uri = server.uri('alice')
  const odd = (...args: readonly string[]) => check(join(checkout, 'hack/ondemand-disk'), args)
  const device = (await odd('attach', '--via', 'fuse', uri)).trim()
  await using _device = {
    [Symbol.asyncDispose]: async () => {
      await run('umount', [device])
      await run('pkill', ['-KILL', '-f', `attach/daemon[.]ts ${uri}`])
    },
  }
  let isOver = false
  const verify = async () => {
    let runs = 0
    do {
      await check('fio', verifyJob(folder.path, '48M', '4k-64k', ++runs), { timeout: 300_000 })
    } while (!isOver)
  }
  {
    await using _mount = await mountDevice(device, folder.path)
    const verifying = verify()
    // Whatever is wrong is told when it is awaited.
    verifying.catch(() => undefined)
    for (let round = 0; round < RESTARTS; round++) {
      await sleep(500)
      await server.kill()
      server = await startServer(options, { port })
      while (!server.log().includes('alice')) await sleep(50)
    }
    isOver = true
    await verifying
    // Also what no cache of this machine holds.
    await check('sync', ['-f', folder.path])
  }
  await odd('detach', uri)
  expect(await server.stop()).toBe(0)
  await check('e2fsck', ['-fn', join(dir.path, 'alice')])
})
