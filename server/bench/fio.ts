/** One fio job on NBD disks by its own nbd engine, and what it says of it. */
import { spawn } from 'node:child_process'
import { outputOf } from './process.ts'

/** A job; runs on each of its disks by a connection of its own. */
export interface FioJob {
  readonly rw: 'randread' | 'randwrite' | 'randrw' | 'read' | 'write'
  /** Bytes a request: `4k`. */
  readonly bs: string
  readonly iodepth: number
  /** More options: `--fsync=8`. */
  readonly more?: readonly string[]
}

/** What was measured. */
export interface FioResult {
  /** Requests a second, reads and writes together. */
  readonly rate: number
  /** Requests in all. */
  readonly requests: number
  /** MiB a second. */
  readonly throughput: number
  /** 99th percentile of the time from submission to completion, in microseconds; of reads. */
  readonly p99: number
  /** Share of one core that the client used, per cent: from 90 on it is the client that is measured. */
  readonly clientBusy: number
}

interface Direction {
  readonly total_ios: number
  readonly iops: number
  readonly bw_bytes: number
  readonly clat_ns?: { readonly percentile?: Readonly<Record<string, number>> }
}

interface Output {
  readonly jobs: readonly {
    readonly error: number
    readonly read: Direction
    readonly write: Direction
    readonly sync: { readonly total_ios: number }
    readonly usr_cpu: number
    readonly sys_cpu: number
  }[]
}

/** How fio reaches a disk: its engine, and the option that names the disk. */
const NBD = { name: 'nbd', target: 'uri' }

function argumentsOf(job: FioJob, targets: readonly string[], seconds: number, engine = NBD): string[] {
  return [
    ...[
      `--ioengine=${engine.name}`,
      '--time_based',
      `--runtime=${Math.round(seconds * 1000)}ms`,
      '--thread',
      // The page cache is as the row says.
      '--invalidate=0',
      '--group_reporting',
    ],
    ...[`--rw=${job.rw}`, `--bs=${job.bs}`, `--iodepth=${job.iodepth}`, ...(job.more ?? [])],
    ...targets.flatMap((target, index) => [`--name=job${index}`, `--${engine.target}=${target}`]),
  ]
}

/** Runs a job on NBD disks for so many seconds. */
export function fio(job: FioJob, uris: readonly string[], seconds: number): Promise<FioResult> {
  return resultOf(argumentsOf(job, uris, seconds))
}

/** Runs the job on a file, without a server: one request at a time by pread and pwrite, more by io_uring. */
export function fioOnFile(job: FioJob, path: string, seconds: number): Promise<FioResult> {
  return resultOf(
    argumentsOf(job, [path], seconds, { name: job.iodepth > 1 ? 'io_uring' : 'psync', target: 'filename' }),
  )
}

async function resultOf(args: readonly string[]): Promise<FioResult> {
  const text = await outputOf('fio', ['--output-format=json', ...args])
  // Warnings may stand in front of it.
  const { jobs } = JSON.parse(text.slice(text.indexOf('{'))) as Output
  const [group] = jobs
  if (group === undefined || group.error !== 0) throw new Error(`fio failed: ${text}`)
  const { read, write, sync } = group
  const requests = read.total_ios + write.total_ios + sync.total_ios
  if (requests === 0) throw new Error(`fio had no request answered: ${text}`)
  return {
    rate: read.iops + write.iops,
    requests,
    throughput: (read.bw_bytes + write.bw_bytes) / 2 ** 20,
    p99: (read.clat_ns?.percentile?.['99.000000'] ?? Number.NaN) / 1000,
    clientBusy: group.usr_cpu + group.sys_cpu,
  }
}

/** fio's status when it has ended in order because it was asked to. */
const INTERRUPTED = 128
/** How long it has for that, in ms, before it is killed. */
const PATIENCE_MS = 5000

/** A job that goes on until it is told to end. */
export interface EndlessFio {
  /** Fails as soon as it ends by itself, with what it complained of. */
  readonly failed: Promise<never>
  /** Ends it in order: nbdkit 1.32 fails an assertion (raw_send_socket) where a client vanishes with requests under way. */
  end(): Promise<void>
}

/** Starts a job on one disk, and waits until it is connected. */
export async function startFio(job: FioJob, uri: string): Promise<EndlessFio> {
  const child = spawn('fio', argumentsOf(job, [uri], 3600), { stdio: ['ignore', 'pipe', 'pipe'] })
  let complaint = ''
  child.stderr.on('data', (text: Buffer) => {
    complaint = (complaint + text.toString()).slice(-2000)
  })
  const ended = new Promise<number | NodeJS.Signals | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) => resolve(code ?? signal))
  })
  const problem = (how: number | NodeJS.Signals | null) =>
    new Error(`The other client has ended with ${how}: ${complaint}`)
  const failed = ended.then(how => Promise.reject(problem(how)))
  failed.catch(() => {})
  const connected = new Promise<void>(resolve => {
    let said = ''
    child.stdout.on('data', (text: Buffer) => {
      said = (said + text.toString()).slice(-2000)
      if (said.includes('connected to NBD server')) resolve()
    })
  })
  const end = async () => {
    child.kill('SIGINT')
    const timer = setTimeout(() => child.kill('SIGKILL'), PATIENCE_MS)
    const how = await ended
    clearTimeout(timer)
    if (how !== INTERRUPTED) throw problem(how)
  }
  await Promise.race([connected, failed])
  return { failed, end }
}
