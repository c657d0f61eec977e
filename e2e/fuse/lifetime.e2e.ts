/** How a mounted file begins and ends: refusals, signals, kills, users that are in the way. Nothing may be left. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, readFile, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { beforeEach, expect, test } from 'vitest'
import { check, checkout, needPrograms, run, scratch, startServer } from '../harness.ts'
import { until } from '../until.ts'
import { fuse, loop, type Mounted, mountAt, needRoot, PATIENCE, sumOf } from './mounts.ts'

const MiB = 1024 * 1024

beforeEach(needRoot)

async function image(folder: string, size = 4 * MiB): Promise<string> {
  const path = join(folder, 'image')
  await writeFile(path, 'on-demand')
  await truncate(path, size)
  return path
}

/** A program that holds the file open. */
async function holder(path: string) {
  const child = spawn('sh', ['-c', 'exec 3<"$0"; echo open; read -r _', path], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  await once(child.stdout, 'data')
  return {
    release: () => child.stdin.end(),
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
    },
  }
}

const gone = (file: Mounted) =>
  until('the mount is gone', PATIENCE, async () => (await mountAt(file.path)) === undefined)

/** Guards whose work is done have ended. */
const noGuard = (file: Mounted) =>
  until('no guard of the mountpoint is left', PATIENCE, async () => {
    const { status } = await run('pgrep', ['-f', `released.*${file.path}`])
    return status === 1
  })

test.for(['SIGTERM', 'SIGINT'] as const)('%s unmounts, and nothing is left', async signal => {
  await using folder = await scratch()
  await using file = await fuse(await image(folder.path), folder.path)
  file.child.kill(signal)
  expect(await file.ended).toBe(0)
  expect(await mountAt(file.path)).toBeUndefined()
  await noGuard(file)
})

test('A killed process leaves no mount', async () => {
  await using folder = await scratch()
  await using file = await fuse(await image(folder.path), folder.path)
  file.child.kill('SIGKILL')
  expect(await file.ended).toBe('SIGKILL')
  await gone(file)
  await noGuard(file)
})

test('What a killed process has left, its guard killed too, is replaced by the next', async () => {
  await using folder = await scratch()
  const path = await image(folder.path)
  await using file = await fuse(path, folder.path)
  await check('pkill', ['-KILL', '-f', `released.*${file.path}`])
  file.child.kill('SIGKILL')
  await file.ended
  expect(await mountAt(file.path)).toBeDefined()
  // A name without its directory is as good as another.
  await using next = await fuse(path, folder.path, [], 'ours', folder.path)
  await until(
    'the new mount serves',
    PATIENCE,
    async () => (await run('cmp', [path, next.path])).status === 0,
  )
  expect(await next.stop()).toBe(0)
})

test('A file in use stays when the terminal hangs up, and is unmounted when its user has gone', async context => {
  await needPrograms(context, 'script')
  await using folder = await scratch()
  const point = join(folder.path, 'point')
  await writeFile(point, '')
  const program = `${process.execPath} ${join(checkout, 'server/main.ts')}`
  const command = `exec ${program} fuse ${await image(folder.path)} ${point} 2>${folder.path}/log`
  const log = () => readFile(join(folder.path, 'log'), 'utf8')
  const terminal = spawn('script', ['-qec', command, '/dev/null'], { stdio: ['pipe', 'ignore', 'ignore'] })
  await until('it is mounted', PATIENCE, async () => (await log().catch(() => '')).includes('Mounted'))
  await using user = await holder(point)
  // The terminal's other end goes with it.
  terminal.kill('SIGKILL')
  await until('it has noticed', PATIENCE, async () => (await log()).includes('in use'))
  await check('dd', [`if=${point}`, 'of=/dev/null', 'bs=4k', 'count=1'])
  user.release()
  await until('it has ended well', PATIENCE, async () => (await log()).includes('Unmounted'))
  expect(await mountAt(point)).toBeUndefined()
})

