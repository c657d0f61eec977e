/**
 * Sends hostile streams to a server and looks whether it stays well: it lives, an honest client beside them is
 * served, and when they have gone nothing is left open and memory has not grown.
 *
 *     node server/fuzz/fuzz.ts [SECONDS] [SEED]
 *
 * Each stream follows from the seed and its number, so that a failure can be repeated.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, readdir, readFile, readlink, rm } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { honestRound } from './honest-client.ts'
import { type Stream, streamOf } from './streams.ts'

const DISK_SIZE = 8 * 2 ** 20
/** Hostile clients at once. */
const CLIENTS = 16
/** How long a client that waits for the server to hang up stays, in ms. */
const PATIENCE_MS = 300
/** How long an honest client may take beside the hostile ones, in ms. */
const HONEST_LIMIT_MS = 10_000
/** How often the server's memory is looked at, in ms. */
const SAMPLE_MS = 500
/** Fewer samples than this say nothing about growth. */
const MIN_SAMPLES = 40
/** Growth from the second quarter of the samples to the last that is put down to chance, in bytes. */
const GROWTH = 48 * 2 ** 20

/** The first bytes of each kind of reply, from the protocol's text. */
const REPLY_MAGICS = {
  simple: Buffer.from('67446698', 'hex'),
  structured: Buffer.from('668e33ef', 'hex'),
  extended: Buffer.from('6e8a278c', 'hex'),
}

/** What a run found. */
export interface FuzzResult {
  readonly streams: number
  readonly honestRounds: number
  /** How many of the hostile clients got as far as a reply to a request, by the kind of reply. */
  readonly deep: Readonly<Record<keyof typeof REPLY_MAGICS, number>>
  /** Resident memory of the server in bytes: the medians of the second and of the last quarter of the time. */
  readonly memory: readonly [number, number]
}

interface Target {
  readonly process: ChildProcess
  readonly port: number
  readonly output: () => string
}

/** The server under attack, in a process of its own. */
async function startTarget(directory: string): Promise<Target> {
  const main = join(import.meta.dirname, '../main.ts')
  const options = {
    '--dir': directory,
    '--size': String(DISK_SIZE),
    '--command': 'truncate -s "$size" "$disk"',
    '--listen': '127.0.0.1:0',
    '--wait': '1',
    '--handshake-timeout': '1s',
  }
  const argv = Object.entries(options).map(([name, value]) => `${name}=${value}`)
  const child = spawn(process.execPath, [main, 'serve', ...argv], { stdio: ['ignore', 'ignore', 'pipe'] })
  const lines: string[] = []
  const port = await new Promise<number>((resolve, reject) => {
    createInterface({ input: child.stderr }).on('line', line => {
      lines.push(line)
      if (lines.length > 50) lines.shift()
      const listening = /"uri":"nbd:\/\/127\.0\.0\.1:(\d+)"/.exec(line)
      if (listening) resolve(Number(listening[1]))
    })
    child.once('exit', code => reject(new Error(`The server ended with ${code}:\n${lines.join('\n')}`)))
  })
  return { process: child, port, output: () => lines.join('\n') }
}

/** Plays one stream to its end, and tells the kind of reply that its requests got, if any. */
async function play(stream: Stream, port: number): Promise<keyof typeof REPLY_MAGICS | undefined> {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => undefined)
  const closed = new Promise<void>(resolve => socket.once('close', () => resolve()))
  let reply: keyof typeof REPLY_MAGICS | undefined
  if (stream.reads) {
    socket.on('data', (chunk: Buffer) => {
      for (const [kind, magic] of Object.entries(REPLY_MAGICS)) {
        if (reply === undefined && chunk.includes(magic)) reply = kind as keyof typeof REPLY_MAGICS
      }
    })
  }
  for (const piece of stream.pieces) {
    if (socket.destroyed) break
    if (!socket.write(piece)) await Promise.race([drained(socket), closed, sleep(PATIENCE_MS)])
  }
  if (stream.lingers > 0) await Promise.race([closed, sleep(stream.lingers)])
  if (stream.leaves === 'reset') socket.resetAndDestroy()
  else if (stream.leaves === 'end') socket.end()
  await Promise.race([closed, sleep(PATIENCE_MS)])
  socket.destroy()
  return reply
}

const drained = (socket: Socket) => new Promise<void>(resolve => socket.once('drain', () => resolve()))

async function memoryOf(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? Number.NaN) * 1024
}

