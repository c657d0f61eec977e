/** Disks that grow while the kernel's own driver has them, mounted and being written, in the thin client. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, stat, truncate, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { check, needPrograms, run, type ServerProcess, scratch, startServer } from '../harness.ts'
import { type Acts, serveActs } from './acts.ts'
import { COMMAND_LINE, makeGuestTree, needThinClient, toldBy } from './guest.ts'

/** Seconds. Node on an emulated processor takes 5 s to start, and many times that on a machine with much to do. */
const BOOT_LIMIT = 1200
const MIB = 2 ** 20

/** Writes and verifies, over and over, until there is a file /tmp/NAME.stop; says how it went in /tmp/NAME.status. */
const KEEP_BUSY = `keep_busy() {
       (until [ -e /tmp/$1.stop ]; do
         fio --name=verify --directory=$2 --size=2M --bsrange=4k-64k --rw=randwrite --direct=1 \\
           --ioengine=libaio --iodepth=8 --fsync=16 --verify=crc32c --verify_fatal=1 --do_verify=1 \\
           >/tmp/$1.log 2>&1 || break
         echo >>/tmp/$1.rounds
       done
       [ -e /tmp/$1.stop ]; echo $? >/tmp/$1.status) &
     }
     rounds() { cat /tmp/$1.rounds 2>/dev/null | wc -l; }
     moves() {
       until [ $(rounds $1) -ge $(($2 + 2)) ]; do
         [ ! -e /tmp/$1.status ] || { cat /tmp/$1.log; return 1; }
         sleep 1
       done
     }
     rest() {
       touch /tmp/$1.stop
       until [ -e /tmp/$1.status ]; do sleep 1; done
       [ "$(cat /tmp/$1.status)" = 0 ] || { cat /tmp/$1.log; return 1; }
     }`

/** A server that serves an open connection the size that its handshake told, and no more. */
async function startForeign(file: string): Promise<AsyncDisposable & { readonly port: number }> {
  const place = createServer().listen(0, '127.0.0.1')
  await once(place, 'listening')
  const { port } = place.address() as AddressInfo
  await new Promise(resolve => place.close(resolve))
  const child = spawn('nbdkit', ['-f', '-i', '127.0.0.1', '-p', `${port}`, 'file', file], { stdio: 'ignore' })
  const ended = once(child, 'close')
  await expect
    .poll(async () => (await run('nbdinfo', [`nbd://127.0.0.1:${port}`])).status, { timeout: 30_000 })
    .toBe(0)
  return {
    port,
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
      await ended
    },
  }
}

