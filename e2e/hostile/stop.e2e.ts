/** SIGTERM under load: the server ends with 0 within 10 s, and what it acknowledged is there. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { check, checkout, needPrograms, run, scratch, startServer } from '../harness.ts'

const LIMIT = 10_000
const BLANK = ['--size', '256M', '--command', 'truncate -s "$size" "$disk"']
const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

/** Milliseconds that the server took to end with 0. */
async function timeToStop(server: { stop(): Promise<number> }): Promise<number> {
  const started = performance.now()
  expect(await server.stop()).toBe(0)
  return performance.now() - started
}

test('An idle server ends at once', async () => {
  await using dir = await scratch()
  await using server = await startServer(['--dir', dir.path, ...BLANK])
  expect(await timeToStop(server)).toBeLessThan(2000)
})

test('A server whose clients write and flush ends in time', async context => {
  await needPrograms(context, 'qemu-io', 'nbdcopy')
  await using dir = await scratch()
  await using server = await startServer(['--dir', dir.path, ...BLANK])
  const loads = [
    ...[1, 2, 3].map(index => {
      const writes = Array.from({ length: 2000 }, (_, at) => ['-c', `write -f -P 1 ${at * 64}k 64k`]).flat()
      return run('qemu-io', ['-f', 'raw', ...writes, server.uri(`writer${index}`)])
    }),
    run('bash', ['-c', `while nbdcopy ${server.uri('reader')} null:; do :; done`]),
  ]
  await pause(1500)
  expect(await timeToStop(server)).toBeLessThan(LIMIT)
  await Promise.all(loads)
})

test('A server with clients that do not read, do not write, wait, or say nothing ends in time', async context => {
  await needPrograms(context, 'nbdinfo')
  await using dir = await scratch()
  await using server = await startServer(['--dir', dir.path, '--wait', ...BLANK])
  const attach = (name: string, ...more: Buffer[]) => {
    const socket = connect({ port: server.port, host: '127.0.0.1', allowHalfOpen: true })
    socket.on('error', () => {})
    const head = Buffer.from('\0\0\0\x03IHAVEOPT\0\0\0\x07', 'latin1')
    const lengths = Buffer.from([0, 0, 0, 6 + name.length, 0, 0, 0, name.length])
    socket.write(Buffer.concat([head, lengths, Buffer.from(name), Buffer.from([0, 0]), ...more]))
    return socket
  }
  const read = Buffer.from('2560951300000000000000000000000000000000000000000200', 'hex')
  const reads = Buffer.concat(Array.from({ length: 50 }, () => Buffer.concat([read, Buffer.from([0, 0])])))
  const write = Buffer.from('25609513000000010000000000000000000000000000000000100000', 'hex')
  const sockets = [
    attach('idle').resume(),
    attach('deaf', reads).pause(),
    attach('half', write, Buffer.alloc(1000)).resume(),
    attach('idle').resume(),
    connect(server.port, '127.0.0.1').pause(),
  ]
  await pause(1000)
  expect(await timeToStop(server)).toBeLessThan(LIMIT)
  for (const socket of sockets) socket.destroy()
})

test('A server that is making disks ends in time, and leaves nothing of them', async () => {
  await using dir = await scratch()
  const slow = ['--size', '1M', '--command', 'truncate -s "$size" "$disk"; sleep 30']
  await using server = await startServer(['--dir', dir.path, ...slow])
  const clients = [1, 2, 3].map(index => run('nbdinfo', ['--size', server.uri(`disk${index}`)]))
  await pause(1000)
  expect(await timeToStop(server)).toBeLessThan(LIMIT)
  for (const { status } of await Promise.all(clients)) expect(status).not.toBe(0)
  expect((await check('find', [dir.path, '-type', 'f'])).trim()).toBe('')
  expect((await run('pgrep', ['-f', `sleep 30 ${dir.path}`])).stdout).toBe('')
})

test('What was acknowledged before SIGTERM is on the disk', async context => {
  await needPrograms(context, 'nbdcopy', 'cmp')
  await using dir = await scratch()
  await using server = await startServer(['--dir', dir.path, ...BLANK])
  const image = join(dir.path, '.image')
  await check('bash', ['-c', 'head -c 64M /dev/urandom >"$1"', 'image', image])
  const copy = spawn('nbdcopy', [image, server.uri('disk')], { stdio: 'ignore' })
  await once(copy, 'exit')
  await pause(10)
  expect(await timeToStop(server)).toBeLessThan(LIMIT)
  await check('cmp', ['-n', String(64 * 2 ** 20), image, join(dir.path, 'disk')])
})

test('As the first process of a container, which gets no signal that it does not handle, it ends while it starts', async context => {
  await needPrograms(context, 'unshare', 'bash')
  await using dir = await scratch()
  const own = process.getuid?.() === 0 ? [] : ['--user', '--map-root-user']
  // Signals come from the first moment on, until there is nobody who could get one.
  const script = `unshare ${own.join(' ')} --pid --fork --kill-child "$@" & child=$!
while kill -0 $child 2>/dev/null; do pkill -TERM -P $child; sleep 0.02; done
wait $child`
  const serve = ['serve', '--dir', dir.path, '--listen', '127.0.0.1:0', ...BLANK]
  const command = [process.execPath, join(checkout, 'server/main.ts'), ...serve]
  const { status, stderr } = await run('bash', ['-c', script, 'bash', ...command])
  expect(stderr).not.toContain('Listening')
  expect(status).toBe(143)
})
