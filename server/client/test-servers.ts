/** For tests: NBD servers of others and our own, as processes that go away with the test. */
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { onTestFinished, type TestContext } from 'vitest'

const START_LIMIT = 15_000

/** Debian's own Python, for which its package of libnbd is. */
export const PYTHON = '/usr/bin/python3'

/** A folder that goes away with the test. */
export function makeFolder(): string {
  const path = mkdtempSync(join(tmpdir(), 'nbd-client-test-'))
  onTestFinished(() => rmSync(path, { recursive: true, force: true }))
  return path
}

/** Skips a test where a program is not installed. */
export function needPrograms({ skip }: TestContext, ...programs: readonly string[]): void {
  const missing = programs.filter(program => spawnSync(program, ['--version']).error !== undefined)
  skip(missing.length > 0, `not installed: ${missing.join(', ')}`)
}

/** Skips a test where Python has no libnbd. */
export function needLibnbd({ skip }: TestContext): void {
  skip(spawnSync(PYTHON, ['-c', 'import nbd']).status !== 0, 'not installed: python3-libnbd')
}

/** Runs a program to its end; what it wrote to standard output. */
export function succeed(program: string, ...args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(program, args, { timeout: START_LIMIT, killSignal: 'SIGKILL' }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout)
      else reject(new Error(`${program} failed: ${stderr}${stdout}`, { cause: error }))
    })
  })
}

/**
 * A TCP port on which nobody listens. It lies below the range from which the kernel takes the ports of
 * clients: there a client that tries a port in vain may at last be connected to itself.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000)
    const server = createServer()
    const isFree = await new Promise<boolean>(resolve => {
      server.on('error', () => resolve(false))
      server.listen(port, '127.0.0.1', () => resolve(true))
    })
    await new Promise(resolve => server.close(resolve))
    if (isFree) return port
  }
}

/** A server that runs. */
export interface TestServer {
  readonly process: ChildProcess
  /** Ends it by a signal and waits for that. */
  kill(signal?: NodeJS.Signals): Promise<void>
}

function watch(child: ChildProcess): TestServer {
  const ended = new Promise<void>(resolve => {
    child.once('exit', () => resolve())
    child.once('error', () => resolve())
  })
  const server: TestServer = {
    process: child,
    kill: async (signal = 'SIGKILL') => {
      child.kill(signal)
      await ended
    },
  }
  onTestFinished(() => server.kill())
  return server
}

/** Starts a server and waits until it is ready, or fails with what it said. */
export async function startServer(
  program: string,
  args: readonly string[],
  isReady: () => Promise<boolean>,
): Promise<TestServer> {
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr?.on('data', text => {
    said = (said + String(text)).slice(-4000)
  })
  const server = watch(child)
  const end = Date.now() + START_LIMIT
  while (!(await isReady())) {
    if (child.exitCode !== null || child.pid === undefined || Date.now() > end) {
      throw new Error(`${program} does not start: ${said}`)
    }
    await new Promise(resolve => setTimeout(resolve, 5))
  }
  return server
}

/** Is there a file of this name now? An old one is removed before. */
export function fileAppears(path: string): () => Promise<boolean> {
  rmSync(path, { force: true })
  return async () => existsSync(path)
}

function portAnswers(port: number): () => Promise<boolean> {
  return () =>
    new Promise(resolve => {
      const socket = connect(port, '127.0.0.1', () => {
        socket.destroy()
        resolve(true)
      })
      socket.on('error', () => resolve(false))
    })
}

/** nbdkit on a socket of `folder`, or on a port. */
export function startNbdkit(
  folder: string,
  at: number | string,
  ...args: readonly string[]
): Promise<TestServer> {
  const pidFile = join(folder, 'nbdkit.pid')
  const place = typeof at === 'number' ? ['-i', '127.0.0.1', '-p', String(at)] : ['-U', at]
  return startServer('nbdkit', ['-f', '-P', pidFile, ...place, ...args], fileAppears(pidFile))
}

/** qemu-nbd on a socket of `folder`. */
export function startQemuNbd(
  folder: string,
  socket: string,
  ...args: readonly string[]
): Promise<TestServer> {
  const pidFile = join(folder, 'qemu-nbd.pid')
  return startServer(
    'qemu-nbd',
    ['-t', '-e', '8', '-k', socket, `--pid-file=${pidFile}`, ...args],
    fileAppears(pidFile),
  )
}

/** nbd-server on a port, with one export `disk`. It puts itself into the background. */
export async function startNbdServer(folder: string, port: number, file: string): Promise<void> {
  const config = join(folder, 'nbd-server.conf')
  const pidFile = join(folder, 'nbd-server.pid')
  const general = `[generic]\nport = ${port}\nlistenaddr = 127.0.0.1\nallowlist = true\n`
  writeFileSync(config, `${general}[disk]\nexportname = ${file}\nflush = true\nfua = true\ntrim = true\n`)
  await succeed('nbd-server', '-C', config, '-p', pidFile)
  onTestFinished(() => {
    process.kill(Number(readFileSync(pidFile, 'utf8')), 'SIGKILL')
  })
  const answers = portAnswers(port)
  while (!(await answers())) await new Promise(resolve => setTimeout(resolve, 5))
}

/** Our own server, which makes disks in `disks`. Returns the URI that it tells. */
export async function startOurs(
  disks: string,
  listen: string,
  ...args: readonly string[]
): Promise<TestServer & { readonly uri: string }> {
  const main = join(import.meta.dirname, '../main.ts')
  const child = spawn(
    process.execPath,
    [main, 'serve', '--dir', disks, '--listen', listen, '--names', 'relaxed', ...args],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  )
  const server = watch(child)
  if (child.stderr === null) throw new Error('The server has no standard error.')
  let said = ''
  for await (const line of createInterface({ input: child.stderr })) {
    said += `${line}\n`
    const uri = /"uri":"([^"]*)"/.exec(line)?.[1]
    if (uri === undefined) continue
    child.stderr.resume()
    return { ...server, uri }
  }
  throw new Error(`Our server does not start: ${said}`)
}
