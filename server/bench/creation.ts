/**
 * How long a client waits for the first byte of a disk that did not exist, beside what making it costs in any
 * case (`truncate` and `mkfs.ext4`) and beside `nbdkit ondemand`. All three take turns, so that they share the
 * machine's moods.
 *
 *     hack/bench creation [ROUNDS]     (or npm run bench:creation)
 */
import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { availableParallelism, cpus } from 'node:os'
import { join } from 'node:path'
import { connect } from '../client/client.ts'
import { endWithChildren, finished, freePort, scratchFolder, startListening } from './process.ts'

const SIZE = '1G'
/** What the product promises: so many ms over the cost of making the disk. */
const GOAL_MS = 20

/** A way to a new disk: makes the one of this number and returns ms. */
interface Candidate {
  readonly name: string
  readonly make: (round: number) => Promise<number>
  readonly stop: () => Promise<void>
}

async function timed(work: () => Promise<void>): Promise<number> {
  const startedAt = performance.now()
  await work()
  return performance.now() - startedAt
}

/** Connects, which makes the disk, and reads its superblock. */
async function firstByte(port: number, name: string): Promise<void> {
  const client = await connect(`nbd://127.0.0.1:${port}/${name}`)
  const block = Buffer.alloc(4096)
  await client.pread(block, 0, 4096, 0)
  if (block.readUInt16LE(1024 + 56) !== 0xef53) throw new Error('The new disk holds no ext4.')
  await client.close()
}

async function server(name: string, argv: (port: number) => readonly string[]): Promise<Candidate> {
  const port = await freePort()
  const running = await startListening(argv(port), { port, host: '127.0.0.1' })
  return { name, make: round => timed(() => firstByte(port, `disk${round}`)), stop: () => running.stop() }
}

const SCRIPT = 'truncate -s "$1" "$0" && mkfs.ext4 -q -F "$0"'

/** Starts all candidates, each on a directory of its own; those that run already are added even if a later one fails. */
async function startAll(folder: string, all: Candidate[]): Promise<void> {
  const directory = async (name: string) => mkdtemp(join(folder, `${name}-`))
  const [ours, theirs, bare] = [await directory('ours'), await directory('nbdkit'), await directory('bare')]
  const main = join(import.meta.dirname, '../main.ts')
  all.push({
    name: 'truncate + mkfs.ext4',
    make: round =>
      timed(() =>
        finished(spawn('/bin/sh', ['-c', SCRIPT, join(bare, `disk${round}`), SIZE], { stdio: 'ignore' })),
      ),
    stop: async () => undefined,
  })
  all.push(
    await server('ondemand-disk', port => [
      process.execPath,
      main,
      'serve',
      ...['--dir', ours, '--size', SIZE, '--listen', `127.0.0.1:${port}`],
    ]),
  )
  all.push(
    await server('nbdkit ondemand', port => [
      'nbdkit',
      ...['-f', '-i', '127.0.0.1', '-p', String(port), 'ondemand', `dir=${theirs}`, `size=${SIZE}`],
    ]),
  )
}

const median = (values: readonly number[]) =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN
const shown = (ms: number) => ms.toFixed(1).padStart(7)

async function run(rounds: number): Promise<boolean> {
  const folder = scratchFolder()
  const all: Candidate[] = []
  const times: number[][] = [[], [], []]
  try {
    await startAll(folder, all)
    // The first round warms programs and caches up and does not count.
    for (let round = 0; round <= rounds; round++) {
      for (const [index, candidate] of all.entries()) {
        const ms = await candidate.make(round)
        if (round > 0) times[index]?.push(ms)
      }
    }
  } finally {
    for (const candidate of all) await candidate.stop()
    await rm(folder, { recursive: true, force: true })
  }
  const [bare = Number.NaN, ours = Number.NaN] = times.map(median)
  const lines = all.map(({ name }, index) => {
    const values = times[index] ?? []
    return `${name.padEnd(22)} ${shown(median(values))} ${shown(Math.min(...values))} ${shown(Math.max(...values))}`
  })
  process.stdout.write(
    `Name to first byte of a new ${SIZE} ext4 disk, ms, ${rounds} rounds in turn on ` +
      `${availableParallelism()} x ${cpus()[0]?.model ?? 'an unknown processor'}\n` +
      `${''.padEnd(22)}  median     min     max\n${lines.join('\n')}\n` +
      `ondemand-disk takes ${(ours - bare).toFixed(1)} ms more than making the disk alone; at most ${GOAL_MS} are promised.\n`,
  )
  return ours - bare <= GOAL_MS
}

const rounds = Number(process.argv[2] ?? 20)
if (!Number.isInteger(rounds) || rounds < 1) throw new RangeError('Give the number of rounds, at least 1.')
endWithChildren()
process.exitCode = (await run(rounds)) ? 0 : 1
