/** `attach`, `detach` and `attached` by FUSE and a loop device, and how they end. Nothing may be left. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeEach, expect, test } from 'vitest'
import {
  check,
  checkout,
  type Ended,
  needPrograms,
  run,
  type Scratch,
  scratch,
  startServer,
} from '../harness.ts'
import { until } from '../until.ts'
import { fuse, loop, mountAt, mountDevice, needRoot, PATIENCE } from './mounts.ts'

beforeEach(needRoot)

const odd = (...args: readonly string[]): Promise<Ended> => run(join(checkout, 'hack/ondemand-disk'), args)

interface Attached extends AsyncDisposable {
  readonly device: string
  readonly pid: number
}

/** The process that serves a URI; -1 where there is none. */
async function daemonOf(uri: string): Promise<number> {
  const { stdout } = await run('pgrep', ['-f', `attach/daemon[.]ts ${uri}`])
  for (const pid of stdout.split('\n').filter(line => line !== '')) {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')
    if (stat !== '' && !/\) [ZX] /.test(stat)) return Number(pid)
  }
  return -1
}

const isConfigured = async (device: string): Promise<boolean> =>
  (await run('losetup', ['-l', '-n', '-O', 'NAME'])).stdout.split('\n').some(line => line.trim() === device)

/** Attaches by FUSE. Disposing of it kills the process and waits until the device is free. */
async function attach(uri: string, ...options: readonly string[]): Promise<Attached> {
  const { status, stdout, stderr } = await odd('attach', '--via', 'fuse', uri, ...options)
  expect(stderr).toBe('')
  expect(status).toBe(0)
  const device = stdout.trim()
  return {
    device,
    pid: await daemonOf(uri),
    async [Symbol.asyncDispose]() {
      await run('umount', [device])
      const pid = await daemonOf(uri)
      if (pid > 0) process.kill(pid, 'SIGKILL')
      await until(
        `${device} is free`,
        PATIENCE,
        async () => (await daemonOf(uri)) < 0 && !(await isConfigured(device)),
      )
    },
  }
}

const serve = (dir: Scratch, port = 0) => startServer(['--dir', dir.path, '--size', '64M'], { port })

test('A disk is attached once, is listed, is mounted, and is gone when it is detached', async () => {
  await using dir = await scratch()
  await using folder = await scratch()
  await using server = await serve(dir)
  const uri = server.uri('alice')
  await using disk = await attach(uri)
  expect(disk.device).toMatch(/^\/dev\/loop\d+$/)
  expect((await odd('attach', uri)).stdout.trim()).toBe(disk.device)
  expect((await odd('attach', uri.replace('/alice', '/%61lice'))).stdout.trim()).toBe(disk.device)
  expect((await odd('attached')).stdout.replace(/ +/g, ' ')).toContain(`${disk.device} fuse rw ${uri}\n`)
  {
    await using _mount = await mountDevice(disk.device, folder.path)
    await check('sh', ['-c', 'echo hello > "$0/file" && sync -f "$0"', folder.path])
    const busy = await odd('detach', uri)
    expect(busy.status).toBe(1)
    expect(busy.stderr).toContain(`is mounted on ${folder.path}`)
    expect(busy.stderr).toContain('--lazy')
  }
  expect((await odd('detach', uri)).stderr).toBe('')
  expect(await isConfigured(disk.device)).toBe(false)
  expect(await daemonOf(uri)).toBe(-1)
  expect((await odd('attached')).stdout).not.toContain(uri)
  // What is not attached is no error.
  expect((await odd('detach', uri)).status).toBe(0)
  expect(await server.stop()).toBe(0)
  await check('e2fsck', ['-fn', join(dir.path, 'alice')])
})

test('A disk that is mounted grows with its export', async () => {
  await using dir = await scratch()
  await using folder = await scratch()
  await using server = await serve(dir)
  const uri = server.uri('alice')
  await using disk = await attach(uri)
  {
    await using _mount = await mountDevice(disk.device, folder.path)
    const size = async () => Number(await check('blockdev', ['--getsize64', disk.device]))
    expect((await odd('grow', uri)).stdout).toBe(`${64 * 2 ** 20}\n`)
    await truncate(join(dir.path, 'alice'), 128 * 2 ** 20)
    expect((await odd('grow', disk.device)).stdout).toBe(`${128 * 2 ** 20}\n`)
    expect(await size()).toBe(128 * 2 ** 20)
    // To grow the filesystem needs CAP_SYS_RESOURCE, which a container rarely has.
    const write = 'printf end | dd of="$0" bs=1 seek=134217725 conv=notrunc,fsync'
    await check('sh', ['-c', write, disk.device])
    expect((await readFile(join(dir.path, 'alice'))).subarray(-3).toString()).toBe('end')
  }
  expect((await odd('detach', uri)).stderr).toBe('')
  const gone = await odd('grow', uri)
  expect([gone.status, gone.stderr]).toEqual([1, 'ondemand-disk: No such disk is attached.\n'])
  expect(await server.stop()).toBe(0)
  await check('e2fsck', ['-fn', join(dir.path, 'alice')])
})

