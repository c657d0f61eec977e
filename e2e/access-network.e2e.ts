/** Who may connect: clients in a network of their own, on the other side of a pair of virtual interfaces. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { check, run } from './harness.ts'
import { needLibnbd } from './libnbd.ts'
import { BLANK, hold, outcomeOf, useVisitedServer, visit, type Way } from './visits.ts'

const server = useVisitedServer()

describe('In a network of their own', () => {
  const namespace = `odtest${process.pid % 100_000}`
  const device = `odt${process.pid % 100_000}`
  let problem: string | undefined

  beforeAll(async () => {
    if (process.getuid?.() !== 0) {
      problem = 'needs root for a network namespace'
      return
    }
    const { status, stderr } = await run('bash', [
      '-ec',
      `ip netns add ${namespace}
       ip link add ${device} type veth peer name eth0 netns ${namespace}
       ip addr add 10.123.45.1/24 dev ${device}
       ip addr add fd12:3456:789a::1/64 dev ${device} nodad || true
       ip link set ${device} up
       ip -n ${namespace} link set eth0 up
       for host in 2 3 77; do
         ip -n ${namespace} addr add 10.123.45.$host/24 dev eth0
         ip -n ${namespace} addr add fd12:3456:789a::$host/64 dev eth0 nodad || true
       done`,
    ]).catch((error: Error) => ({ status: -1, stderr: error.message }))
    if (status !== 0) problem = `cannot make a network namespace: ${stderr.trim()}`
  })

  afterAll(async () => {
    await run('ip', ['link', 'del', device]).catch(() => undefined)
    await run('ip', ['netns', 'del', namespace]).catch(() => undefined)
  })

  /** A client of the network on the other side. */
  const from = async (source: string, ipv4 = '0.0.0.0'): Promise<Way> =>
    source.includes(':')
      ? { source, namespace, host: 'fd12:3456:789a::1', port: await server.portOn('[::]') }
      : { source, namespace, host: '10.123.45.1', port: await server.portOn(ipv4) }

  const LISTEN = ['--listen', '0.0.0.0:0', '--listen', '[::]:0']

  beforeEach(async context => {
    context.skip(problem !== undefined, problem)
    await needLibnbd(context)
  })

  test.each([
    ['a socket each', LISTEN, '0.0.0.0'],
    ['one socket', ['--listen', '*:0'], '[::]'],
  ])('clients are known by their addresses, IPv4 and IPv6 at %s', async (_, listen, ipv4) => {
    const rules = ['--allow', '10.123.45.0/26', '--allow', 'fd12:3456:789a::/126', '--deny', '10.123.45.3']
    await server.start([...listen, ...rules, ...BLANK])
    for (const [source, outcome] of [
      ['10.123.45.2', 'open'],
      ['10.123.45.3', 'silence'],
      ['10.123.45.77', 'silence'],
      ['fd12:3456:789a::2', 'open'],
      ['fd12:3456:789a::3', 'open'],
      ['fd12:3456:789a::77', 'silence'],
    ] as const) {
      expect(await outcomeOf(await from(source, ipv4)), source).toBe(outcome)
    }
    expect(await outcomeOf({ host: '127.0.0.1', port: server.port })).toBe('silence')
    expect(await server.stop()).toBe(0)
  })

  test('each sees and gets the disks that are meant for it', async () => {
    const manifests = await server.declare({
      two: { allow: ['10.123.45.2', 'fd12:3456:789a::2'] },
      three: { allow: ['10.123.45.3'] },
      here: { allow: ['127.0.0.0/8'] },
      all: { allow: ['10.123.45.0/24', 'fd12:3456:789a::/64'], deny: ['10.123.45.77'] },
    })
    await server.start([...LISTEN, '--disks', manifests])
    expect(await visit(await from('10.123.45.2'), 'two')).toEqual({ outcome: 'open', names: ['all', 'two'] })
    expect(await visit(await from('10.123.45.3'), 'two')).toEqual({
      outcome: 'refused',
      names: ['all', 'three'],
    })
    expect(await visit(await from('10.123.45.77'), 'all')).toEqual({ outcome: 'refused', names: [] })
    expect(await visit(await from('fd12:3456:789a::2'), 'two')).toEqual({
      outcome: 'open',
      names: ['all', 'two'],
    })
    expect(await visit(await from('fd12:3456:789a::77'), 'here')).toEqual({
      outcome: 'refused',
      names: ['all'],
    })
    expect(await server.stop()).toBe(0)
  })

  test('one that vanishes without a word gives its disk back within 30 s', { timeout: 90_000 }, async () => {
    await server.start([...LISTEN, ...BLANK])
    const held = await hold(await from('10.123.45.2'), 'disk', 32)
    // The cable is pulled: no FIN, no RST.
    await check('ip', ['-n', namespace, 'addr', 'del', '10.123.45.2/24', 'dev', 'eth0'])
    try {
      const before = performance.now()
      const here: Way = { host: '127.0.0.1', port: server.port }
      expect(await outcomeOf(here)).toBe('refused')
      await expect.poll(() => outcomeOf(here), { timeout: 40_000, interval: 500 }).toBe('open')
      expect(performance.now() - before).toBeLessThan(30_000)
    } finally {
      await check('ip', ['-n', namespace, 'addr', 'add', '10.123.45.2/24', 'dev', 'eth0'])
    }
    await held.end
    expect(await server.stop()).toBe(0)
  })
})
