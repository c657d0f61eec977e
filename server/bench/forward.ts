/**
 * Measures what forwarding costs: the same disk of one server, reached directly, through a second server that forwards
 * to it, and through nbdkit's nbd plug-in, in turn.
 *
 *     npm run bench:forward [-- ROUNDS]
 */
import { rmSync } from 'node:fs'
import { availableParallelism, cpus } from 'node:os'
import { join } from 'node:path'
import { fillDisk, warm } from './disks.ts'
import { type FioJob, fio } from './fio.ts'
import { endWithChildren, type Running, scratchFolder, startListening } from './process.ts'
import { spreadOf } from './report.ts'

/** Forwarded divided by direct: at most for latency, at least for throughput. */
const [LATENCY_GOAL, THROUGHPUT_GOAL] = [2, 0.6]
const SECONDS = 2
const MIB = 2 ** 20
const DISK_SIZE = 256 * MIB

const main = join(import.meta.dirname, '../main.ts')

/** A load, and which of its figures counts. */
interface Load {
  readonly name: string
  readonly job: FioJob
  readonly of: 'latency' | 'throughput'
}

const LOADS: readonly Load[] = [
  { name: 'latency of a 4k read', job: { rw: 'randread', bs: '4k', iodepth: 1 }, of: 'latency' },
  { name: 'latency of a 4k write', job: { rw: 'randwrite', bs: '4k', iodepth: 1 }, of: 'latency' },
  { name: 'throughput of 256k reads', job: { rw: 'read', bs: '256k', iodepth: 16 }, of: 'throughput' },
  { name: 'throughput of 256k writes', job: { rw: 'write', bs: '256k', iodepth: 16 }, of: 'throughput' },
]

/** Mean microseconds a request, one at a time, or MiB a second. */
async function measure({ job, of }: Load, uri: string): Promise<number> {
  const job256 = { ...job, more: [`--size=${DISK_SIZE}`] }
  const { rate, throughput } = await fio(job256, [uri], SECONDS)
  return of === 'latency' ? 1e6 / rate : throughput
}

const startServing = (socket: string, ...args: readonly string[]): Promise<Running> =>
  startListening([process.execPath, main, 'serve', '--unix', socket, '--log-level', 'error', ...args], {
    path: socket,
  })

/** What a path costs beside the direct one, for people. */
function told(load: Load, name: string, value: number, direct: number): string {
  const unit = load.of === 'latency' ? 'µs' : 'MiB/s'
  return `${name} ${value.toFixed(0).padStart(6)} ${unit}: x ${(value / direct).toFixed(2)}`
}

async function run(rounds: number): Promise<boolean> {
  const folder = scratchFolder()
  const disk = join(folder, 'disk')
  const [direct = '', forwarded = '', peer = ''] = ['direct', 'forwarded', 'nbdkit'].map(name =>
    join(folder, `${name}.sock`),
  )
  const servers: Running[] = []
  let isKept = true
  try {
    fillDisk(disk, DISK_SIZE)
    warm(disk)
    servers.push(await startServing(direct, '--dir', folder, '--no-create', '--connections-per-disk', '4'))
    servers.push(await startServing(forwarded, '--upstream', `nbd+unix:///?socket=${direct}`))
    const nbdkit = ['nbdkit', '-f', '-U', peer, 'nbd', `uri=nbd+unix:///disk?socket=${direct}`]
    servers.push(await startListening(nbdkit, { path: peer }))
    process.stdout.write(
      `Direct, forwarded, and forwarded by nbdkit, median of ${rounds} rounds of ${SECONDS} s in turn, unix sockets, fio, on ` +
        `${availableParallelism()} x ${cpus()[0]?.model ?? 'an unknown processor'}\n`,
    )
    for (const load of LOADS) {
      const values: [number[], number[], number[]] = [[], [], []]
      // The first round warms programs up and does not count.
      for (let round = 0; round <= rounds; round++) {
        for (const [index, socket] of [direct, forwarded, peer].entries()) {
          const value = await measure(load, `nbd+unix:///disk?socket=${socket}`)
          if (round > 0) values[index]?.push(value)
        }
      }
      const [one = Number.NaN, other = Number.NaN, byPeer = Number.NaN] = values.map(
        list => spreadOf(list).median,
      )
      const ratio = other / one
      const isLatency = load.of === 'latency'
      const reached = isLatency ? ratio < LATENCY_GOAL : ratio > THROUGHPUT_GOAL
      isKept &&= reached
      const goal = isLatency ? `below ${LATENCY_GOAL}` : `above ${THROUGHPUT_GOAL}`
      process.stdout.write(
        `${load.name.padEnd(26)} direct ${one.toFixed(0).padStart(6)} ${isLatency ? 'µs' : 'MiB/s'}, ` +
          `${told(load, 'forwarded', other, one)} (${goal} promised${reached ? '' : ': NOT KEPT'}), ` +
          `${told(load, 'by nbdkit', byPeer, one)}\n`,
      )
    }
  } finally {
    await Promise.all(servers.toReversed().map(server => server.stop()))
    rmSync(folder, { recursive: true, force: true })
  }
  return isKept
}

const rounds = Number(process.argv[2] ?? 5)
if (!Number.isInteger(rounds) || rounds < 1) throw new RangeError('Give the number of rounds, at least 1.')
endWithChildren()
process.exitCode = (await run(rounds)) ? 0 : 1
