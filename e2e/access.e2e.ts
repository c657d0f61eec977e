/** Who may connect: clients at several real addresses, on the loopback, in a network of their own, and on a socket file. */
import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  check,
  checkout,
  run,
  type Scratch,
  type ServerOptions,
  type ServerProcess,
  scratch,
  startServer,
} from './harness.ts'
import { needLibnbd, PYTHON } from './libnbd.ts'

const BLANK = ['--size', '1M', '--command', 'truncate -s "$size" "$disk"']

/**
 * A client at an address of its own. Prints what becomes of it: `silence` (the server hangs up without a
 * byte), `open`, or the error; and the names that are listed to it.
 */
const CLIENT = `
import json, nbd, socket, sys
source, host, port, name = sys.argv[1:5]
def connected():
    if host.startswith("/"):
        s = socket.socket(socket.AF_UNIX)
        s.connect(host)
        return s
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if source: s.bind((source, 0))
    s.settimeout(10)
    s.connect((host, int(port)))
    s.settimeout(None)
    return s
s = connected()
if s.recv(1, socket.MSG_PEEK) == b"":
    print(json.dumps({"outcome": "silence", "names": []}))
    sys.exit(0)
names = []
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_socket(s.detach())
h.opt_list(lambda listed, description: names.append(listed) or 0)
h.set_export_name(name)
try:
    h.opt_go()
    h.pread(512, 0)
    outcome = "open"
except nbd.Error as error:
    outcome = "refused"
print(json.dumps({"outcome": outcome, "names": sorted(names)}))
`

/** What becomes of a client. */
interface Outcome {
  readonly outcome: 'silence' | 'open' | 'refused'
  readonly names: readonly string[]
}

/** Where a client comes from, and how it gets there. */
interface Way {
  readonly source?: string
  readonly host: string
  readonly port?: number
  /** Network namespace. */
  readonly namespace?: string
}

async function visit(
  { source = '', host, port = 0, namespace }: Way,
  name: string,
  script = CLIENT,
  onLine = (_: string): void => {},
): Promise<Outcome> {
  const command = [PYTHON, '-c', script, source, host, String(port), name]
  const [program = '', ...args] =
    namespace === undefined ? command : ['ip', 'netns', 'exec', namespace, ...command]
  const output = await check(program, args, { onLine, timeout: 90_000 })
  return JSON.parse(output.split('\n', 1)[0] ?? '') as Outcome
}

/** A client that has a disk open for some seconds; resolves when it has. */
async function hold(way: Way, name: string, seconds: number): Promise<{ readonly end: Promise<unknown> }> {
  const script = `${CLIENT}\nprint("holding", flush=True)\nimport time; time.sleep(${seconds})`
  let holding = () => {}
  const ready = new Promise<void>(resolve => {
    holding = resolve
  })
  const end = visit(way, name, script, line => {
    if (line === 'holding') holding()
  })
  await Promise.race([ready, end])
  return { end }
}

const outcomeOf = async (way: Way, name = 'disk') => (await visit(way, name)).outcome

let folder: Scratch
let server: ServerProcess | undefined

beforeEach(async () => {
  folder = await scratch()
})

afterEach(async () => {
  await server?.[Symbol.asyncDispose]()
  server = undefined
  await folder[Symbol.asyncDispose]()
})

/** Starts a server on a new directory of disks. */
async function start(args: readonly string[], options?: ServerOptions): Promise<ServerProcess> {
  const dir = join(folder.path, 'disks')
  await mkdir(dir, { recursive: true })
  server = await startServer(['--dir', dir, ...args], options)
  return server
}

/** Puts manifests of small disks, with these access rules, where the server looks for them. */
async function declare(
  disks: Readonly<Record<string, { allow?: string[]; deny?: string[] }>>,
): Promise<string> {
  const path = join(folder.path, 'manifests')
  await mkdir(path, { recursive: true })
  for (const [name, access] of Object.entries(disks)) {
    const manifest = {
      ...{ apiVersion: 'ondemanddisk.dev/v1alpha1', kind: 'OnDemandDisk', metadata: { name } },
      spec: { size: '1Mi', command: 'truncate -s "$size" "$disk"', access },
    }
    await writeFile(join(path, `${name}.json`), JSON.stringify(manifest))
  }
  return path
}

/** The port that the server has on this address. */
async function portOn(address: string): Promise<number> {
  const port = () => server?.log().split(`"nbd://${address}:`)[1]?.match(/^\d+/)?.[0]
  await expect.poll(port).toBeDefined()
  return Number(port())
}

