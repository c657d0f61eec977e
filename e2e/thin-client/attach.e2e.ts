/** `attach --via nbd` on a kernel that has the driver: Debian's, in the emulated thin client. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { check, run, type ServerProcess, scratch, startServer } from '../harness.ts'
import { COMMAND_LINE, makeGuestTree, needThinClient, toldBy } from './guest.ts'
import { signalPost } from './signal-post.ts'

/** Seconds. Node on an emulated processor takes 5 s to start, and many times that on a machine with much to do. */
const BOOT_LIMIT = 1200
const RESTARTS = 10

test('A server that is killed and started again ten times goes unnoticed by a disk of the kernel driver', {
  timeout: (BOOT_LIMIT + 120) * 1000,
}, async context => {
  await needThinClient(context, 'fio')
  await using folder = await scratch()
  await using tree = await scratch()
  await using dir = await scratch()
  using post = await signalPost()
  await makeGuestTree(tree.path, ['fio'])
  const options = ['--dir', dir.path, '--size', '256M']
  let server: ServerProcess = await startServer(options)
  await using _last = { [Symbol.asyncDispose]: () => server.kill() }
  const { port } = server
  const uri = `nbd://10.0.2.2:${port}/alice`

  const script = join(folder.path, 'script')
  await writeFile(
    script,
    `${COMMAND_LINE}
     odd attach --via nbd --watch ${uri} >/tmp/device 2>/tmp/watch &
     watcher=$!
     until [ -s /tmp/device ]; do kill -0 $watcher || { cat /tmp/watch; exit 10; }; sleep 1; done
     device=$(cat /tmp/device)
     until grep -q Watching /tmp/watch; do sleep 1; done
     [ "$(odd attach ${uri})" = $device ] || exit 11
     odd attached
     mount -t ext4 $device /mnt || exit 12
     (nc 10.0.2.2 ${post.port} </dev/null >/dev/null; touch /tmp/enough) &
     echo verifying
     while [ ! -e /tmp/enough ]; do
       fio --name=verify --directory=/mnt --size=8M --bsrange=4k-64k --rw=randwrite --direct=1 --ioengine=libaio \\
         --iodepth=8 --verify=crc32c --verify_fatal=1 --do_verify=1 >/tmp/fio 2>&1 || { cat /tmp/fio; exit 13; }
     done
     cat /tmp/watch
     umount /mnt || exit 14
     kill $watcher; wait $watcher
     [ -e /sys/block/\${device#/dev/}/pid ] || exit 15
     odd detach ${uri} || exit 16
     [ ! -e /sys/block/\${device#/dev/}/pid ] || exit 17
     echo "attached now: $(odd attached)"`,
  )

  let restarting: Promise<number> | undefined
  let hasEnded = false
  /** Returns how often the disk was in use again. */
  const restart = async () => {
    for (let round = 0; round < RESTARTS; round++) {
      await sleep(1000)
      await server.kill()
      server = await startServer(options, { port })
      while (!server.log().includes('alice')) {
        if (hasEnded) return round
        await sleep(100)
      }
    }
    await sleep(1000)
    post.close()
    return RESTARTS
  }
  const booted = await run(join(import.meta.dirname, 'boot'), [script, `${BOOT_LIMIT}`, tree.path], {
    timeout: (BOOT_LIMIT + 60) * 1000,
    env: { MEMORY: '2048' },
    onLine: line => {
      if (line === 'verifying') restarting = restart()
    },
  })
  hasEnded = true
  const restarts = await restarting
  expect(booted.status, toldBy(booted)).toBe(0)
  expect(restarts, toldBy(booted)).toBe(RESTARTS)
  expect(booted.stdout).toMatch(new RegExp(`^/dev/nbd\\d+ +nbd +rw ${uri}$`, 'm'))
  // That each new server had the disk in use again is told by its own log, above. One that is killed at once may go
  // unseen by a watcher on an emulated processor.
  expect(booted.stdout.match(/The NBD server is back/g)?.length).toBeGreaterThan(RESTARTS / 2)
  expect(booted.stdout).toMatch(/^attached now: $/m)
  expect(await server.stop()).toBe(0)
  await check('e2fsck', ['-fn', join(dir.path, 'alice')])
})
