import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer, type Server } from 'node:net'
import { pathToFileURL } from 'node:url'
import { describe, expect, test } from 'vitest'
import { ActivationError, takeActivatedSockets } from './systemd.ts'

const MODULE = pathToFileURL(`${import.meta.dirname}/systemd.ts`).href

describe('without sockets for this process', () => {
  test.each<[string, NodeJS.ProcessEnv]>([
    ['no variables', {}],
    ['another process', { LISTEN_FDS: '1', LISTEN_PID: '41', LISTEN_FDNAMES: 'a' }],
    ['no process', { LISTEN_FDS: '1' }],
    ['no number', { LISTEN_PID: '42' }],
    ['zero sockets', { LISTEN_FDS: '0', LISTEN_PID: '42' }],
    ['zero sockets with no names', { LISTEN_FDS: '0', LISTEN_PID: '42', LISTEN_FDNAMES: '' }],
  ])('%s: none, and the variables are gone', (_, variables) => {
    const environment = { ...variables, PATH: '/bin', LISTEN_PIDFDID: '7' }
    expect(takeActivatedSockets(environment, 42)).toEqual([])
    expect(environment).toEqual({ PATH: '/bin' })
  })
})

describe('bad variables are named', () => {
  test.each<[NodeJS.ProcessEnv, RegExp]>([
    [{ LISTEN_FDS: 'x', LISTEN_PID: '42' }, /^LISTEN_FDS is "x"/],
    [{ LISTEN_FDS: '', LISTEN_PID: '42' }, /^LISTEN_FDS is ""/],
    [{ LISTEN_FDS: '-1', LISTEN_PID: '42' }, /^LISTEN_FDS is "-1"/],
    [{ LISTEN_FDS: '1.5', LISTEN_PID: '42' }, /^LISTEN_FDS is "1\.5"/],
    [{ LISTEN_FDS: '1025', LISTEN_PID: '42' }, /^LISTEN_FDS is "1025"/],
    [{ LISTEN_FDS: '99999999999', LISTEN_PID: '42' }, /^LISTEN_FDS is /],
    [{ LISTEN_FDS: '1', LISTEN_PID: 'me' }, /^LISTEN_PID is "me"/],
    [{ LISTEN_FDS: '1', LISTEN_PID: '' }, /^LISTEN_PID is ""/],
    [{ LISTEN_FDS: '1', LISTEN_PID: '042' }, /^LISTEN_PID is "042"/],
    [
      { LISTEN_FDS: '2', LISTEN_PID: '42', LISTEN_FDNAMES: 'a' },
      /^LISTEN_FDNAMES has 1 names, but LISTEN_FDS is 2/,
    ],
    [
      { LISTEN_FDS: '1024', LISTEN_PID: '42' },
      /^LISTEN_FDS is 1024, but descriptor \d+ is not (open|a socket)/,
    ],
  ])('%j', (variables, message) => {
    const environment = { ...variables }
    expect(() => takeActivatedSockets(environment, 42)).toThrow(ActivationError)
    expect(environment).toEqual({})
    expect(() => takeActivatedSockets({ ...variables }, 42)).toThrow(message)
  })
})

/** Runs code with the listening sockets as descriptors from 3 on, as a service manager starts a service. */
async function activate(servers: readonly Server[], variables: string, code: string): Promise<string> {
  const program = `
    import { takeActivatedSockets } from '${MODULE}'
    ${code}`
  const descriptors = servers.map(server => (server as unknown as { _handle: { fd: number } })._handle.fd)
  const child = spawn(
    'sh',
    // exec keeps the process id of the shell, which is the only one known before the program runs.
    ['-c', `${variables} exec "$0" "$@"`, process.execPath, '--input-type=module', '-e', program],
    { stdio: ['ignore', 'pipe', 'inherit', ...descriptors] },
  )
  for (const server of servers) server.close()
  let output = ''
  child.stdout?.setEncoding('utf8').on('data', async text => {
    output += text
    const port = /^connect (\d+)$/m.exec(text)?.[1]
    if (port !== undefined) {
      const socket = connect(Number(port), '127.0.0.1').setEncoding('utf8')
      socket.on('data', greeting => {
        output += `client got ${greeting}`
        socket.end()
      })
    }
  })
  await once(child, 'close')
  return output
}

async function listen(): Promise<Server> {
  const server = createServer()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return server
}

describe('with inherited sockets', () => {
  test('serves a client on the inherited descriptor', async () => {
    const output = await activate(
      [await listen()],
      'LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=nbd',
      `import { createServer } from 'node:net'
      const [socket] = takeActivatedSockets()
      console.log(JSON.stringify(socket))
      const server = createServer(client => {
        client.end('hello\\n')
        server.close()
      })
      server.listen({ fd: socket.descriptor }, () => console.log('connect ' + server.address().port))`,
    )
    expect(output).toContain('{"descriptor":3,"name":"nbd"}')
    expect(output).toContain('client got hello')
  })

  test('neither the variables nor the sockets reach a child', async () => {
    const output = await activate(
      [await listen(), await listen()],
      'LISTEN_PID=$$ LISTEN_FDS=2',
      `import { spawnSync } from 'node:child_process'
      console.log(JSON.stringify(takeActivatedSockets()))
      const script = 'env | grep ^LISTEN_; for fd in 3 4; do readlink /proc/$$/fd/$fd; done; echo done'
      console.log(spawnSync('sh', ['-c', script], { encoding: 'utf8' }).stdout)`,
    )
    expect(output).toContain('[{"descriptor":3,"name":"unknown"},{"descriptor":4,"name":"unknown"}]')
    expect(output).toContain('done')
    expect(output).not.toContain('LISTEN_')
    expect(output).not.toContain('socket:')
  })

  test('a number that promises more than there is, is an error', async () => {
    const output = await activate(
      [await listen()],
      'LISTEN_PID=$$ LISTEN_FDS=2',
      'try { takeActivatedSockets() } catch (error) { console.log(error.code, error.message) }',
    )
    expect(output).toMatch(/^EACTIVATION LISTEN_FDS is 2, but descriptor 4 is not (open|a socket)\.$/m)
  })
})
