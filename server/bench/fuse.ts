/**
 * Measures a mounted disk beside qemu-storage-daemon's FUSE export and nbdfuse: of an image file, and of a disk over
 * NBD. All are mounted at once, on the same image, and take turns; medians count, and ours shall be at or ahead of
 * the better of the others in each row.
 *
 *     npm run bench:fuse [-- ROUNDS [ROW]]     ROW: only those whose group and name contain this
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, cpus } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fillDisk, warm } from './disks.ts'
import {
  endWithChildren,
  finished,
  freePort,
  outputOf,
  type Running,
  scratchFolder,
  startListening,
} from './process.ts'
import { spreadOf } from './report.ts'

const MIB = 2 ** 20
const SIZE = 256 * MIB
const SECONDS = 1.5

interface Load {
  readonly name: string
  readonly rw: string
  readonly bs: string
  readonly iodepth: number
}

const LOADS: readonly Load[] = [
  { name: '4k random read, QD 1', rw: 'randread', bs: '4k', iodepth: 1 },
  { name: '4k random read, QD 16', rw: 'randread', bs: '4k', iodepth: 16 },
  { name: '4k random write, QD 1', rw: 'randwrite', bs: '4k', iodepth: 1 },
  { name: '4k random write, QD 16', rw: 'randwrite', bs: '4k', iodepth: 16 },
  { name: '1M sequential read', rw: 'read', bs: '1m', iodepth: 1 },
  { name: '1M sequential write', rw: 'write', bs: '1m', iodepth: 1 },
]

const GROUPS = ['image', 'NBD over TCP'] as const

const loadsOf = (group: string, row: string) => LOADS.filter(({ name }) => `${group}, ${name}`.includes(row))

/** A mount by a process of its own. */
interface Mounted {
  readonly name: string
  readonly path: string
  readonly child: ChildProcess
}

const isMounted = (path: string): boolean =>
  readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .some(line => line.split(' ')[4] === path)

async function mountBy(
  name: string,
  folder: string,
  argv: (path: string) => readonly string[],
): Promise<Mounted> {
  const path = join(folder, name.replaceAll(/\W/g, '-'))
  writeFileSync(path, '')
  const [program = '', ...args] = argv(path)
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] })
  for (let tries = 0; !isMounted(path); tries++) {
    if (tries === 600 || child.exitCode !== null) {
      child.kill('SIGKILL')
      throw new Error(`${name} does not mount.`)
    }
    await sleep(50)
  }
  return { name, path, child }
}

async function unmount({ path, child }: Mounted): Promise<void> {
  const ended = finished(child).catch(() => undefined)
  if (child.exitCode === null) {
    await outputOf('umount', ['-l', path])
    child.kill('SIGTERM')
    const timer = setTimeout(() => child.kill('SIGKILL'), 10_000)
    await ended
    clearTimeout(timer)
  }
}

/** MiB a second. */
async function measure({ rw, bs, iodepth }: Load, path: string): Promise<number> {
  const text = await outputOf('fio', [
    ...['--name=job', `--filename=${path}`, `--rw=${rw}`, `--bs=${bs}`, `--iodepth=${iodepth}`],
    ...['--ioengine=libaio', '--direct=1', `--size=${SIZE}`, '--time_based', `--runtime=${SECONDS * 1000}ms`],
    '--output-format=json',
  ])
  const { jobs } = JSON.parse(text.slice(text.indexOf('{'))) as {
    jobs: { error: number; read: { bw_bytes: number }; write: { bw_bytes: number } }[]
  }
  const [job] = jobs
  if (job === undefined || job.error !== 0) throw new Error(`fio failed on ${path}: ${text}`)
  return (job.read.bw_bytes + job.write.bw_bytes) / MIB
}

const main = join(import.meta.dirname, '../main.ts')
const ours = (source: string) => (path: string) => [
  ...[process.execPath, main, 'fuse', source, path, '--writable', '--log-level', 'error'],
]
const qemu = (blockdev: string) => (path: string) => [
  ...['qemu-storage-daemon', '--blockdev', `${blockdev},node-name=disk`],
  ...['--export', `type=fuse,id=export,node-name=disk,mountpoint=${path},writable=on,allow-other=off`],
]