test('umount by somebody else ends the process well', async () => {
  await using folder = await scratch()
  await using file = await fuse(await image(folder.path), folder.path)
  await check('umount', [file.path])
  expect(await file.ended).toBe(0)
  await noGuard(file)
})

test('A file in use stays mounted, with a message, until its user has gone', async () => {
  await using folder = await scratch()
  await using file = await fuse(await image(folder.path), folder.path)
  await using user = await holder(file.path)
  file.child.kill('SIGTERM')
  await until('the log says so', PATIENCE, () => file.log().includes('The file is in use'))
  expect(await mountAt(file.path)).toBeDefined()
  user.release()
  expect(await file.ended).toBe(0)
  expect(await mountAt(file.path)).toBeUndefined()
})

test.for(['image', 'uri'])('A second signal takes a file of an %s away from its users', async kind => {
  await using folder = await scratch()
  await using server = await startServer(['--dir', folder.path, '--size', '4M', '--type', 'ext2'])
  const source = kind === 'uri' ? server.uri('alice') : await image(folder.path)
  await using file = await fuse(source, folder.path, ['--writable'])
  await using _user = await holder(file.path)
  file.child.kill('SIGTERM')
  await until('the log says so', PATIENCE, () => file.log().includes('The file is in use'))
  file.child.kill('SIGTERM')
  expect(await file.ended).toBe(0)
  expect(await mountAt(file.path)).toBeUndefined()
  await noGuard(file)
})

test('A loop device on a file of a killed process fails, and can be detached', async () => {
  await using folder = await scratch()
  await using file = await fuse(await image(folder.path), folder.path, ['--writable'])
  await using device = await loop(file.path)
  file.child.kill('SIGKILL')
  await file.ended
  await gone(file)
  const read = await run('dd', [`if=${device.device}`, 'of=/dev/null', 'iflag=direct', 'bs=4096', 'count=1'])
  expect(read.status).toBe(1)
  await check('losetup', ['-d', device.device])
})

test('A file whose server is gone for good is unmounted all the same', async () => {
  await using folder = await scratch()
  await using dir = await scratch()
  await using server = await startServer(['--dir', dir.path, '--size', '4M', '--type', 'ext2'])
  await using file = await fuse(server.uri('alice'), folder.path, ['--writable'])
  await check('dd', ['if=/dev/zero', `of=${file.path}`, 'bs=4k', 'count=1', 'conv=notrunc,fsync'])
  await server.kill()
  expect(await file.stop()).toBe(0)
})

test('Who waits for a server that is away can be killed, and is not disturbed by other signals', async () => {
  await using folder = await scratch()
  await using dir = await scratch()
  await using server = await startServer(['--dir', dir.path, '--size', '4M', '--type', 'ext2'])
  await using file = await fuse(server.uri('alice'), folder.path)
  await server.kill()
  const reader = spawn('dd', [`if=${file.path}`, 'of=/dev/null', 'bs=4k', 'count=1'], { stdio: 'ignore' })
  const ended = once(reader, 'exit')
  const where = () => readFile(`/proc/${reader.pid}/wchan`, 'utf8')
  await until('it waits', PATIENCE, async () => /fuse|request_wait/.test(await where()))
  // Of which dd says how far it is, once it can.
  reader.kill('SIGUSR1')
  await sleep(300)
  expect(reader.exitCode).toBeNull()
  reader.kill('SIGKILL')
  expect((await ended)[1]).toBe('SIGKILL')
  await using _again = await startServer(['--dir', dir.path, '--size', '4M'], { port: server.port })
  await check('dd', [`if=${file.path}`, 'of=/dev/null', 'bs=4k', 'count=1'])
  expect(await file.stop()).toBe(0)
})