/** Reasons for which clients were sent away before a byte was sent, by their addresses. */
const refusedClients = (): Readonly<Record<string, string>> =>
  Object.fromEntries(
    (server?.log() ?? '')
      .split('\n')
      .filter(line => line.includes('"Client refused"'))
      .map(line => JSON.parse(line) as { client: string; reason: string })
      .map(({ client, reason }) => [client.replace(/:\d+$/, ''), reason]),
  )

describe('On the loopback', () => {
  const from = (source: string): Way => ({ source, host: '127.0.0.1', port: server?.port ?? 0 })

  beforeEach(context => needLibnbd(context))

  test('only those are served whom an --allow rule matches; others get not a byte', async () => {
    await start(['--allow', '127.0.0.2', '--allow', '127.0.0.16/28', ...BLANK])
    for (const source of ['127.0.0.2', '127.0.0.16', '127.0.0.31']) {
      expect(await outcomeOf(from(source)), source).toBe('open')
    }
    for (const source of [
      '127.0.0.1',
      '127.0.0.3',
      '127.0.0.15',
      '127.0.0.32',
      '127.0.0.21'.replace('21', '200'),
    ]) {
      expect(await outcomeOf(from(source), 'refused'), source).toBe('silence')
    }
    expect(refusedClients()['127.0.0.3']).toMatch(/no allow rule matches/)
    expect(await readdir(join(folder.path, 'disks'))).not.toContain('refused')
    expect(await server?.stop()).toBe(0)
  })

  test('a --deny rule wins, and alone it lets all others in', async () => {
    await start(['--deny', '127.0.0.64/26', '--deny', '127.0.0.5', ...BLANK])
    for (const source of ['127.0.0.1', '127.0.0.63', '127.0.0.128'])
      expect(await outcomeOf(from(source))).toBe('open')
    for (const source of ['127.0.0.5', '127.0.0.64', '127.0.0.127'])
      expect(await outcomeOf(from(source))).toBe('silence')
    expect(refusedClients()['127.0.0.64']).toMatch(/deny rule "127\.0\.0\.64\/26"/)
    expect(await server?.stop()).toBe(0)
    await start(['--allow', '127.0.0.0/8', '--deny', '127.0.0.5', ...BLANK])
    expect(await outcomeOf(from('127.0.0.5'))).toBe('silence')
    expect(await outcomeOf(from('127.0.0.6'))).toBe('open')
    expect(await server?.stop()).toBe(0)
  })

  test("a disk's rules narrow the server's, and its name is told to nobody else", async () => {
    const manifests = await declare({
      open: {},
      two: { allow: ['127.0.0.2'] },
      net: { allow: ['127.0.0.0/29', '127.0.0.200'], deny: ['127.0.0.2'] },
      closed: { deny: ['any'] },
      wide: { allow: ['any'] },
    })
    await start(['--disks', manifests, '--deny', '127.0.0.9'])
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
    expect(await server?.stop()).toBe(0)
  })

  test('a limit of connections is one for each address', async () => {
    await start(['--max-connections-per-client', '1', ...BLANK])
    const held = await hold(from('127.0.0.2'), 'one', 2)
    expect(await outcomeOf(from('127.0.0.2'), 'two')).toBe('silence')
    expect(await outcomeOf(from('127.0.0.3'), 'two')).toBe('open')
    await held.end
    await expect.poll(() => outcomeOf(from('127.0.0.2'), 'two')).toBe('open')
    expect(await server?.stop()).toBe(0)
  })

  test('IPv6 has rules of its own', async context => {
    const listen = ['--listen', '[::1]:0']
    const served = await start(['--allow', '::1', ...listen, ...BLANK]).catch((error: Error) => error)
    context.skip(served instanceof Error && /does not have that address/.test(served.message), 'no IPv6 here')
    const port = await portOn('[::1]')
    expect(await outcomeOf({ host: '::1', port })).toBe('open')
    expect(await outcomeOf(from('127.0.0.1'))).toBe('silence')
    expect(await server?.stop()).toBe(0)
    await start(['--allow', 'anyipv4', ...listen, ...BLANK])
    const next = await portOn('[::1]')
    expect(await outcomeOf({ host: '::1', port: next })).toBe('silence')
    expect(await outcomeOf(from('127.0.0.1'))).toBe('open')
    expect(await server?.stop()).toBe(0)
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
    await start(['--deny', '127.0.0.2', '--deny', '::ffff:127.0.0.3', '--deny', '::/0', ...BLANK], {
      command,
    })
    port = await portOn('[::]')
    expect(await outcomeOf(activated('127.0.0.1'))).toBe('open')
    expect(await outcomeOf(activated('127.0.0.2'))).toBe('silence')
    expect(await outcomeOf(activated('127.0.0.3'))).toBe('silence')
    // A client that addresses the IPv4 machine by IPv6.
    expect(await outcomeOf({ source: '::ffff:127.0.0.2', host: '::ffff:127.0.0.1', port })).toBe('silence')
    expect(await outcomeOf({ source: '::ffff:127.0.0.4', host: '::ffff:127.0.0.1', port })).toBe('open')
    expect(await server?.stop()).toBe(0)
    await start(['--allow', '127.0.0.0/30', ...BLANK], { command })
    port = await portOn('[::]')
    expect(await outcomeOf(activated('127.0.0.2'))).toBe('open')
    expect(await outcomeOf(activated('127.0.0.4'))).toBe('silence')
    expect(await outcomeOf({ host: '::1', port })).toBe('silence')
    expect(await server?.stop()).toBe(0)
  })
})

