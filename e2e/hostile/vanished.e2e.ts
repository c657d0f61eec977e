/** A client whose machine has lost its power or its network says nothing any more. */
import { randomBytes } from 'node:crypto'
import { expect, onTestFinished, type TestContext, test } from 'vitest'
import { check, needPrograms, run, scratch, startServer } from '../harness.ts'

/** The promise. */
const LIMIT = 30_000

const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

interface Network {
  /** Runs a program on the other machine. */
  readonly inside: (program: string, ...args: readonly string[]) => readonly string[]
  /** The server's address, as the other machine sees it. */
  readonly address: string
  unplug(): Promise<void>
  /** Kills all programs of the other machine. */
  killAll(): Promise<void>
}

/** A machine of its own at the other end of a cable: a network namespace. */
async function otherMachine(context: TestContext): Promise<Network> {
  await needPrograms(context, 'ip', 'qemu-io')
  const id = randomBytes(3).toString('hex')
  const namespace = `odd-${id}`
  const made = await run('ip', ['netns', 'add', namespace])
  context.skip(made.status !== 0, 'needs the right to make network namespaces')
  onTestFinished(async () => {
    await run('ip', ['netns', 'delete', namespace])
    await run('ip', ['link', 'delete', `odd${id}`])
  })
  const net = `10.${200 + (process.pid % 50)}.${Number.parseInt(id.slice(0, 2), 16)}`
  const inside = (program: string, ...args: readonly string[]) => [
    'netns',
    'exec',
    namespace,
    program,
    ...args,
  ]
  await check('ip', ['link', 'add', `odd${id}`, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', namespace])
  await check('ip', ['address', 'add', `${net}.1/24`, 'dev', `odd${id}`])
  await check('ip', ['link', 'set', `odd${id}`, 'up'])
  await check('ip', inside('ip', 'address', 'add', `${net}.2/24`, 'dev', 'eth0'))
  await check('ip', inside('ip', 'link', 'set', 'eth0', 'up'))
  return {
    inside,
    address: `${net}.1`,
    killAll: async () => {
      const pids = (await check('ip', ['netns', 'pids', namespace])).split(/\s+/).filter(pid => pid !== '')
      for (const pid of pids) process.kill(Number(pid), 'SIGKILL')
    },
    unplug: async () => {
      await check('ip', inside('ip', 'link', 'set', 'eth0', 'down'))
    },
  }
}

/** What a client is doing when it vanishes. */
const CLIENTS = {
  idle: ['sleep 60000'],
  reading: Array.from({ length: 2000 }, () => 'read 0 32M'),
  writing: Array.from({ length: 2000 }, () => 'write 0 32M'),
} as const

test('A client that has vanished loses its lock within 30 s, whatever it did', {
  timeout: 90_000,
}, async context => {
  const network = await otherMachine(context)
  await using dir = await scratch()
  const blank = ['--size', '64M', '--command', 'truncate -s "$size" "$disk"']
  await using server = await startServer(['--dir', dir.path, ...blank, '--listen', `${network.address}:0`])
  const uriOf = () => /nbd:\/\/10\.[^"]*/.exec(server.log())?.[0]
  await expect.poll(uriOf).toBeDefined()
  const clients = Object.entries(CLIENTS).map(([name, commands]) => {
    const args = commands.flatMap(command => ['-c', command])
    return run('ip', network.inside('qemu-io', '-f', 'raw', ...args, `${uriOf()}/${name}`))
  })
  await expect
    .poll(() => server.log().split('Disk opened').length, { timeout: 10_000 })
    .toBe(1 + clients.length)
  await pause(500)
  await network.unplug()
  const started = performance.now()
  const isFree = async (name: string) =>
    (await run('qemu-io', ['-f', 'raw', '-c', 'flush', server.uri(name)])).status === 0
  for (const name of Object.keys(CLIENTS)) {
    if (performance.now() - started < 1000) expect(await isFree(name)).toBe(false)
    await expect.poll(() => isFree(name), { timeout: LIMIT, interval: 500 }).toBe(true)
    expect(performance.now() - started, name).toBeLessThan(LIMIT)
  }
  expect(await server.stop()).toBe(0)
  await network.killAll()
  await Promise.all(clients)
})