test('Many who attach one disk at once get one device', async () => {
  await using dir = await scratch()
  await using server = await serve(dir)
  const uri = server.uri('alice')
  const results = await Promise.all(Array.from({ length: 4 }, () => odd('attach', '--via', 'fuse', uri)))
  await using disk = await attach(uri)
  expect(results.map(({ stdout, stderr }) => stdout.trim() + stderr)).toEqual(Array(4).fill(disk.device))
  const { stdout } = await run('pgrep', ['-fc', `attach/daemon[.]ts ${uri}`])
  expect(stdout.trim()).toBe('1')
})

test('A device in use is detached lazily: it goes with its last user', async () => {
  await using dir = await scratch()
  await using folder = await scratch()
  await using server = await serve(dir)
  const uri = server.uri('alice')
  await using disk = await attach(uri)
  {
    await using _mount = await mountDevice(disk.device, folder.path)
    expect((await odd('detach', '--lazy', disk.device)).stderr).toBe('')
    await check('sh', ['-c', 'echo still > "$0/file" && sync -f "$0" && cat "$0/file"', folder.path])
  }
  await until('the device is free', PATIENCE, async () => !(await isConfigured(disk.device)))
  await until('the process has ended', PATIENCE, async () => (await daemonOf(uri)) < 0)
})

test('A disk whose server is away while it is let go of is not detached until all is written', async () => {
  await using dir = await scratch()
  await using folder = await scratch()
  let server = await serve(dir)
  await using _last = { [Symbol.asyncDispose]: () => server.kill() }
  const { port } = server
  const uri = server.uri('alice')
  await using disk = await attach(uri)
  await check('mount', [disk.device, folder.path])
  await writeFile(join(folder.path, 'file'), 'kept')
  await server.kill()
  expect((await odd('detach', '--lazy', disk.device)).stderr).toBe('')
  const unmounting = run('umount', [folder.path])
  await until('it is not mounted any more', PATIENCE, async () => (await mountAt(folder.path)) === undefined)
  // Twice: whoever asks again must not be told that it is gone.
  for (const how of [[], ['--lazy']]) {
    await odd('detach', ...how, uri)
    expect((await odd('attached')).stdout).toContain(disk.device)
  }
  server = await serve(dir, port)
  expect((await unmounting).status).toBe(0)
  await until('the process has ended', PATIENCE, async () => (await daemonOf(uri)) < 0)
  expect((await odd('attached')).stdout).not.toContain(uri)
  expect(await server.stop()).toBe(0)
  const image = join(dir.path, 'alice')
  await check('e2fsck', ['-fn', image])
  expect((await check('debugfs', ['-R', 'cat file', image])).trim()).toBe('kept')
})

test('A killed process fails its device, and leaves neither a process that hangs nor a device', async () => {
  await using dir = await scratch()
  await using folder = await scratch()
  await using server = await serve(dir)
  const uri = server.uri('alice')
  await using disk = await attach(uri)
  await check('mount', [disk.device, folder.path])
  // Much that is not written back yet, in the file system and on the device.
  await check('dd', ['if=/dev/zero', `of=${folder.path}/big`, 'bs=1M', 'count=16'])
  process.kill(disk.pid, 'SIGKILL')
  await until('the process has ended', PATIENCE, async () => (await daemonOf(uri)) < 0)
  expect((await run('sync', ['-f', folder.path])).status).not.toBe(0)
  await check('umount', [folder.path])
  await until('the device is free', PATIENCE, async () => !(await isConfigured(disk.device)))

  await using again = await attach(uri)
  await check('dd', ['if=/dev/zero', `of=${again.device}`, 'bs=1M', 'count=16'])
  process.kill(again.pid, 'SIGKILL')
  await until('the process has ended', PATIENCE, async () => (await daemonOf(uri)) < 0)
  await until('the device is free', PATIENCE, async () => !(await isConfigured(again.device)))
  expect(await mountAt(folder.path)).toBeUndefined()
})

