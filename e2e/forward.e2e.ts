/** Forwarding to other NBD servers: what foreign clients see through us of a foreign server behind us. */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdir, readFile, stat, truncate, writeFile } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { check, needPrograms, run, scratch, startServer } from './harness.ts'

const MIB = 2 ** 20

async function freePort(): Promise<number> {
  const probe = createServer()
  await new Promise<void>(resolve => probe.listen(0, '127.0.0.1', resolve))
  const { port } = probe.address() as { port: number }
  await new Promise(resolve => probe.close(resolve))
  return port
}

async function untilListening(port: number): Promise<void> {
  for (let tries = 0; tries < 100; tries++) {
    const answered = await new Promise<boolean>(resolve => {
      const socket = connect(port, '127.0.0.1')
      socket.on('connect', () => resolve(true)).on('error', () => resolve(false))
      socket.on('close', () => undefined)
      setTimeout(() => socket.destroy(), 50)
    })
    if (answered) return
    await sleep(50)
  }
  throw new Error(`Nothing listens on port ${port}.`)
}

/** A foreign server that is killed with the test. One that goes into the background leaves its process in a file. */
async function startForeign(
  program: string,
  args: readonly string[],
  port: number,
  pidFile: string,
): Promise<AsyncDisposable> {
  const child: ChildProcess = spawn(program, args, { stdio: 'ignore' })
  await untilListening(port)
  return {
    async [Symbol.asyncDispose]() {
      if (args.includes(pidFile)) {
        process.kill(Number(await readFile(pidFile, 'utf8')), 'SIGKILL')
        return
      }
      const ended = new Promise(resolve => child.once('exit', resolve))
      child.kill('SIGKILL')
      await ended
    },
  }
}

/** How each foreign server is told to serve a file. */
const FOREIGN: Readonly<Record<string, (file: string, port: number, folder: string) => Promise<string[]>>> = {
  nbdkit: async (file, port) => ['nbdkit', '-f', '-i', '127.0.0.1', '-p', String(port), 'file', file],
  'nbdkit oldstyle': async (file, port) => [
    'nbdkit',
    '-f',
    '-o',
    '-i',
    '127.0.0.1',
    '-p',
    String(port),
    'file',
    file,
  ],
  'qemu-nbd': async (file, port) => [
    'qemu-nbd',
    '-t',
    '-f',
    'raw',
    '-b',
    '127.0.0.1',
    '-p',
    String(port),
    '-x',
    '',
    file,
  ],
  'nbd-server': async (file, port, folder) => {
    const config = join(folder, 'nbd-server.conf')
    const generic = `[generic]\n listenaddr = 127.0.0.1\n port = ${port}\n allowlist = true\n`
    await writeFile(
      config,
      `${generic}[default]\n exportname = ${file}\n flush = true\n fua = true\n trim = true\n`,
    )
    return ['nbd-server', '-C', config, '-p', join(folder, 'pid')]
  },
}

test.for(Object.keys(FOREIGN))(
  '%s behind us keeps what is written and reads back the same',
  async (name, context) => {
    await needPrograms(context, 'nbdcopy', 'nbdinfo', 'qemu-io', 'nbdkit', 'qemu-nbd', 'nbd-server')
    await using folder = await scratch()
    const file = join(folder.path, 'disk')
    await writeFile(file, '')
    await truncate(file, 32 * MIB)
    const port = await freePort()
    const [program = '', ...args] = (await FOREIGN[name]?.(file, port, folder.path)) ?? []
    await using _upstream = await startForeign(program, args, port, join(folder.path, 'pid'))
    const exportName = name === 'nbd-server' ? 'default' : ''
    await using server = await startServer(['--upstream', `nbd://127.0.0.1:${port}`])
    const listed = JSON.parse(await check('nbdinfo', ['--list', '--json', server.uri('')]))
    expect(listed.exports).toMatchObject([{ 'export-name': exportName }])
    const source = join(folder.path, 'source')
    const data = randomBytes(32 * MIB)
    await writeFile(source, data)
    await check('nbdcopy', [source, server.uri(exportName)])
    await check('nbdcopy', [server.uri(exportName), join(folder.path, 'back')])
    expect(data.equals(await readFile(join(folder.path, 'back')))).toBe(true)
    // nbdkit 1.32 announces flush and FUA over oldstyle, and then refuses both; qemu-io uses them unasked.
    if (name !== 'nbdkit oldstyle') {
      const commands = ['write -f -P 7 1M 64k', 'flush', 'read -P 7 1M 64k'].flatMap(command => [
        '-c',
        command,
      ])
      await check('qemu-io', ['-f', 'raw', ...commands, server.uri(exportName)])
      data.fill(7, MIB, MIB + 65_536)
    }
    expect(data.equals(await readFile(file))).toBe(true)
    const beyond = await run('qemu-io', ['-f', 'raw', '-c', 'read 32M 4k', server.uri(exportName)])
    expect(`${beyond.stdout}${beyond.stderr}`).toMatch(/error|out of range|past end|Input|Invalid/i)
  },
)

