import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test, vi } from 'vitest'

const MAIN = join(import.meta.dirname, '../main.ts')

interface Serving {
  readonly process: ChildProcess
  log(): string
}

/** A server that has begun to serve; its standard input is /dev/null, or a terminal of its own. */
async function serve(terminal: boolean): Promise<Serving> {
  const directory = mkdtempSync(join(tmpdir(), 'signals-'))
  const logFile = join(directory, 'log')
  const command = `exec ${process.execPath} ${MAIN} serve --temporary --size 1M --unix ${directory}/socket 2>${logFile}`
  const child = terminal
    ? spawn('script', ['-qec', command, '/dev/null'], { stdio: ['pipe', 'ignore', 'ignore'] })
    : spawn('/bin/sh', ['-c', command], { stdio: 'ignore' })
  onTestFinished(() => {
    child.kill('SIGKILL')
    rmSync(directory, { recursive: true })
  })
  const log = () => readFileSync(logFile, 'utf8')
  await vi.waitFor(() => expect(log()).toContain('Listening'), { timeout: 30_000 })
  return { process: child, log }
}

test('SIGUSR1 does not open a debugger', async () => {
  const server = await serve(false)
  server.process.kill('SIGUSR1')
  await sleep(500)
  expect(server.log()).not.toContain('Debugger')
  server.process.kill('SIGTERM')
  expect(await once(server.process, 'exit')).toEqual([0, null])
})

test('A server whose terminal is somewhere else goes on when that hangs up', async () => {
  const server = await serve(false)
  server.process.kill('SIGHUP')
  await sleep(500)
  expect(server.process.exitCode ?? server.process.signalCode).toBeNull()
  server.process.kill('SIGTERM')
  expect(await once(server.process, 'exit')).toEqual([0, null])
})

test('A server stops in order when its terminal hangs up', async () => {
  const server = await serve(true)
  // The terminal's other end goes with it.
  server.process.kill('SIGKILL')
  await vi.waitFor(() => expect(server.log()).toContain('Stopped'), { timeout: 30_000 })
  expect(server.log()).toContain('SIGHUP')
})
