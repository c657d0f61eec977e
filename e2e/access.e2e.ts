/** Who may connect: clients at several addresses of the loopback, and on a socket file. */
import { mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'
import { checkout, run } from './harness.ts'
import { needLibnbd, PYTHON } from './libnbd.ts'
import { BLANK, hold, outcomeOf, useVisitedServer, visit, type Way } from './visits.ts'

const server = useVisitedServer()

describe('On the loopback', () => {
  const from = (source: string): Way => ({ source, host: '127.0.0.1', port: server.port })

  beforeEach(context => needLibnbd(context))

  test('only those are served whom an --allow rule matches; others get not a byte', async () => {
    await server.start(['--allow', '127.0.0.2', '--allow', '127.0.0.16/28', ...BLANK])
    for (const source of ['127.0.0.2', '127.0.0.16', '127.0.0.31']) {
      expect(await outcomeOf(from(source)), source).toBe('open')
    }
    for (const source of ['127.0.0.1', '127.0.0.3', '127.0.0.15', '127.0.0.32', '127.0.0.200']) {
      expect(await outcomeOf(from(source), 'refused'), source).toBe('silence')
    }
    expect(server.refusedClients()['127.0.0.3']).toMatch(/no allow rule matches/)
    expect(await readdir(join(server.folder, 'disks'))).not.toContain('refused')
    expect(await server.stop()).toBe(0)
  })

  test('a --deny rule wins, and alone it lets all others in', async () => {
    await server.start(['--deny', '127.0.0.64/26', '--deny', '127.0.0.5', ...BLANK])
    for (const source of ['127.0.0.1', '127.0.0.63', '127.0.0.128'])
      expect(await outcomeOf(from(source))).toBe('open')
    for (const source of ['127.0.0.5', '127.0.0.64', '127.0.0.127'])
      expect(await outcomeOf(from(source))).toBe('silence')
    expect(server.refusedClients()['127.0.0.64']).toMatch(/deny rule "127\.0\.0\.64\/26"/)
    expect(await server.stop()).toBe(0)
    await server.start(['--allow', '127.0.0.0/8', '--deny', '127.0.0.5', ...BLANK])
    expect(await outcomeOf(from('127.0.0.5'))).toBe('silence')
    expect(await outcomeOf(from('127.0.0.6'))).toBe('open')
    expect(await server.stop()).toBe(0)
  })

  test("a disk's rules narrow the server's, and its name is told to nobody else", async () => {
    const manifests = await server.declare({
      open: {},
      two: { allow: ['127.0.0.2'] },
      net: { allow: ['127.0.0.0/29', '127.0.0.200'], deny: ['127.0.0.2'] },
      closed: { deny: ['any'] },
      wide: { allow: ['any'] },
    })
    await server.start(['--disks', manifests, '--deny', '127.0.0.9'])
    const names = async (source: string) => (await visit(from(source), 'open')).names
    expect(await names('127.0.0.1')).toEqual(['net', 'open', 'wide'])
    expect(await names('127.0.0.2')).toEqual(['open', 'two', 'wide'])
    expect(await names('127.0.0.200')).toEqual(['net', 'open', 'wide'])
    expect(await names('127.0.0.100')).toEqual(['open', 'wide'])
    expect(await outcomeOf(from('127.0.0.9'), 'wide')).toBe('silence')
    for (const [source, name, outcome] of [
      ['127.0.0.2', 'two', 'open'],
      ['127.0.0.1', 'two', 'refused'],
      ['127.0.0.1', 'net', 'open'],
      ['127.0.0.2', 'net', 'refused'],
      ['127.0.0.8', 'net', 'refused'],
      ['127.0.0.1', 'closed', 'refused'],
      ['127.0.0.77', 'wide', 'open'],
    ] as const) {
      expect(await outcomeOf(from(source), name), `${source} ${name}`).toBe(outcome)
    }
    expect(await server.stop()).toBe(0)
  })

  test('a limit of connections is one for each address', async () => {
    await server.start(['--max-connections-per-client', '1', ...BLANK])
    const held = await hold(from('127.0.0.2'), 'one', 2)
    expect(await outcomeOf(from('127.0.0.2'), 'two')).toBe('silence')
    expect(await outcomeOf(from('127.0.0.3'), 'two')).toBe('open')
    await held.end
    await expect.poll(() => outcomeOf(from('127.0.0.2'), 'two')).toBe('open')
    expect(await server.stop()).toBe(0)
  })

  test('IPv6 has rules of its own', async context => {
    const listen = ['--listen', '[::1]:0']
    const served = await server.start(['--allow', '::1', ...listen, ...BLANK]).catch((error: Error) => error)
    context.skip(served instanceof Error && /does not have that address/.test(served.message), 'no IPv6 here')
    const port = await server.portOn('[::1]')
    expect(await outcomeOf({ host: '::1', port })).toBe('open')
    expect(await outcomeOf(from('127.0.0.1'))).toBe('silence')
    expect(await server.stop()).toBe(0)
    await server.start(['--allow', 'anyipv4', ...listen, ...BLANK])
    const next = await server.portOn('[::1]')
    expect(await outcomeOf({ host: '::1', port: next })).toBe('silence')
    expect(await outcomeOf(from('127.0.0.1'))).toBe('open')
    expect(await server.stop()).toBe(0)
  })

  /** Hands a socket over that takes both IPv6 and IPv4, as systemd does. */
  const ACTIVATE = `
import os, socket, sys
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
s.bind(("::", 0))
s.listen(16)
os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execvp(sys.argv[1], sys.argv[1:])
`

  test('IPv4 clients of a socket for both are IPv4: a mapped address is no way around a rule', async () => {
    const command = [PYTHON, '-c', ACTIVATE, join(checkout, 'hack/ondemand-disk'), 'serve'] as const
    let port = 0
    const activated = (source: string): Way => ({ source, host: '127.0.0.1', port })
    await server.start(['--deny', '127.0.0.2', '--deny', '::ffff:127.0.0.3', '--deny', '::/0', ...BLANK], {
      command,
    })
    port = await server.portOn('[::]')
    expect(await outcomeOf(activated('127.0.0.1'))).toBe('open')
    expect(await outcomeOf(activated('127.0.0.2'))).toBe('silence')
    expect(await outcomeOf(activated('127.0.0.3'))).toBe('silence')
    // A client that addresses the IPv4 machine by IPv6.
    expect(await outcomeOf({ source: '::ffff:127.0.0.2', host: '::ffff:127.0.0.1', port })).toBe('silence')
    expect(await outcomeOf({ source: '::ffff:127.0.0.4', host: '::ffff:127.0.0.1', port })).toBe('open')
    expect(await server.stop()).toBe(0)
    await server.start(['--allow', '127.0.0.0/30', ...BLANK], { command })
    port = await server.portOn('[::]')
    expect(await outcomeOf(activated('127.0.0.2'))).toBe('open')
    expect(await outcomeOf(activated('127.0.0.4'))).toBe('silence')
    expect(await outcomeOf({ host: '::1', port })).toBe('silence')
    expect(await server.stop()).toBe(0)
  })
})

describe('On a socket file', () => {
  test('clients match unix, and no address', async context => {
    await needLibnbd(context)
    const socket = join(server.folder, 'socket')
    const unix: Way = { host: socket }
    await server.start(['--unix', socket, '--allow', 'unix', ...BLANK])
    expect(await outcomeOf(unix)).toBe('open')
    expect(await outcomeOf({ host: '127.0.0.1', port: server.port })).toBe('silence')
    expect(await server.stop()).toBe(0)
    for (const rules of [
      ['--allow', 'anyipv4', '--allow', 'anyipv6', '--allow', '0.0.0.0/0', '--allow', '::/0'],
      ['--deny', 'unix'],
    ]) {
      await server.start(['--unix', socket, ...rules, ...BLANK])
      expect(await outcomeOf(unix)).toBe('silence')
      expect(await outcomeOf({ host: '127.0.0.1', port: server.port })).toBe('open')
      expect(await server.stop()).toBe(0)
    }
    const manifests = await server.declare({ local: { allow: ['unix'] }, remote: { deny: ['unix'] } })
    await server.start(['--unix', socket, '--disks', manifests])
    expect(await visit(unix, 'local')).toEqual({ outcome: 'open', names: ['local'] })
    expect(await outcomeOf(unix, 'remote')).toBe('refused')
    expect(await visit({ host: '127.0.0.1', port: server.port }, 'local')).toEqual({
      outcome: 'refused',
      names: ['remote'],
    })
    expect(await server.stop()).toBe(0)
  })
})

describe('A rule that cannot be read', () => {
  test.for([
    ['--allow', '10.0.0.0/33'],
    ['--allow', '10.0.0'],
    ['--deny', 'localhost'],
    ['--deny', ''],
    ['--deny', 'dn:CN=a'],
    ['--allow', 'ANY'],
  ])('%s %j: the server does not start, and makes nothing', async ([option = '', rule = '']) => {
    const dir = join(server.folder, 'disks')
    await mkdir(dir)
    const args = ['serve', '--dir', dir, '--listen', '127.0.0.1:0', ...BLANK, option, rule]
    const { status, stderr } = await run(join(checkout, 'hack/ondemand-disk'), args)
    expect(status).toBe(2)
    expect(stderr).toMatch(new RegExp(`^ondemand-disk: ${option}: `))
    expect(await readdir(dir)).toEqual([])
  })
})
