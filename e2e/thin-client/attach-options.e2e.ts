/** The options of `attach` and `detach` by the kernel's own driver, and what the next `attach` mends, in the thin client. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { check, run, type ServerProcess, scratch, startServer } from '../harness.ts'
import { COMMAND_LINE, makeGuestTree, needThinClient, toldBy } from './guest.ts'
import { signalPost } from './signal-post.ts'

/** Seconds. Node on an emulated processor takes 5 s to start, and many times that on a machine with much to do. */
const BOOT_LIMIT = 1200

test('Via nbd, disks can be read-only, give up, go lazily, and be connected again by the next attach', {
  timeout: (BOOT_LIMIT + 120) * 1000,
}, async context => {
  await needThinClient(context)
  await using folder = await scratch()
  await using tree = await scratch()
  await using dir = await scratch()
  using restarted = await signalPost()
  using stopped = await signalPost()
  await makeGuestTree(tree.path, [])
  const options = ['--dir', dir.path, '--size', '64M']
  let server: ServerProcess = await startServer(options)
  await using _last = { [Symbol.asyncDispose]: () => server.kill() }
  const { port } = server
  const uri = (name: string) => `nbd://10.0.2.2:${port}/${name}`

  const script = join(folder.path, 'script')
  await writeFile(
    script,
    `${COMMAND_LINE}
     read_directly() { dd if=$1 of=/dev/null bs=4096 count=1 iflag=direct; }
     await() { nc 10.0.2.2 $1 </dev/null >/dev/null; true; }

     device=$(odd attach --via nbd --read-only ${uri('alice')}) || exit 10
     odd attached
     read_directly $device || exit 11
     dd if=/dev/zero of=$device bs=4096 count=1 conv=fsync && exit 12
     odd attach ${uri('alice')} && exit 13
     odd detach ${uri('alice')} || exit 14
     [ ! -e /sys/block/\${device#/dev/}/pid ] || exit 15

     device=$(odd attach --via nbd ${uri('alice')}) || exit 20
     mount -t ext4 $device /mnt || exit 21
     echo before >/mnt/file; sync
     echo 'restart the server'
     await ${restarted.port}
     (echo after >>/mnt/file; sync; touch /tmp/written) &
     [ "$(odd attach ${uri('alice')})" = $device ] || exit 22
     until [ -e /tmp/written ]; do sleep 1; done
     echo 3 >/proc/sys/vm/drop_caches
     [ "$(cat /mnt/file)" = "before
after" ] || exit 23
     odd detach ${uri('alice')} && exit 24

     odd detach --lazy ${uri('alice')} || exit 30
     read_directly $device && exit 31
     umount /mnt
     until [ ! -e /sys/block/\${device#/dev/}/pid ]; do sleep 1; done

     device=$(odd attach --via nbd --dead-after 2s ${uri('bob')}) || exit 40
     read_directly $device || exit 41
     other=$(odd attach --via nbd ${uri('carol')}) || exit 46
     echo 'stop the server'
     await ${stopped.port}
     read_directly $device && exit 42
     odd detach ${uri('bob')} || exit 43
     read_directly $other &
     reader=$!
     sleep 1
     kill -0 $reader || exit 47
     odd detach --lazy ${uri('carol')} || exit 48
     wait $reader && exit 49
     echo "attached now: $(odd attached)"`,
  )

  let acting: Promise<void> | undefined
  const restart = async () => {
    await server.kill()
    server = await startServer(options, { port })
    restarted.close()
  }
  const stop = async () => {
    await server.kill()
    stopped.close()
  }
  const booted = await run(join(import.meta.dirname, 'boot'), [script, `${BOOT_LIMIT}`, tree.path], {
    timeout: (BOOT_LIMIT + 60) * 1000,
    env: { MEMORY: '2048' },
    onLine: line => {
      if (line === 'restart the server') acting = restart()
      if (line === 'stop the server') acting = acting?.then(stop)
    },
  })
  await acting
  expect(booted.status, toldBy(booted)).toBe(0)
  expect(booted.stdout).toMatch(new RegExp(`^/dev/nbd\\d+ +nbd +ro ${uri('alice')}$`, 'm'))
  expect(booted.stdout).toContain('for reading only')
  expect(booted.stdout).toContain('is mounted on /mnt')
  expect(booted.stdout).toMatch(/^attached now: $/m)
  // The file system lost its device while it was mounted, so there may be a journal to be played back; no more than that.
  expect((await run('e2fsck', ['-fp', join(dir.path, 'alice')])).status).toBeLessThan(2)
  await check('e2fsck', ['-fn', join(dir.path, 'alice')])
})
