import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'ondemand-disk-bench-test-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

/** A server that has a child, as some have, and one that does not end when it is asked to. Arguments: port, file for the ids. */
const SERVER = `
  const [port, file] = process.argv.slice(1)
  const { spawn } = require('node:child_process')
  const children = [spawn('sleep', ['1000']), spawn('sh', ['-c', 'trap "" TERM; while :; do sleep 1; done'])]
  require('node:fs').writeFileSync(file, [process.pid, ...children.map(({ pid }) => pid)].join(' '))
  require('node:net').createServer().listen(port, '127.0.0.1')`

/** A benchmark of that server, which then does `last`. */
const benchOf = (last: string) => `
  import { endWithChildren, freePort, scratchFolder, startListening } from ${JSON.stringify(join(import.meta.dirname, 'process.ts'))}
  const [file] = process.argv.slice(1)
  endWithChildren(300)
  const port = await freePort()
  const argv = [process.execPath, '-e', ${JSON.stringify(SERVER)}, String(port), file]
  await startListening(argv, { port, host: '127.0.0.1' })
  process.stdout.write(scratchFolder())
  ${last}`

/** Runs a benchmark, with a signal when its server listens. Returns its status, and the ids of what it had started. */
async function bench(last: string, signal?: NodeJS.Signals): Promise<{ status: number; pids: number[] }> {
  const file = join(folder, 'pids')
  const child = spawn(process.execPath, ['--input-type=module', '-e', benchOf(last), file], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const ended = once(child, 'exit')
  const [scratch] = await once(child.stdout, 'data')
  if (signal !== undefined) child.kill(signal)
  const [status] = await ended
  expect(existsSync(String(scratch))).toBe(false)
  return { status, pids: readFileSync(file, 'utf8').split(' ').map(Number) }
}

function isRunning(pid: number): boolean {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}

test.for([
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const)('A benchmark that is ended by %s leaves no process running', async ([signal, expected]) => {
  // Servers, and what they had started, went on at full speed.
  const { status, pids } = await bench('setInterval(() => undefined, 1000)', signal)
  expect(status).toBe(expected)
  expect(pids).toHaveLength(3)
  await expect.poll(() => pids.filter(isRunning)).toEqual([])
})

test.for([
  ['that fails', "throw new Error('The row failed.')", 1],
  ['that forgets to stop a server', 'process.exit(0)', 0],
] as const)('A benchmark %s leaves no process running', async ([, last, expected]) => {
  const { status, pids } = await bench(last)
  expect(status).toBe(expected)
  await expect.poll(() => pids.filter(isRunning)).toEqual([])
})
