/** The rows of the table. */
import { join } from 'node:path'
import { drop, fillDisk, needSparseDisks, warm } from './disks.ts'
import { type FioJob, fio, startFio } from './fio.ts'
import { comeAndGo, leaveDisk, openDisk } from './handshakes.ts'
import { cpuMicros, outputOf, residentBytes } from './process.ts'
import type { Measurement, Place, Row } from './row.ts'
import type { Server, ServerName, Transport } from './servers.ts'

const [MIB, GIB] = [2 ** 20, 2 ** 30]
const ALL: readonly ServerName[] = ['ondemand-disk', 'nbdkit file', 'qemu-nbd', 'nbd-server']
const BESIDE_ONDEMAND: readonly ServerName[] = ['ondemand-disk', 'nbdkit ondemand']

/** A file and how it is found in the page cache when a measurement begins: all of it and clean, or not at all. */
type Cache = 'cached' | 'dropped'

function prepare(cache: Cache, disks: readonly string[], { directory }: Place): void {
  for (const disk of disks) {
    if (cache === 'cached') warm(join(directory, disk))
    else drop(join(directory, disk))
  }
}

interface FioRow {
  readonly name: string
  readonly job: FioJob
  readonly goal: number
  readonly cpuGoal?: number
  readonly transport?: Transport
  readonly cache?: Cache
  readonly disks?: Readonly<Record<string, number>>
  readonly unit?: 'IOPS' | 'MiB/s'
}

/** A row that one fio job fills in. */
function fioRow(row: FioRow): Row {
  const { job, cache = 'cached', transport = 'tcp', disks = { disk: GIB }, unit = 'IOPS', cpuGoal } = row
  const names = Object.keys(disks)
  const connections = names.length > 1 ? `, ${names.length} disks` : ''
  const more = job.more === undefined ? '' : `, ${job.more.join(' ')}`
  return {
    name: row.name,
    how: `fio ${job.rw} ${job.bs} QD ${job.iodepth}${more}${connections}, ${transport}, ${cache}`,
    unit,
    better: 'more',
    goal: row.goal,
    ...(cpuGoal !== undefined && { cpuGoal }),
    servers: ALL,
    transport,
    disks,
    async measure(server, place) {
      prepare(cache, names, place)
      const before = cpuMicros(server.pids)
      const uris = names.map(name => server.uri(name))
      const { rate, throughput, requests, clientBusy } = await fio(job, uris, place.seconds)
      const cpu = (cpuMicros(server.pids) - before) / requests
      return { value: unit === 'IOPS' ? rate : throughput, cpu, clientBusy }
    },
  }
}

const small = (rw: FioJob['rw'], iodepth: number): FioJob => ({ rw, bs: '4k', iodepth })

const MIXED = Object.fromEntries(Array.from({ length: 8 }, (_, index) => [`mixed${index}`, 128 * MIB]))

const FIO_ROWS: readonly FioRow[] = [
  ...(['tcp', 'unix'] as const).flatMap(transport =>
    (['randread', 'randwrite'] as const).map(rw => ({
      name: `${rw}-4k-qd1-${transport}`,
      job: small(rw, 1),
      goal: 1,
      transport,
    })),
  ),
  ...[16, 64].map(depth => ({
    name: `randread-4k-qd${depth}`,
    job: small('randread', depth),
    goal: 1.3,
    cpuGoal: 0.7,
  })),
  ...[16, 64].map(depth => ({
    name: `randwrite-4k-qd${depth}`,
    job: small('randwrite', depth),
    goal: 1.1,
    cpuGoal: 0.7,
  })),
  {
    name: 'mixed-4k-8x-qd16',
    job: { rw: 'randrw', bs: '4k', iodepth: 16, more: ['--rwmixread=70'] },
    goal: 1.3,
    disks: MIXED,
  },
  ...(['read', 'write'] as const).map(rw => ({
    name: `${rw}-256k-qd8`,
    job: { rw, bs: '256k', iodepth: 8 },
    goal: 1.1,
    unit: 'MiB/s' as const,
  })),
  ...[1, 16, 64].map(depth => ({
    name: `cold-randread-4k-qd${depth}`,
    job: small('randread', depth),
    goal: 1,
    cache: 'dropped' as const,
  })),
  {
    name: 'write-flush8-4k-qd16',
    job: { rw: 'randwrite', bs: '4k', iodepth: 16, more: ['--fsync=8'] },
    goal: 1,
  },
]

interface CopyRow {
  readonly name: string
  readonly direction: 'from' | 'to'
  readonly transport: Transport
  readonly goal: number
  readonly servers: readonly ServerName[]
  readonly disk: string
  readonly size: number
  readonly more: readonly string[]
  readonly requestBytes: number
}

/** A row that nbdcopy fills in: a whole disk, to nowhere or out of a cached file. */
function copyRow(row: CopyRow): Row {
  const { direction, transport, disk, size, more } = row
  return {
    name: row.name,
    how: `nbdcopy ${more.join(' ')}${more.length > 0 ? ' ' : ''}${direction} the disk, ${transport}, cached`,
    unit: 'MiB/s',
    better: 'more',
    goal: row.goal,
    servers: row.servers,
    transport,
    disks: direction === 'from' ? { [disk]: size } : { [disk]: size, [`${disk}-source`]: size },
    async measure(server, place) {
      prepare('cached', [disk], place)
      const source = join(place.directory, `${disk}-source`)
      if (direction === 'to') warm(source)
      const uri = server.uri(disk)
      const before = cpuMicros(server.pids)
      const startedAt = performance.now()
      await outputOf('nbdcopy', [...more, ...(direction === 'from' ? [uri, 'null:'] : [source, uri])])
      const seconds = (performance.now() - startedAt) / 1000
      const cpu = (cpuMicros(server.pids) - before) / (size / row.requestBytes)
      return { value: size / MIB / seconds, cpu }
    },
  }
}

