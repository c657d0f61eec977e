/** One fio job on NBD disks by its own nbd engine, and what it says of it. */
import { type ChildProcess, spawn } from 'node:child_process'
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

/** Starts a job that goes on until it is killed. Its complaints are for whoever runs the bench. */
export function startFio(job: FioJob, uri: string): ChildProcess {
  return spawn('fio', argumentsOf(job, [uri], 3600), { stdio: ['ignore', 'ignore', 'inherit'] })
}