describe('On a socket file', () => {
  test('clients match unix, and no address', async context => {
    await needLibnbd(context)
    const socket = join(folder.path, 'socket')
    const unix: Way = { host: socket }
    await start(['--unix', socket, '--allow', 'unix', ...BLANK])
    expect(await outcomeOf(unix)).toBe('open')
    expect(await outcomeOf({ host: '127.0.0.1', port: server?.port ?? 0 })).toBe('silence')
    expect(await server?.stop()).toBe(0)
    for (const rules of [
      ['--allow', 'anyipv4', '--allow', 'anyipv6', '--allow', '0.0.0.0/0', '--allow', '::/0'],
      ['--deny', 'unix'],
    ]) {
      await start(['--unix', socket, ...rules, ...BLANK])
      expect(await outcomeOf(unix)).toBe('silence')
      expect(await outcomeOf({ host: '127.0.0.1', port: server?.port ?? 0 })).toBe('open')
      expect(await server?.stop()).toBe(0)
    }
    const manifests = await declare({ local: { allow: ['unix'] }, remote: { deny: ['unix'] } })
    await start(['--unix', socket, '--disks', manifests])
    expect(await visit(unix, 'local')).toEqual({ outcome: 'open', names: ['local'] })
    expect(await outcomeOf(unix, 'remote')).toBe('refused')
    expect(await visit({ host: '127.0.0.1', port: server?.port ?? 0 }, 'local')).toEqual({
      outcome: 'refused',
      names: ['remote'],
    })
    expect(await server?.stop()).toBe(0)
  })
})

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
      ? { source, namespace, host: 'fd12:3456:789a::1', port: await portOn('[::]') }
      : { source, namespace, host: '10.123.45.1', port: await portOn(ipv4) }

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
    await start([...listen, ...rules, ...BLANK])
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
    expect(await outcomeOf({ host: '127.0.0.1', port: server?.port ?? 0 })).toBe('silence')
    expect(await server?.stop()).toBe(0)
  })

  test('each sees and gets the disks that are meant for it', async () => {
    const manifests = await declare({
      two: { allow: ['10.123.45.2', 'fd12:3456:789a::2'] },
      three: { allow: ['10.123.45.3'] },
      here: { allow: ['127.0.0.0/8'] },
      all: { allow: ['10.123.45.0/24', 'fd12:3456:789a::/64'], deny: ['10.123.45.77'] },
    })
    await start([...LISTEN, '--disks', manifests])
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
    expect(await server?.stop()).toBe(0)
  })

  test('one that vanishes without a word gives its disk back within 30 s', { timeout: 90_000 }, async () => {
    await start([...LISTEN, ...BLANK])
    const held = await hold(await from('10.123.45.2'), 'disk', 32)
    // The cable is pulled: no FIN, no RST.
    await check('ip', ['-n', namespace, 'addr', 'del', '10.123.45.2/24', 'dev', 'eth0'])
    try {
      const before = performance.now()
      const here: Way = { host: '127.0.0.1', port: server?.port ?? 0 }
      expect(await outcomeOf(here)).toBe('refused')
      await expect.poll(() => outcomeOf(here), { timeout: 40_000, interval: 500 }).toBe('open')
      expect(performance.now() - before).toBeLessThan(30_000)
    } finally {
      await check('ip', ['-n', namespace, 'addr', 'add', '10.123.45.2/24', 'dev', 'eth0'])
    }
    await held.end
    expect(await server?.stop()).toBe(0)
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
    const dir = join(folder.path, 'disks')
    await mkdir(dir)
    const args = ['serve', '--dir', dir, '--listen', '127.0.0.1:0', ...BLANK, option, rule]
    const { status, stderr } = await run(join(checkout, 'hack/ondemand-disk'), args)
    expect(status).toBe(2)
    expect(stderr).toMatch(new RegExp(`^ondemand-disk: ${option}: `))
    expect(await readdir(dir)).toEqual([])
  })
})
