/** Child processes of the benchmarks: started, awaited until they listen, measured in /proc, and ended. */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { connect as connectSocket, createServer, type NetConnectOpts } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

/** Processes that went to the background: they are children of nobody. */
const daemons = new Set<number>()

const folders = new Set<string>()

/** A new folder for a benchmark, which is removed when `endWithChildren` has ended it, if it has not done so before. */
export function scratchFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'ondemand-disk-bench-'))
  folders.add(folder)
  return folder
}

const STATUS_OF = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const

/** How long what was started has to end before it is killed, in ms. */
const PATIENCE_MS = 10_000

/**
 * From now on nothing that this process starts outlives it. By SIGINT, SIGTERM or SIGHUP its children are asked to end, so that
 * they take their mounts away, and it ends when they and theirs are gone. What is there after `patienceMs`, or at any other end of
 * this process, is killed. Benchmarks that were interrupted left their servers running at full speed.
 */
export function endWithChildren(patienceMs = PATIENCE_MS): void {
  const known = new Set<number>()
  // What has lost its parent meanwhile is no descendant any more.
  const left = () => {
    for (const pid of withDescendants([process.pid, ...daemons])) known.add(pid)
    known.delete(process.pid)
    for (const pid of known) if (!isRunning(pid)) known.delete(pid)
    return known
  }
  let isEnding = false
  const end = async (status: number) => {
    // Who says it twice does not want to wait.
    if (isEnding) process.exit(status)
    isEnding = true
    // What was measured fails now, which is nobody's news.
    process.on('uncaughtException', () => undefined)
    const deadline = performance.now() + patienceMs
    for (const pid of left()) {
      if (Number(statOf(pid)?.[1]) === process.pid || daemons.has(pid)) send(pid, 'SIGTERM')
      // One that stands still ends when it goes on.
      send(pid, 'SIGCONT')
    }
    while (left().size > 0 && performance.now() < deadline) await sleep(20)
    process.exit(status)
  }
  for (const [signal, status] of Object.entries(STATUS_OF)) process.on(signal, () => void end(status))
  process.on('exit', () => {
    for (const pid of left()) send(pid, 'SIGKILL')
    // What was mounted in it by one that was killed may need a moment to go.
    for (const folder of folders) rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
  })
}

/** It may have ended just now. */
function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/** Ends well with code 0 or by a signal. */
export function finished(child: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (code, signal) => {
      if (code === 0 || signal !== null) resolve()
      else reject(new Error(`${child.spawnfile} ended with ${code}.`))
    })
  })
}

/** What a program prints; an error with what it said on stderr if it fails. */
export function outputOf(
  program: string,
  args: readonly string[],
  environment: NodeJS.ProcessEnv = process.env,
): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], env: environment })
    let [output, complaint] = ['', '']
    child.stdout.on('data', (text: Buffer) => {
      output += text.toString()
    })
    child.stderr.on('data', (text: Buffer) => {
      complaint += text.toString()
    })
    child.once('error', reject)
    child.once('close', code => {
      if (code === 0) resolve(output)
      else reject(new Error(`${program} ${args.join(' ')} ended with ${code}: ${complaint || output}`))
    })
  })
}

/** A TCP port of the loopback on which nobody listens. */
export async function freePort(): Promise<number> {
  const probe = createServer()
  await new Promise<void>(resolve => probe.listen(0, '127.0.0.1', resolve))
  const { port } = probe.address() as { port: number }
  await new Promise(resolve => probe.close(resolve))
  return port
}

/** Waits, 10 s at most, until somebody accepts there. */
export async function untilListening(where: NetConnectOpts): Promise<void> {
  for (let tries = 0; tries < 200; tries++) {
    const socket = connectSocket(where)
    const isOpen = await new Promise<boolean>(resolve => {
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    })
    socket.destroy()
    if (isOpen) return
    await sleep(50)
  }
  throw new Error(`Nothing listens on ${JSON.stringify(where)}.`)
}