test('While the server is away everything waits, or fails after --dead-after; a device can go all the same', async () => {
  await using dir = await scratch()
  await using server = await serve(dir)
  await using waiting = await attach(server.uri('alice'))
  await using failing = await attach(server.uri('bob'), '--dead-after', '100ms')
  const read = ({ device }: Attached) =>
    run('dd', [`if=${device}`, 'of=/dev/null', 'bs=4k', 'count=1', 'iflag=direct'])
  expect((await read(waiting)).status).toBe(0)
  expect((await read(failing)).status).toBe(0)
  await server.kill()
  const patient = read(waiting)
  expect((await read(failing)).stderr).toMatch(/error reading/)
  expect((await odd('detach', server.uri('bob'))).stderr).toBe('')
  expect(await daemonOf(server.uri('bob'))).toBe(-1)
  await using _again = await serve(dir, server.port)
  expect((await patient).status).toBe(0)
  expect((await odd('detach', server.uri('alice'))).stderr).toBe('')
})

test('A socket that is named from the working directory is found there, and has one name everywhere', async () => {
  await using dir = await scratch()
  await using _server = await startServer([
    '--dir',
    dir.path,
    '--size',
    '64M',
    '--unix',
    join(dir.path, '.s'),
  ])
  const from = (cwd: string, command: string, uri: string) =>
    run('sh', [
      '-c',
      'cd "$1" && shift && exec "$@"',
      'sh',
      cwd,
      join(checkout, 'hack/ondemand-disk'),
      command,
      uri,
    ])
  const absolute = `nbd+unix:///alice?socket=${encodeURIComponent(join(dir.path, '.s'))}`
  const attached = await from(dir.path, 'attach', 'nbd+unix:///alice?socket=.s')
  try {
    expect(attached).toMatchObject({ status: 0, stderr: '' })
    expect((await from('/', 'attach', absolute)).stdout).toBe(attached.stdout)
    expect((await odd('attached')).stdout).toContain(absolute)
  } finally {
    await from(dir.path, 'detach', 'nbd+unix:///alice?socket=./.s')
  }
  expect(await daemonOf(absolute)).toBe(-1)
})

test('A plain user is told that only root sees and detaches disks, where there are any', async () => {
  await using dir = await scratch()
  await using server = await serve(dir)
  const asPlainUser = (...args: readonly string[]) => {
    const command = [process.execPath, join(checkout, 'server/main.ts'), ...args]
    return run('setpriv', ['--reuid', '65534', '--regid', '65534', '--clear-groups', ...command])
  }
  await using disk = await attach(server.uri('alice'))
  for (const args of [['attached'], ['detach', disk.device], ['detach', server.uri('alice')]]) {
    const { status, stderr } = await asPlainUser(...args)
    expect(stderr).toContain('Run this as root')
    expect(status).toBe(1)
  }
  expect(await isConfigured(disk.device)).toBe(true)
})

test('A disk of less than a sector is refused, and what a device cuts off is said', async () => {
  // Both became devices without a word: one of no bytes, one that lacked the last.
  await using dir = await scratch()
  await writeFile(join(dir.path, 'small'), Buffer.alloc(511, 'x'))
  await writeFile(join(dir.path, 'odd'), Buffer.alloc(1023, 'x'))
  await using server = await startServer(['--dir', dir.path, '--no-create'])
  for (const via of ['nbd', 'fuse']) {
    const { status, stdout, stderr } = await odd('attach', '--via', via, server.uri('small'))
    expect([status, stdout]).toEqual([1, ''])
    expect(stderr).toContain('The size of the export is 511,')
    expect(stderr).toContain('whole sectors of 512 bytes. Make the disk larger')
  }
  expect(await daemonOf(server.uri('small'))).toBe(-1)
  const { status, stdout, stderr } = await odd('attach', '--via', 'fuse', server.uri('odd'))
  const device = stdout.trim()
  try {
    expect(status).toBe(0)
    expect(stderr).toBe(
      `ondemand-disk: ${device} lacks the last 511 bytes of the export: a block device has whole sectors of 512 bytes.\n`,
    )
    expect((await check('blockdev', ['--getsize64', device])).trim()).toBe('512')
  } finally {
    await odd('detach', server.uri('odd'))
  }
  await using folder = await scratch()
  await using file = await fuse(server.uri('odd'), folder.path)
  expect((await stat(file.path)).size).toBe(1023)
})