const BESIDE_TLS: readonly ServerName[] = ['ondemand-disk', 'nbdkit file']

const COPY_ROWS: readonly CopyRow[] = (['from', 'to'] as const).flatMap(direction => {
  const large = { direction, disk: 'disk', size: GIB, requestBytes: 256 * 1024, more: [] }
  const tls = { direction, transport: 'tls', servers: BESIDE_TLS, goal: 1 } as const
  const pages = { disk: 'small', size: 128 * MIB, requestBytes: 4096 }
  return [
    { ...large, name: `nbdcopy-${direction}`, transport: 'tcp', servers: ALL, goal: 1.1 },
    { ...large, ...tls, name: `tls-256k-${direction}` },
    ...[16, 64].map(depth => ({
      ...pages,
      ...tls,
      name: `tls-4k-qd${depth}-${direction}`,
      more: ['--request-size=4096', `--requests=${depth}`, '--connections=1'],
    })),
  ]
})

/** WRITE_ZEROES or TRIM of a whole disk that is full, in the page cache and written back. */
function zeroRow(name: string, command: string): Row {
  return {
    name,
    how: `qemu-io -c '${command}' on a full disk, tcp, cached`,
    unit: 'GiB/s',
    better: 'more',
    goal: 10,
    servers: BESIDE_ONDEMAND,
    transport: 'tcp',
    disks: { zeroed: GIB },
    async measure(server, { directory }) {
      fillDisk(join(directory, 'zeroed'), GIB)
      const text = await outputOf('qemu-io', ['-f', 'raw', server.uri('zeroed'), '-c', command])
      // "1 GiB, 1 ops; 00.02 sec (40.123 GiB/sec and 40.1 ops/sec)"
      const [, amount, unit] = /\(([\d.]+) (\w+)\/sec/.exec(text) ?? []
      if (amount === undefined) throw new Error(`qemu-io said: ${text}`)
      const factor = { GiB: 1, MiB: 1 / 1024, TiB: 1024 }[unit ?? '']
      return { value: Number(amount) * (factor ?? Number.NaN) }
    },
  }
}

const VISITORS = 8

const connectionsRow: Row = {
  name: 'connections',
  how: `handshake, GO, disconnect of an existing disk, ${VISITORS} at a time, own client, tcp`,
  unit: 'a second',
  better: 'more',
  goal: 2,
  servers: ALL,
  transport: 'tcp',
  disks: { disk: GIB },
  async measure(server, { seconds }) {
    const before = cpuMicros(server.pids)
    const own = process.cpuUsage()
    const visits = await comeAndGo(server.port, 'disk', seconds, VISITORS)
    const used = process.cpuUsage(own)
    // A server that forks learns of its children's time when they have ended.
    const cpu = (cpuMicros(server.pids) - before) / visits.count
    const clientBusy = (used.user + used.system) / 1e4 / visits.seconds
    return { value: visits.count / visits.seconds, cpu, clientBusy }
  },
}

const IDLE = 2000
const idleName = (index: number) => `idle${index}`

const memoryRow: Row = {
  name: 'memory-2000-idle',
  how: `resident memory with ${IDLE} idle connections to ${IDLE} disks, own client, tcp`,
  unit: 'MiB',
  better: 'less',
  goal: 0.2,
  servers: BESIDE_ONDEMAND,
  transport: 'tcp',
  subdirectory: 'idle',
  disks: Object.fromEntries(Array.from({ length: IDLE }, (_, index) => [idleName(index), 0])),
  async measure(server, { directory }) {
    needSparseDisks(directory, IDLE, idleName)
    const sockets = []
    for (let index = 0; index < IDLE; index++) sockets.push(await openDisk(server.port, idleName(index)))
    const value = residentBytes(server.pids) / MIB
    await Promise.all(sockets.map(leaveDisk))
    return { value }
  },
}

/** A reader of a cached disk, one request at a time, while another client does something bad to another disk. */
function disturbedRow(name: string, what: string, disturbance: FioJob, cache: Cache): Row {
  return {
    name,
    how: `fio randread 4k QD 1 while another client ${what}, tcp, cached; 99th percentile`,
    unit: 'us',
    better: 'less',
    goal: 1,
    servers: ALL,
    transport: 'tcp',
    disks: { disk: GIB, other: GIB },
    async measure(server: Server, place: Place): Promise<Measurement> {
      prepare('cached', ['disk'], place)
      prepare(cache, ['other'], place)
      const other = await startFio(disturbance, server.uri('other'))
      try {
        const reader = fio(small('randread', 1), [server.uri('disk')], place.seconds)
        const { p99, rate } = await Promise.race([reader, other.failed])
        if (!(rate > 0)) throw new Error('The reader was not served.')
        return { value: p99 }
      } finally {
        await other.end()
      }
    },
  }
}

export const ROWS: readonly Row[] = [
  ...FIO_ROWS.map(fioRow),
  ...COPY_ROWS.map(copyRow),
  zeroRow('write-zeroes-1g', 'write -z 0 1G'),
  zeroRow('trim-1g', 'discard 0 1G'),
  connectionsRow,
  memoryRow,
  disturbedRow('p99-beside-cold-reads', 'reads cold at QD 64', small('randread', 64), 'dropped'),
  disturbedRow(
    'p99-beside-flushes',
    'writes and flushes in a loop',
    { rw: 'randwrite', bs: '4k', iodepth: 1, more: ['--fsync=1'] },
    'cached',
  ),
]