/** What is mounted for a group of rows; ours is the first. */
async function mountAll(
  group: string,
  image: string,
  port: number,
  folder: string,
  all: Mounted[],
): Promise<void> {
  const uri = `nbd://127.0.0.1:${port}/`
  if (group === 'image') {
    all.push(await mountBy('ondemand-disk', folder, ours(`${image}-1`)))
    all.push(
      await mountBy(
        'qemu-storage-daemon',
        folder,
        qemu(`driver=raw,file.driver=file,file.filename=${image}-2`),
      ),
    )
    const nbdkit = ['nbdkit', '--exit-with-parent', 'file', `${image}-3`]
    all.push(await mountBy('nbdfuse', folder, path => ['nbdfuse', path, '[', ...nbdkit, ']']))
    return
  }
  const server = `server.type=inet,server.host=127.0.0.1,server.port=${port}`
  all.push(await mountBy('ondemand-disk nbd', folder, ours(uri)))
  all.push(await mountBy('qemu-storage-daemon nbd', folder, qemu(`driver=nbd,${server}`)))
  all.push(await mountBy('nbdfuse nbd', folder, path => ['nbdfuse', path, uri]))
}

/** Runs the rows of a group. True: ours is at or ahead of the others in each. */
async function runGroup(group: string, rounds: number, row: string): Promise<boolean> {
  const loads = loadsOf(group, row)
  if (loads.length === 0) return true
  const folder = scratchFolder()
  const image = join(folder, 'image')
  const all: Mounted[] = []
  let server: Running | undefined
  let isKept = true
  try {
    for (const copy of group === 'image' ? [`${image}-1`, `${image}-2`, `${image}-3`] : [image]) {
      fillDisk(copy, SIZE)
      warm(copy)
    }
    const port = await freePort()
    if (group !== 'image') {
      const nbdkit = ['nbdkit', '-f', '-i', '127.0.0.1', '-p', `${port}`, 'file', image]
      server = await startListening(nbdkit, { port, host: '127.0.0.1' })
    }
    await mountAll(group, image, port, folder, all)
    process.stdout.write(
      `\n${`${group}, MiB/s`.padEnd(26)}${all.map(({ name }) => name.padStart(25)).join('')}\n`,
    )
    for (const load of loads) {
      const values = all.map((): number[] => [])
      for (let round = 0; round < rounds; round++) {
        for (const [index, { path }] of all.entries()) values[index]?.push(await measure(load, path))
      }
      const medians = values.map(list => spreadOf(list).median)
      const [mine = 0, ...others] = medians
      const ratio = mine / Math.max(...others)
      isKept &&= ratio >= 1
      const shown = medians.map(median => median.toFixed(1).padStart(25)).join('')
      process.stdout.write(
        `${load.name.padEnd(26)}${shown}   ${ratio.toFixed(2)}${ratio >= 1 ? '' : ' BEHIND'}\n`,
      )
    }
  } finally {
    for (const mounted of all) await unmount(mounted)
    await server?.stop()
    rmSync(folder, { recursive: true, force: true })
  }
  return isKept
}

async function run(rounds: number, row: string): Promise<boolean> {
  if (GROUPS.every(group => loadsOf(group, row).length === 0)) {
    throw new RangeError(`No row has ${row} in its group and name.`)
  }
  process.stdout.write(
    `fio with libaio and direct I/O on a mounted file, ${rounds} rounds in turn of ${SECONDS} s, medians, on ` +
      `${availableParallelism()} x ${cpus()[0]?.model ?? 'an unknown processor'}; the last column is ours ` +
      'beside the better of the others\n',
  )
  let isKept = true
  for (const group of GROUPS) isKept = (await runGroup(group, rounds, row)) && isKept
  return isKept
}

const rounds = Number(process.argv[2] ?? 5)
if (!Number.isInteger(rounds) || rounds < 1) throw new RangeError('Give the number of rounds, at least 1.')
endWithChildren()
process.exitCode = (await run(rounds, process.argv[3] ?? '')) ? 0 : 1
