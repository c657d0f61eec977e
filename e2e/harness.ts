/**
 * What end-to-end tests share: the real server in a process of its own, foreign programs, scratch folders.
 * All of it is disposable (`await using`), so that a test that fails leaves nothing behind.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { createWriteStream } from 'node:fs'
import { access, constants, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import type { TestContext } from 'vitest'

/** The top of the checkout. */
export const checkout = join(import.meta.dirname, '..')

/** Milliseconds that a server may take to listen, and to stop. */
const START_LIMIT = 30_000
const STOP_LIMIT = 15_000
/** Characters of output that are kept of a process. */
const OUTPUT_LIMIT = 4 * 1024 * 1024

// --- Scratch folders

export interface Scratch extends AsyncDisposable {
  readonly path: string
}

/** A new folder that is removed, with all that is in it, when it is disposed of. */
export async function scratch(): Promise<Scratch> {
  const path = await mkdtemp(join(tmpdir(), 'ondemand-disk-e2e-'))
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) }
}

// --- Programs

/** How a process ended: its exit status, or -1 when a signal ended it. */
export interface Ended {
  readonly status: number
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

export interface RunOptions {
  /** Milliseconds after which the program and all its children are killed (60,000). */
  readonly timeout?: number
  readonly env?: Readonly<Record<string, string>>
  /** What it reads from stdin (nothing). */
  readonly input?: string
  /** Called with each line of stdout as it comes. */
  readonly onLine?: (line: string) => void
}

/** Skips the test, naming the reason, unless all these programs are in PATH. */
export async function needPrograms(context: TestContext, ...programs: readonly string[]): Promise<void> {
  const missing: string[] = []
  for (const program of programs) if (!(await inPath(program))) missing.push(program)
  context.skip(missing.length > 0, `not installed: ${missing.join(', ')}`)
}

const inPath = async (program: string): Promise<boolean> => {
  for (const folder of `${process.env.PATH}:/usr/sbin:/sbin`.split(delimiter)) {
    const there = await access(join(folder, program), constants.X_OK).then(
      () => true,
      () => false,
    )
    if (there) return true
  }
  return false
}

/** Runs a program to its end. Throws only when it cannot be started; `check` also wants status 0. */
export async function run(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<Ended> {
  const { timeout = 60_000, env, input, onLine } = options
  const child = spawn(program, args, {
    // A group of its own, so that a program that hangs is killed with its children.
    detached: true,
    stdio: [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    env: { ...process.env, ...env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
  })
  // A program that ends without reading all of it says itself what it did not like.
  child.stdin?.on('error', () => undefined).end(input)
  const stdout = collect(child, 'stdout', onLine)
  const stderr = collect(child, 'stderr')
  const timer = setTimeout(() => killGroup(child), timeout)
  try {
    const { status, signal } = await ending(child)
    return { status, signal, stdout: stdout(), stderr: stderr() }
  } finally {
    clearTimeout(timer)
  }
}

/** Like `run`, and throws, quoting what the program said, unless its status is 0. Returns its stdout. */
export async function check(program: string, args: readonly string[], options?: RunOptions): Promise<string> {
  const { status, signal, stdout, stderr } = await run(program, args, options)
  if (status === 0) return stdout
  throw new Error(`${program} ${args.join(' ')} ended with ${signal ?? status}:\n${stdout}${stderr}`)
}

function collect(
  child: ChildProcess,
  from: 'stdout' | 'stderr',
  onLine?: (line: string) => void,
): () => string {
  let text = ''
  let line = ''
  child[from]?.setEncoding('utf8').on('data', (chunk: string) => {
    text = (text + chunk).slice(-OUTPUT_LIMIT)
    if (!onLine) return
    const lines = (line + chunk).split('\n')
    line = lines.pop() ?? ''
    for (const whole of lines) onLine(whole)
  })
  return () => text
}

/** Resolves once the process has ended and all its output has been read. */
const ending = (child: ChildProcess): Promise<{ status: number; signal: NodeJS.Signals | null }> =>
  new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) => resolve({ status: code ?? -1, signal }))
  })