test('What cannot be served is refused by one line, and leaves nothing', async () => {
  await using folder = await scratch()
  const path = await image(folder.path)
  const point = join(folder.path, 'point')
  await writeFile(point, '')
  const refused = async (...args: readonly string[]) => {
    const { status, stderr } = await run(join(checkout, 'hack/ondemand-disk'), ['fuse', ...args])
    expect(status).not.toBe(0)
    expect(stderr.trim().split('\n')).toHaveLength(1)
    expect(await mountAt(point)).toBeUndefined()
    return stderr
  }
  expect(await refused(path)).toContain('MOUNTPOINT is missing')
  expect(await refused(path, point, point)).toContain('Unexpected argument')
  expect(await refused(path, folder.path)).toContain('not a regular file')
  expect(await refused(path, join(folder.path, 'nowhere'))).toContain('does not exist')
  expect(await refused(folder.path, point)).toContain('neither a regular file nor a block device')
  expect(await refused(join(folder.path, 'nothing'), point)).toContain('There is no image')
  expect(await refused(path, point, '--growable')).toContain('--growable needs --writable')
  expect(await refused(path, point, '--allow-other=perhaps')).toContain('--allow-other')
  expect(await refused(path, point, '--dead-after', '1s')).toContain('--dead-after')
  expect(await refused('nbd://127.0.0.1:1/x', point)).toContain('127.0.0.1:1')
  expect(await refused('nbd://', point)).toContain('no host')

  await using file = await fuse(path, folder.path, ['--writable'])
  expect(await refused(path, point)).toMatch(/in use by .*process \d+/)
  const other = join(folder.path, 'other')
  await writeFile(other, 'x')
  const { stderr } = await run(join(checkout, 'hack/ondemand-disk'), ['fuse', other, file.path])
  expect(stderr).toContain('is a mountpoint already')
})

test('The image may be the mountpoint', async () => {
  await using folder = await scratch()
  const path = await image(folder.path)
  const before = await sumOf(path)
  await using file = await fuse(path, folder.path, [], 'image')
  expect(await sumOf(path)).toBe(before)
  expect(await file.stop()).toBe(0)
})

test('Names with blanks and other signs work', async () => {
  await using folder = await scratch()
  await using file = await fuse(await image(folder.path), folder.path, [], 'a b\\c#d')
  file.child.kill('SIGKILL')
  await file.ended
  await until(
    'the guard has unmounted it',
    PATIENCE,
    async () => (await run('findmnt', ['-M', file.path])).status === 1,
  )
})

test('A plain user mounts by fusermount3', async context => {
  await needPrograms(context, 'fusermount3', 'setpriv')
  await using folder = await scratch()
  const path = await image(folder.path)
  const point = join(folder.path, 'point')
  await writeFile(point, '')
  await check('chown', ['-R', '65534:65534', folder.path])
  // As udev has it on every Debian; where there is no udev it may be root's alone.
  const { mode } = await stat('/dev/fuse')
  await chmod('/dev/fuse', 0o666)
  const plain = ['--reuid=65534', '--regid=65534', '--clear-groups', '--inh-caps=-all']
  const child = spawn(
    'setpriv',
    [...plain, process.execPath, join(checkout, 'server/main.ts'), 'fuse', path, point, '--allow-other=auto'],
    { stdio: ['ignore', 'ignore', 'inherit'] },
  )
  const ended = once(child, 'close')
  try {
    await until('the file is mounted', PATIENCE, async () => {
      expect(child.exitCode).toBeNull()
      return (await mountAt(point)) !== undefined
    })
    const read = await check('setpriv', [...plain, 'cmp', path, point])
    expect(read).toBe('')
    child.kill('SIGTERM')
    expect((await ended)[0]).toBe(0)
    expect(await mountAt(point)).toBeUndefined()
  } finally {
    child.kill('SIGKILL')
    await ended
    await chmod('/dev/fuse', mode & 0o777)
    if ((await mountAt(point)) !== undefined) await run('umount', ['-l', point])
  }
})