/** A server that runs. */
export interface Running {
  readonly pid: number
  /** How it has ended by itself, with the last of what it said; undefined while it runs. */
  ending(): string | undefined
  stop(): Promise<void>
}

/**
 * Starts a server and waits until it listens. One that goes to the background leaves its process id in `pidFile`.
 * @throws if it fails before, with the last of what it said
 */
export async function startListening(
  argv: readonly string[],
  where: NetConnectOpts,
  pidFile?: string,
): Promise<Running> {
  const [program = '', ...args] = argv
  if (pidFile !== undefined) {
    await outputOf(program, args)
    await untilListening(where)
    const pid = Number(readFileSync(pidFile, 'latin1'))
    daemons.add(pid)
    const stop = async () => {
      await endProcess(pid)
      // Its number may be another program's next.
      daemons.delete(pid)
    }
    return { pid, stop, ending: () => (isRunning(pid) ? undefined : `${program} has ended`) }
  }
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let complaint = ''
  child.stderr.on('data', (text: Buffer) => {
    complaint = (complaint + text.toString()).slice(-2000)
  })
  let ending: string | undefined
  child.once('exit', (code, signal) => {
    ending = `${program} has ended with ${signal ?? code}: ${complaint}`
  })
  const ended = finished(child)
  const early = ended
    .catch(() => {})
    .then(() => Promise.reject(new Error(`${argv.join(' ')} ended at once: ${complaint}`)))
  await Promise.race([untilListening(where), early])
  early.catch(() => {})
  const pid = child.pid as number
  return { pid, stop: () => endProcess(pid), ending: () => ending }
}

/** Asks a process to end, and kills it when it has not after 10 s: its hanging must not hang the benchmark. */
async function endProcess(pid: number): Promise<void> {
  // One that has ended by itself has failed the row, and the error of that is the one to tell.
  if (statOf(pid) === undefined) return
  process.kill(pid, 'SIGTERM')
  for (let tries = 0; tries < 500; tries++) {
    if (!isRunning(pid)) return
    await sleep(20)
  }
  process.kill(pid, 'SIGKILL')
}

/** Fields of /proc/PID/stat from the third (state) on; undefined if the process has gone. */
function statOf(pid: number | string): string[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
    return text.slice(text.lastIndexOf(')') + 2).split(' ')
  } catch {
    return undefined
  }
}

function isRunning(pid: number): boolean {
  const state = statOf(pid)?.[0]
  return state !== undefined && state !== 'Z'
}

/** The processes and all their descendants. */
function withDescendants(pids: readonly number[]): number[] {
  const children = new Map<number, number[]>()
  for (const entry of readdirSync('/proc')) {
    const parent = /^\d+$/.test(entry) ? Number(statOf(entry)?.[1]) : Number.NaN
    if (parent > 0) children.set(parent, [...(children.get(parent) ?? []), Number(entry)])
  }
  const all = [...pids]
  for (const pid of all) all.push(...(children.get(pid) ?? []))
  return all
}

/** Microseconds of a clock tick (sysconf(_SC_CLK_TCK) is 100 on every Linux). */
const TICK_MICROS = 10_000
const [UTIME, CSTIME] = [11, 14]

/** CPU time that the processes, their threads and their children have used, also the ended ones. Microseconds. */
export function cpuMicros(pids: readonly number[]): number {
  let ticks = 0
  for (const pid of withDescendants(pids)) {
    for (const value of statOf(pid)?.slice(UTIME, CSTIME + 1) ?? []) ticks += Number(value)
  }
  return ticks * TICK_MICROS
}

/** Resident memory of the processes and their children, in bytes. */
export function residentBytes(pids: readonly number[]): number {
  let bytes = 0
  for (const pid of withDescendants(pids)) {
    const text = readFileSync(`/proc/${pid}/status`, 'latin1')
    bytes += Number(/^VmRSS:\s+(\d+) kB/m.exec(text)?.[1] ?? 0) * 1024
  }
  return bytes
}