function killGroup(child: ChildProcess): void {
  if (child.pid === undefined || child.exitCode !== null) return
  try {
    process.kill(-child.pid, 'SIGKILL')
  } catch (error) {
    // It ended just now.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

// --- The server

/** A server in a process of its own. Disposing of it kills it if it still runs. */
export interface ServerProcess extends AsyncDisposable {
  readonly pid: number
  /** The TCP port that it listens on. */
  readonly port: number
  /** URI of a disk: `nbd://127.0.0.1:PORT/NAME`. */
  uri(disk: string): string
  /** All that it wrote so far: JSON lines. */
  log(): string
  /** Asks it to end, by default as a service manager does, and returns its exit status. */
  stop(signal?: 'SIGTERM' | 'SIGINT'): Promise<number>
  /** Ends it by SIGKILL, as a crash does, and returns once it is gone. */
  kill(): Promise<void>
}

export interface ServerOptions {
  /** The port to listen on (0: any that is free). To start again after `kill`, give the port of before. */
  readonly port?: number
  readonly env?: Readonly<Record<string, string>>
  /** The script to start (`hack/ondemand-disk` with `serve`). */
  readonly command?: readonly [program: string, ...args: string[]]
  /** Milliseconds until it must listen (30,000). */
  readonly limit?: number
}

/**
 * Starts `hack/ondemand-disk serve --listen 127.0.0.1:PORT` with these options after it, and returns once
 * it listens. Throws, quoting its log, when it ends before that. With `TEST_LOGS` in the environment the
 * log is also written to a file in that folder.
 */
export async function startServer(
  args: readonly string[],
  options: ServerOptions = {},
): Promise<ServerProcess> {
  const [program, ...first] = options.command ?? [join(checkout, 'hack/ondemand-disk'), 'serve']
  const child = spawn(program, [...first, '--listen', `127.0.0.1:${options.port ?? 0}`, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...options.env },
  })
  let text = ''
  let listening: (uri: string) => void = () => undefined
  const ready = new Promise<string>(resolve => {
    listening = resolve
  })
  const file =
    process.env.TEST_LOGS === undefined
      ? undefined
      : createWriteStream(join(process.env.TEST_LOGS, `server-${child.pid}.log`))
  const take = (line: string) => {
    text = `${text}${line}\n`.slice(-OUTPUT_LIMIT)
    file?.write(`${line}\n`)
    const uri = listeningUri(line)
    if (uri !== undefined) listening(uri)
  }
  collect(child, 'stdout', take)
  collect(child, 'stderr', take)
  const ended = ending(child).finally(() => file?.end())
  const tooLate = AbortSignal.timeout(options.limit ?? START_LIMIT)
  const uri = await Promise.race([
    ready,
    ended.then(({ status, signal }) => {
      throw new Error(`The server ended with ${signal ?? status} before it listened:\n${text}`)
    }),
    new Promise<never>((_, reject) => {
      tooLate.addEventListener('abort', () => reject(new Error(`The server does not listen:\n${text}`)))
    }),
  ]).catch(error => {
    child.kill('SIGKILL')
    throw error
  })

  const kill = async () => {
    child.kill('SIGKILL')
    await ended
  }
  return {
    pid: child.pid ?? -1,
    port: Number(new URL(uri).port || 10809),
    uri: disk => `${uri.replace(/\/$/, '')}/${disk}`,
    log: () => text,
    kill,
    async stop(signal = 'SIGTERM') {
      child.kill(signal)
      const timer = setTimeout(() => child.kill('SIGKILL'), STOP_LIMIT)
      const { status } = await ended
      clearTimeout(timer)
      return status
    },
    [Symbol.asyncDispose]: kill,
  }
}

/** The address in the line by which the server says that it listens. */
function listeningUri(line: string): string | undefined {
  if (!line.startsWith('{')) return undefined
  try {
    const entry: { msg?: unknown; uri?: unknown } = JSON.parse(line)
    return entry.msg === 'Listening' && typeof entry.uri === 'string' ? entry.uri : undefined
  } catch {
    // Not every line that a child of the server writes is JSON.
    return undefined
  }
}