/** Median of the given quarter, 0 to 3, of the samples. */
function quarter(samples: readonly number[], index: number): number {
  const part = samples.slice((samples.length * index) / 4, (samples.length * (index + 1)) / 4)
  return part.sort((a, b) => a - b)[part.length >> 1] ?? 0
}

/** The io_uring of reads that miss the page cache, and its eventfd: made for the first of them, and kept. */
const RING = 2

/** What each open descriptor stands for. */
async function descriptorsOf(pid: number): Promise<string[]> {
  const folder = `/proc/${pid}/fd`
  const targets = (await readdir(folder)).map(async fd => await readlink(join(folder, fd)).catch(() => ''))
  return (await Promise.all(targets)).sort()
}

const isAnonymous = (target: string) => target.startsWith('anon_inode:')

/** Waits until the server has as few descriptors open as before, which is when all clients are gone. */
async function settle(pid: number, before: readonly string[]): Promise<void> {
  const known = before.filter(isAnonymous).length
  let left = before
  for (let tries = 0; tries < 100; tries++) {
    left = await descriptorsOf(pid)
    const anonymous = left.filter(isAnonymous).length
    if (anonymous <= known + RING && left.length - anonymous <= before.length - known) return
    await sleep(100)
  }
  throw new Error(
    `The server had ${before.join(' ')} open before the clients came, and now ${left.join(' ')}.`,
  )
}

/**
 * Fuzzes for so many seconds.
 * @throws the first thing that is wrong, with the number of the stream that was played last
 */
export async function fuzz(seconds: number, seed: number): Promise<FuzzResult> {
  const directory = await mkdtemp(join(tmpdir(), 'ondemand-disk-fuzz-'))
  const target = await startTarget(directory)
  const pid = target.process.pid as number
  let streams = 0
  let honestRounds = 0
  const deep = { simple: 0, structured: 0, extended: 0 }
  const memory: number[] = []
  const isOver = (until: number) => performance.now() >= until || target.process.exitCode !== null
  const attack = async (until: number) => {
    while (!isOver(until)) {
      const number = streams++
      const reply = await play(streamOf(seed + number, DISK_SIZE), target.port)
      if (reply !== undefined) deep[reply]++
    }
  }
  const behave = async (until: number) => {
    while (!isOver(until)) {
      await honestRound(target.port, DISK_SIZE, seed + honestRounds, HONEST_LIMIT_MS)
      honestRounds++
      await sleep(20)
    }
  }
  const watch = async (until: number) => {
    while (!isOver(until)) {
      memory.push(await memoryOf(pid))
      await sleep(SAMPLE_MS)
    }
  }
  try {
    await honestRound(target.port, DISK_SIZE, seed, HONEST_LIMIT_MS)
    const before = await descriptorsOf(pid)
    const until = performance.now() + seconds * 1000
    await Promise.all([behave(until), watch(until), ...Array.from({ length: CLIENTS }, () => attack(until))])
    if (target.process.exitCode !== null) throw new Error('The server died.')
    await settle(pid, before)
    await honestRound(target.port, DISK_SIZE, seed, HONEST_LIMIT_MS)
    const [early, late] = [quarter(memory, 1), quarter(memory, 3)]
    if (memory.length >= MIN_SAMPLES && late > early + GROWTH) {
      throw new Error(`Memory grew from ${early} to ${late} bytes.`)
    }
    return { streams, honestRounds, deep, memory: [early, late] }
  } catch (error) {
    throw new Error(`Seed ${seed}, about stream ${streams}: ${String(error)}\n${target.output()}`, {
      cause: error,
    })
  } finally {
    target.process.kill('SIGKILL')
    await rm(directory, { recursive: true, force: true })
  }
}

if (import.meta.main) {
  const seconds = Number(process.argv[2] ?? 600)
  const seed = Number(process.argv[3] ?? Date.now() % 2 ** 31)
  process.stdout.write(`Fuzzing for ${seconds} s with seed ${seed}.\n`)
  const { streams, honestRounds, deep, memory } = await fuzz(seconds, seed)
  const mib = memory.map(bytes => `${Math.round(bytes / 2 ** 20)} MiB`).join(' to ')
  process.stdout.write(
    `${streams} hostile clients (answered: ${deep.simple} simple, ${deep.structured} structured, ${deep.extended} extended), ` +
      `${honestRounds} honest rounds, memory ${mib}: all well.\n`,
  )
}