test('What cannot be attached is refused by one line, and leaves nothing', async () => {
  await using dir = await scratch()
  await using server = await startServer(['--dir', dir.path, '--size', '64M', '--read-only'])
  await using other = await scratch()
  await using writable = await serve(other)
  const refused = async (...args: readonly string[]) => {
    const { status, stdout, stderr } = await odd('attach', ...args)
    expect(status).not.toBe(0)
    expect(stdout).toBe('')
    expect(stderr.trim().split('\n')).toHaveLength(1)
    return stderr
  }
  expect(await refused()).toContain('URI is missing')
  expect(await refused('http://x')).toContain('is not the URI of an NBD export')
  expect((await odd('attach', 'http://x')).status).toBe(2)
  expect(await refused('--via', 'magic', writable.uri('a'))).toContain('--via')
  expect(await refused('--via', 'fuse', 'nbd://127.0.0.1:1/x')).toContain('Cannot connect')
  expect(await refused('--via', 'fuse', server.uri('nothing'))).toContain('reading only')
  await using disk = await attach(writable.uri('alice'), '--read-only')
  expect((await odd('attached')).stdout.replace(/ +/g, ' ')).toContain(`${disk.device} fuse ro `)
  expect((await run('dd', ['if=/dev/zero', `of=${disk.device}`, 'bs=4k', 'count=1'])).status).not.toBe(0)
  expect(await refused('--via', 'fuse', writable.uri('alice'))).toContain('for reading only')
  expect((await run('pgrep', ['-f', 'attach/daemon[.]ts nbd://127.0.0.1:1/'])).status).toBe(1)
})

test('A disk is attached whose name is as long as names may be', async () => {
  await using dir = await scratch()
  await using server = await serve(dir)
  await using disk = await attach(server.uri('n'.repeat(255)))
  expect(await isConfigured(disk.device)).toBe(true)
})

test('A disk that takes its time to be made is waited for, and by nobody who has been killed', async () => {
  await using dir = await scratch()
  await using server = await startServer([
    ...['--dir', dir.path, '--size', '64M', '--command', 'sleep 11; truncate -s $size $disk'],
  ])
  const killed = spawn(process.execPath, [
    ...[join(checkout, 'server/main.ts'), 'attach', '--via', 'fuse', server.uri('bob')],
  ])
  await until('the process starts', PATIENCE, async () => (await daemonOf(server.uri('bob'))) > 0)
  killed.kill('SIGKILL')
  await until('the process has ended', 5000, async () => (await daemonOf(server.uri('bob'))) < 0)
  await using disk = await attach(server.uri('alice'))
  expect(await isConfigured(disk.device)).toBe(true)
})

test('A process that only looks as if it served a disk is not believed', async context => {
  await needPrograms(context, 'setpriv', 'unshare', 'python3')
  await using folder = await scratch()
  const path = join(folder.path, 'image')
  await writeFile(path, '')
  await truncate(path, 2 ** 20)
  await using other = await loop(path)
  const uri = 'nbd://127.0.0.1:1/alice'
  const plain = ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups']
  for (const [program = '', ...before] of [plain, ['unshare', '--pid', '--fork', '--kill-child']]) {
    // O_PATH, which nobody is refused. The program names itself only when it has opened the device.
    const code = `import os, sys; os.open("${other.device}", os.O_PATH); print("open", flush=True); sys.stdin.read()`
    const args = ['/usr/bin/python3', '-c', code, '/x/server/attach/daemon.ts', uri, 'rw', 'never']
    const impostor = spawn(program, [...before, ...args], { stdio: ['pipe', 'pipe', 'inherit'] })
    await once(impostor.stdout, 'data')
    const { status, stdout, stderr } = await odd('attached')
    impostor.stdin.end()
    await once(impostor, 'close')
    expect([status, stderr]).toEqual([0, ''])
    expect(stdout).not.toContain(uri)
  }
})

test('Where /dev lacks the loop device that is free, the message says so', async context => {
  await needPrograms(context, 'unshare')
  await using dir = await scratch()
  await using server = await serve(dir)
  const script = `mount -t tmpfs none /mnt
    for name in fuse loop-control null kmsg urandom; do touch /mnt/$name; mount --bind /dev/$name /mnt/$name; done
    mount --rbind /mnt /dev
    exec "$@"`
  const command = [join(checkout, 'hack/ondemand-disk'), 'attach', '--via', 'fuse', server.uri('alice')]
  const { status, stderr } = await run('unshare', ['--mount', 'sh', '-ec', script, 'sh', ...command])
  expect(stderr).toMatch(/has \/dev\/loop\d+ free, and this \/dev does not have it/)
  expect(status).toBe(1)
})
