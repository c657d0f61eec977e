/** Sockets that the service manager has opened, and hands over. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type ListenOptions } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { expect, onTestFinished, test } from 'vitest'
import { connectRaw } from './test-client.ts'

/** Opens a socket that listens as long as the test takes. */
async function open(options: ListenOptions): Promise<number> {
  const listening = createServer().listen(options)
  onTestFinished(() => {
    listening.close()
  })
  await once(listening, 'listening')
  return (listening as unknown as { _handle: { fd: number } })._handle.fd
}

/** Runs a server that has the socket as its descriptor 3; resolves with the lines of its output, which grow. */
async function handOver(socket: number | 'pipe'): Promise<string[]> {
  const program = `
    import { listen } from '${pathToFileURL(`${import.meta.dirname}/listener.ts`).href}'
    const accept = (handle, client) => { console.log('client ' + client.shown); handle.close() }
    try { console.log('uri ' + (await listen({ kind: 'descriptor', descriptor: 3 }, accept, console.log)).uri) }
    catch (error) { console.log(error.message) }`
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit', socket],
  })
  onTestFinished(() => {
    child.kill('SIGKILL')
  })
  const lines: string[] = []
  child.stdout?.setEncoding('utf8').on('data', (text: string) => lines.push(...text.trim().split('\n')))
  await expect.poll(() => lines.length, { timeout: 20_000 }).toBeGreaterThan(0)
  return lines
}

function socketPath(): string {
  const folder = mkdtempSync(join(tmpdir(), 'activated-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  return join(folder, 'a b.sock')
}

test.each([
  ['a unix socket', socketPath],
  ['an abstract unix socket', () => `\0ondemand-disk-test-${process.pid}`],
])('%s is served, its clients are of this machine, and its URI leads there', async (_, makePath) => {
  const path = makePath()
  const lines = await handOver(await open({ path }))
  expect(new URL(lines[0]?.replace('uri ', '') ?? '').searchParams.get('socket')).toBe(path)
  // This process accepts clients, too: the other one has to get one of them.
  await expect.poll(() => connectRaw(path).then(() => lines.length), { timeout: 20_000 }).toBeGreaterThan(1)
  expect(lines[1]).toContain(`client unix:pid=${process.pid}`)
})

test('A socket that is connected already is refused, and the message says what its unit needs', async () => {
  expect(await handOver('pipe')).toEqual([
    'Cannot listen on descriptor 3: it is no stream socket that listens; its unit needs ListenStream= and Accept=no.',
  ])
})
