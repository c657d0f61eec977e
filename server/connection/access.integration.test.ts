/** Who gets in, how many, and who has to leave. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, statSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { makeDirectory } from '../backends/disks/test-directory.ts'
import { ListenError } from './listener.ts'
import { tcpClient } from './peer.ts'
import {
  attach,
  connectRaw,
  ERR,
  errorOf,
  FLUSH,
  GO,
  goPayload,
  outcome,
  READ,
  readSimple,
  request,
  WRITE,
} from './test-client.ts'
import { allGone, MIB, serve } from './test-server.ts'

const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

describe('A client that the rules do not admit', () => {
  test.each([
    [['10.0.0.0/8'], []],
    [[], ['127.0.0.1']],
    [['127.0.0.1'], ['any']],
    [['unix'], []],
  ])('(allow %j, deny %j) is hung up on before a byte is sent', async (allow, deny) => {
    const server = await serve({ allow, deny })
    const client = await server.connect()
    expect(await client.rest()).toHaveLength(0)
    await allGone(server)
    expect(server.log.find(({ level }) => level === 'warn')?.fields.reason).toBeTruthy()
  })

  test.each([
    [['127.0.0.0/8'], []],
    [[], ['10.0.0.0/8', 'anyipv6', 'unix']],
    [['anyipv4'], []],
  ])('(allow %j, deny %j) is another one', async (allow, deny) => {
    expect(await (await serve({ allow, deny })).connect().then(client => client.take(18))).toHaveLength(18)
  })
})

describe('Limits', () => {
  test('of connections in all: the next one is hung up on, and comes in when one has left', async () => {
    const server = await serve({ maxConnections: 3 })
    const clients = await Promise.all([1, 2, 3].map(index => server.attached(`disk${index}`)))
    for (let round = 0; round < 3; round++) {
      expect(await (await server.connect()).rest()).toHaveLength(0)
    }
    expect(server.server.connections).toBe(3)
    clients[0]?.hangUp()
    await allGone(server, 2)
    expect(await (await server.connect()).take(18)).toHaveLength(18)
    for (const client of clients.slice(1)) expect(await errorOf(client, request(FLUSH))).toBe(0)
  })

  test('of connections of one client', async () => {
    const server = await serve({ maxConnectionsPerClient: 2 })
    const clients = [await server.greeted(), await server.greeted()]
    expect(await (await server.connect()).rest()).toHaveLength(0)
    clients[1]?.reset()
    await allGone(server, 1)
    expect(await (await server.connect()).take(18)).toHaveLength(18)
  })

  test('are not used up by clients that leave without a word', async () => {
    const server = await serve({ maxConnections: 5, maxConnectionsPerClient: 5 })
    for (let round = 0; round < 100; round++) {
      const client = await server.connect()
      if (round % 2) client.reset()
      else client.hangUp()
      if (round % 5 === 4) await allGone(server)
    }
    await allGone(server)
    expect(await (await server.connect()).take(18)).toHaveLength(18)
  })
})

describe('A client that is shut out', () => {
  const shutOut = () => {
    const names = new Set<string>()
    return {
      names,
      setup: {
        size: 16 * MIB,
        around: <Catalog extends { revocation: unknown }>(catalog: Catalog): Catalog => ({
          ...catalog,
          revocation: (open: { name: string }) => (names.has(open.name) ? 'No more.' : undefined),
        }),
      },
    }
  }

  test.each([
    ['that is idle', Buffer.alloc(0), false],
    [
      'that does not read its replies',
      Buffer.concat(Array.from({ length: 20 }, () => request(READ, { length: 8 * MIB }))),
      true,
    ],
    ['in the middle of a WRITE', Buffer.concat([request(WRITE, { length: MIB }), Buffer.alloc(1000)]), false],
    ['with requests under way', Buffer.concat(Array.from({ length: 200 }, () => request(FLUSH))), true],
  ])('%s is cut off within a second, and its disk is free', async (_, bytes, deaf) => {
    const { names, setup } = shutOut()
    const server = await serve(setup)
    const [client, other] = [await server.attached('disk'), await server.attached('other')]
    if (deaf) client.pause()
    client.send(bytes)
    await pause(50)
    names.add('disk')
    const started = performance.now()
    server.server.enforceAccess()
    await allGone(server, 1)
    expect(performance.now() - started).toBeLessThan(3000)
    names.clear()
    await server.attached('disk')
    expect(await readSimple(other, 0, 4)).toEqual(Buffer.alloc(4))
  })
})

describe('Addresses', () => {
  test('IPv4-mapped IPv6 counts as IPv4', () => {
    expect(tcpClient('::ffff:10.0.0.7', 99)).toMatchObject({
      peer: { kind: 'ip', address: '10.0.0.7' },
      identity: '10.0.0.7',
      shown: '10.0.0.7:99',
    })
    expect(tcpClient('::FFFF:10.0.0.7', 99).identity).toBe('10.0.0.7')
  })

  test('IPv6 is shown in brackets', () => {
    expect(tcpClient('fd00::1', 99).shown).toBe('[fd00::1]:99')
  })

  test('a client that has none any more is refused', () => {
    expect(() => tcpClient(undefined, undefined)).toThrow()
  })

  test('connections over IPv6 and IPv4 are told apart', async context => {
    const probe = createServer().listen(0, '::1')
    const hasIpv6 = await Promise.race([
      once(probe, 'listening').then(() => true),
      once(probe, 'error').then(() => false),
    ])
    probe.close()
    context.skip(!hasIpv6, 'this machine has no IPv6')
    const server = await serve({ endpoints: [{ kind: 'tcp', host: '::1', port: 0 }], deny: ['anyipv4'] })
    expect(server.server.uris[0]).toMatch(/^nbd:\/\/\[::1\]:\d+$/)
    const socket = connect(server.port, '::1')
    onTestFinished(() => {
      socket.destroy()
    })
    const [greeting] = await once(socket, 'data')
    expect(greeting).toHaveLength(18)
  })
})

describe('Listening', () => {
  test('on a unix socket admits clients by its own rule, each process being one client', async () => {
    const path = join(makeDirectory(), 'socket')
    const server = await serve({ endpoints: [{ kind: 'unix', path }], allow: ['unix'], connections: 2 })
    expect(server.server.uris).toEqual([`nbd+unix:///?socket=${path}`])
    const [one, two, three] = [await connectRaw(path), await connectRaw(path), await connectRaw(path)]
    await attach(one, 'disk')
    await attach(two, 'disk')
    await expect(attach(three, 'disk')).rejects.toThrow(/a client may have 2/)
    const script = `const socket = require('node:net').connect(process.argv[1])
      const payload = Buffer.from('\\0\\0\\0\\4disk\\0\\0')
      const head = Buffer.concat([Buffer.from([0, 0, 0, 3]), Buffer.from('IHAVEOPT\\0\\0\\0\\7\\0\\0\\0\\12', 'latin1'), payload])
      socket.write(head)
      socket.on('data', data => { process.stdout.write(data.toString('latin1')); if (data.length > 20) process.exit() })`
    const other = spawn(process.execPath, ['-e', script, path], { stdio: ['ignore', 'pipe', 'inherit'] })
    let said = ''
    other.stdout.on('data', data => {
      said += data
    })
    await once(other, 'exit')
    expect(said).toMatch(new RegExp(`is in use by unix:pid=${process.pid} and 1 more`))
  })

  test('on a unix socket of an awkward name has a URI that leads there', async () => {
    const path = join(makeDirectory(), 'a&b=c#d ä?')
    const server = await serve({ endpoints: [{ kind: 'unix', path }] })
    const uri = new URL(server.server.uris[0] ?? '')
    expect(uri.searchParams.get('socket')).toBe(path)
  })

  test('takes the place of a socket whose server is gone, and of nothing else', async () => {
    const path = join(makeDirectory(), 'socket')
    const script = `require('node:net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))`
    await once(spawn(process.execPath, ['-e', script, path]), 'exit')
    expect(statSync(path).isSocket()).toBe(true)
    const server = await serve({ endpoints: [{ kind: 'unix', path }] })
    expect(await (await connectRaw(path)).take(18)).toHaveLength(18)
    await expect(serve({ endpoints: [{ kind: 'unix', path }] })).rejects.toMatchObject({ code: 'EADDRINUSE' })
    expect(server.server.uris).toHaveLength(1)
    const file = join(makeDirectory(), 'file')
    writeFileSync(file, 'mine')
    for (const taken of [file, makeDirectory()]) {
      const failed = serve({ endpoints: [{ kind: 'unix', path: taken }] })
      await expect(failed).rejects.toThrow(ListenError)
      await expect(failed).rejects.toThrow(/no socket has this name; remove it/)
      expect(existsSync(taken)).toBe(true)
    }
  })

  test('on a port that is in use says so, and leaves no other socket open', async () => {
    const server = await serve()
    const free = await serve()
    const { port } = free
    await free.server.stop()
    const endpoints = [
      { kind: 'tcp', host: '127.0.0.1', port },
      { kind: 'tcp', host: '127.0.0.1', port: server.port },
    ] as const
    await expect(serve({ endpoints })).rejects.toMatchObject({
      code: 'EADDRINUSE',
      message: `Cannot listen on 127.0.0.1:${server.port}: another program listens there.`,
    })
    await expect(connectRaw(port)).rejects.toThrow(/ECONNREFUSED/)
  })

  test.each([
    [{ kind: 'tcp', host: '192.0.2.1', port: 0 }, 'EADDRNOTAVAIL'],
    [{ kind: 'unix', path: '/nowhere/socket' }, 'ENOENT'],
  ] as const)('on %j fails with %s', async (endpoint, code) => {
    await expect(serve({ endpoints: [endpoint] })).rejects.toMatchObject({ name: 'ListenError', code })
  })
})

test('A refused client learns nothing of the disk but that it may not have it', async () => {
  const server = await serve()
  await server.attached('secret')
  const reply = await outcome(await server.greeted(), GO, goPayload('../secret'))
  expect(reply.error).toBe(ERR.UNKNOWN)
  expect(reply.text).not.toMatch(/127\.0\.0\.1|since/)
})
