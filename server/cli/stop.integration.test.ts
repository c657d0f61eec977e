/** How the server's process ends where a disk cannot be made durable. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { expect, onTestFinished, test } from 'vitest'
import { connect } from '../client/client.ts'

const MAIN = join(import.meta.dirname, '../main.ts')

const moduleWith = (flush: string) => `
  export const apiVersion = 1
  export const open = name => ({ name })
  export const getSize = () => 65536
  export const pread = () => {}
  export const pwrite = () => {}
  export const flush = ${flush}
`

/** Starts a server of a module, has a client write, and stops it. */
async function stopped(flush: string) {
  const folder = mkdtempSync(join(tmpdir(), 'stop-test-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const module = join(folder, 'module.mjs')
  writeFileSync(module, moduleWith(flush))
  const listen = ['--listen', '127.0.0.1:0']
  const child = spawn(process.execPath, [MAIN, 'serve', '--backend', module, ...listen], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  const lines = createInterface({ input: child.stderr })
  const said: string[] = []
  lines.on('line', line => said.push(line))
  await expect.poll(() => said.some(line => line.includes('"uri"')), { timeout: 15_000 }).toBe(true)
  const uri = said.map(line => /"uri":"([^"]*)"/.exec(line)?.[1]).find(found => found !== undefined)
  const client = await connect(`${uri}/alice`)
  await client.pwrite(Buffer.alloc(512), 0, 512, 0)
  const ended = once(child, 'close')
  const startedAt = performance.now()
  child.kill('SIGTERM')
  const [code] = await ended
  await client.close()
  return { code, ms: performance.now() - startedAt, last: said.at(-1) }
}

test.each([
  ['fails', '() => { throw new Error("broken") }'],
  ['does not end', '() => new Promise(() => {})'],
])(
  'A server that is stopped ends in time, and by 1, where a flush %s',
  { timeout: 40_000 },
  async (_, flush) => {
    const { code, ms, last } = await stopped(flush)
    expect(code).toBe(1)
    expect(last).toMatch(/^ondemand-disk: .* may not be durable.*"alice"/)
    // 10 s, and some for a machine that is busy.
    expect(ms).toBeLessThan(12_000)
  },
)

test('A server that is stopped ends by 0 where all was flushed', { timeout: 30_000 }, async () => {
  expect((await stopped('() => {}')).code).toBe(0)
})