test('Via nbd, a disk grows under its filesystem, unless its server does not serve the new part', {
  timeout: (BOOT_LIMIT + 120) * 1000,
}, async context => {
  await needThinClient(context, 'fio', 'resize2fs', 'xfs_growfs', 'mkfs.xfs', 'xfs_repair')
  await needPrograms(context, 'nbdkit', 'nbdinfo')
  await using folder = await scratch()
  await using tree = await scratch()
  await makeGuestTree(tree.path, ['fio', 'resize2fs', 'xfs_growfs'])

  const [disks, manifests] = [join(folder.path, 'disks'), join(folder.path, 'manifests')]
  for (const path of [disks, manifests]) await mkdir(path)
  const declare = (name: string, type: string, mib: number) => {
    const spec = { poolName: 'lab', size: `${mib}Mi`, filesystem: { type } }
    const disk = { apiVersion: 'ondemanddisk.dev/v1alpha1', kind: 'OnDemandDisk', metadata: { name }, spec }
    return writeFile(join(manifests, `${name}.yaml`), JSON.stringify(disk))
  }
  await declare('data', 'ext4', 64)
  await declare('big', 'xfs', 320)
  const foreignDisk = join(folder.path, 'foreign')
  await writeFile(foreignDisk, '')
  await truncate(foreignDisk, MIB)
  await using foreign = await startForeign(foreignDisk)

  const options = ['--dir', disks, '--disks', manifests]
  let server: ServerProcess = await startServer(options)
  await using _last = { [Symbol.asyncDispose]: () => server.kill() }
  const { port } = server
  const uri = (name: string) => `nbd://10.0.2.2:${port}/${name}`
  const foreignUri = `nbd://10.0.2.2:${foreign.port}/`

  const untilGrown = (name: string, mib: number) =>
    expect.poll(async () => (await stat(join(disks, name))).size, { timeout: 60_000 }).toBe(mib * MIB)
  const acts: Acts = {
    data128: async () => {
      await declare('data', 'ext4', 128)
      await untilGrown('data', 128)
    },
    big640: async () => {
      await declare('big', 'xfs', 640)
      await untilGrown('big', 640)
    },
    kill: () => server.kill(),
    'start-with-data192': async () => {
      await declare('data', 'ext4', 192)
      server = await startServer(options, { port })
      await untilGrown('data', 192)
    },
    start: async () => {
      server = await startServer(options, { port })
    },
    'foreign-larger': () => truncate(foreignDisk, 4 * MIB),
    'foreign-smaller': () => truncate(foreignDisk, MIB / 2),
  }
  using control = await serveActs(acts)

  const script = join(folder.path, 'script')
  await writeFile(
    script,
    `${COMMAND_LINE}
     ${KEEP_BUSY}
     act() { wget -q -O /dev/null http://10.0.2.2:${control.port}/$1 || exit 9; }
     size() { echo $(($(cat /sys/block/\${1#/dev/}/size) / 2048)); }
     grow_to() { [ "$(odd grow $1)" = $(($2 * 1048576)) ]; }
     free() { df -m $1 | awk 'END { print $4 }'; }
     fill() { dd if=/dev/urandom of=$1 bs=1M count=$2 2>/dev/null && sync && sha256sum $1 >$1.sum; }
     mkdir -p /mnt/data /mnt/big

     data=$(odd attach --via nbd ${uri('data')}) || exit 10
     mount -t ext4 $data /mnt/data || exit 11
     keep_busy data /mnt/data
     moves data 0 || exit 12
     fill /mnt/data/before 8 || exit 13
     echo 'data is mounted'
     act data128
     grow_to $data 128 || exit 15
     [ $(size $data) = 128 ] || exit 59
     resize2fs $data || exit 16
     [ $(free /mnt/data) -gt 70 ] || exit 17
     fill /mnt/data/after 70 || exit 18
     moves data $(rounds data) || exit 19
     echo 'data has grown'

     act kill
     odd grow $data && exit 20
     [ $(size $data) = 128 ] || exit 21
     act start-with-data192
     [ "$(odd attach ${uri('data')})" = $data ] || exit 22
     grow_to ${uri('data')} 192 || exit 23
     [ $(size $data) = 192 ] || exit 60
     moves data $(rounds data) || exit 24
     resize2fs $data || exit 25
     fill /mnt/data/later 50 || exit 26
     act kill
     act start
     odd attach ${uri('data')} || exit 27
     moves data $(rounds data) || exit 28
     rest data || exit 29
     echo 3 >/proc/sys/vm/drop_caches
     for part in before after later; do sha256sum -c /mnt/data/$part.sum || exit 30; done
     umount /mnt/data
     odd detach $data || exit 31
     echo 'data has grown while its server was away'

     big=$(odd attach --via nbd ${uri('big')}) || exit 40
     mount -t xfs $big /mnt/big || exit 41
     act big640
     grow_to $big 640 || exit 42
     xfs_growfs /mnt/big || exit 43
     fill /mnt/big/after 280 || exit 44
     echo 3 >/proc/sys/vm/drop_caches
     sha256sum -c /mnt/big/after.sum || exit 45
     umount /mnt/big
     odd detach $big || exit 46
     echo 'big has grown'

     foreign=$(odd attach --via nbd ${foreignUri}) || exit 50
     dd if=/dev/urandom of=$foreign bs=1M count=1 conv=fsync || exit 51
     act foreign-larger
     odd grow $foreign && exit 52
     [ $(size $foreign) = 1 ] || exit 53
     dd if=$foreign of=/dev/null bs=1M iflag=direct || exit 54
     act foreign-smaller
     odd grow $foreign && exit 55
     [ $(size $foreign) = 1 ] || exit 56
     odd detach $foreign || exit 57
     echo 'a foreign server is not trusted'`,
  )
  const booted = await run(join(import.meta.dirname, 'boot'), [script, `${BOOT_LIMIT}`, tree.path], {
    timeout: (BOOT_LIMIT + 60) * 1000,
    env: { MEMORY: '2048', PROCESSORS: '2' },
  })
  expect(control.failures, toldBy(booted)).toEqual([])
  expect(booted.status, toldBy(booted)).toBe(0)
  expect(booted.stdout).toMatch(/serves no more of the disk on the connection that \/dev\/nbd\d+ has/)
  expect(booted.stdout).toMatch(/The end of \/dev\/nbd\d+ cannot be read/)
  expect(await server.stop()).toBe(0)
  await check('e2fsck', ['-fn', join(disks, 'data')])
  await check('xfs_repair', ['-n', '-f', join(disks, 'big')])
})