test('An upstream killed in the middle of a copy costs a pause, no error and no byte', async context => {
  await needPrograms(context, 'nbdcopy')
  await using folder = await scratch()
  const dir = join(folder.path, 'disks')
  await mkdir(dir)
  const options = [
    '--dir',
    dir,
    '--size',
    '64M',
    '--command',
    'truncate -s "$size" "$disk"',
    '--write-bps',
    '16M',
  ]
  let upstream = await startServer(options)
  const { port } = upstream
  await using server = await startServer(['--upstream', `nbd://127.0.0.1:${port}`])
  const source = join(folder.path, 'source')
  const data = randomBytes(64 * MIB)
  await writeFile(source, data)
  const copy = check('nbdcopy', ['--flush', source, server.uri('alice')])
  /** Sectors of the disk that have been written. */
  const written = async () => (await stat(join(dir, 'alice')).catch(() => undefined))?.blocks ?? 0
  for (let kills = 0; kills < 3; kills++) {
    const before = await written()
    await expect.poll(written, { timeout: 30_000 }).toBeGreaterThan(before)
    await upstream.kill()
    await sleep(200)
    upstream = await startServer(options, { port })
  }
  await copy
  expect(data.equals(await readFile(join(dir, 'alice')))).toBe(true)
  expect(server.log()).toMatch(/The upstream is lost/)
  expect(server.log()).toMatch(/The upstream is back/)
  expect(await server.stop()).toBe(0)
  await upstream.kill()
})

test('An upstream killed while it is read costs a pause, no error and no byte', async context => {
  await needPrograms(context, 'nbdcopy')
  await using folder = await scratch()
  const dir = join(folder.path, 'disks')
  await mkdir(dir)
  const data = randomBytes(64 * MIB)
  await writeFile(join(dir, 'alice'), data)
  const options = ['--dir', dir, '--no-create', '--read-bps', '16M']
  let upstream = await startServer(options)
  const { port } = upstream
  await using server = await startServer(['--upstream', `nbd://127.0.0.1:${port}`])
  const back = join(folder.path, 'back')
  const copy = check('nbdcopy', [server.uri('alice'), back])
  const copied = async () => (await stat(back).catch(() => undefined))?.blocks ?? 0
  for (let kills = 0; kills < 3; kills++) {
    const before = await copied()
    await expect.poll(copied, { timeout: 30_000 }).toBeGreaterThan(before)
    await upstream.kill()
    await sleep(200)
    upstream = await startServer(options, { port })
  }
  await copy
  expect(data.equals(await readFile(back))).toBe(true)
  expect(server.log()).toMatch(/The upstream is back/)
  expect(await server.stop()).toBe(0)
  await upstream.kill()
})

test('An upstream that stays away fails requests after the time given for it', async context => {
  await needPrograms(context, 'qemu-io', 'nbdkit')
  const port = await freePort()
  await using server = await startServer(['--upstream', `nbd://127.0.0.1:${port}`, '--upstream-retry', '1s'])
  const { stdout, stderr, status } = await run('qemu-io', ['-f', 'raw', '-c', 'read 0 4k', server.uri('x')])
  expect(`${status} ${stdout}${stderr}`).toMatch(/^1 .*(refused|failed|connect)/is)
  expect(server.log()).toMatch(/Export refused/)
})
