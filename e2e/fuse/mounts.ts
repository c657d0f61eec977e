/** Files mounted by FUSE, ours and QEMU's, for tests: disposable, so that a test that fails leaves none behind. */
import { type ChildProcess, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { TestContext } from 'vitest'
import { check, checkout, run } from '../harness.ts'
import { until } from '../until.ts'

/** For one thing to happen, on a machine that has much else to do, in ms. */
export const PATIENCE = 30_000

/** Skips the test unless this user can mount FUSE file systems and loop devices. */
export function needRoot(context: TestContext): void {
  context.skip(process.getuid?.() !== 0, 'only root can mount')
}

/** A mount of a process of its own. Disposing of it kills that, and removes what it left. */
export interface Mounted extends AsyncDisposable {
  readonly path: string
  readonly child: ChildProcess
  /** All that it wrote so far. */
  log(): string
  /** Resolves with the exit status, or the signal. */
  readonly ended: Promise<number | string>
  /** Ends it by SIGTERM and returns its exit status. */
  stop(): Promise<number | string>
}

/** The line of /proc/self/mountinfo, or undefined. */
export async function mountAt(path: string): Promise<string | undefined> {
  const shown = path.replace(/[ \t\n\\]/g, sign => `\\${sign.charCodeAt(0).toString(8).padStart(3, '0')}`)
  const lines = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n')
  return lines.findLast(line => line.split(' ')[4] === shown)
}

async function mounted(
  program: string,
  args: readonly string[],
  path: string,
  isReady: (log: string) => boolean,
  cwd?: string,
): Promise<Mounted> {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], ...(cwd !== undefined && { cwd }) })
  let text = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      text = (text + chunk).slice(-100_000)
    })
  }
  const ended = new Promise<number | string>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (status, signal) => resolve(status ?? signal ?? -1))
  })
  const dispose = async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL')
    await ended
    // A guard may be at it too.
    while ((await mountAt(path)) !== undefined) await run('umount', ['-l', path])
  }
  try {
    await until(`${program} mounts ${path}`, PATIENCE, async () => {
      if (child.exitCode !== null) throw new Error(`${program} ended with ${child.exitCode}:\n${text}`)
      return isReady(text) && (await mountAt(path)) !== undefined
    })
  } catch (error) {
    await dispose()
    throw error
  }
  return {
    path,
    child,
    ended,
    log: () => text,
    async stop() {
      child.kill('SIGTERM')
      const timer = setTimeout(() => child.kill('SIGKILL'), 15_000)
      try {
        return await ended
      } finally {
        clearTimeout(timer)
      }
    },
    [Symbol.asyncDispose]: dispose,
  }
}

/** `ondemand-disk fuse SOURCE` over a new file in `folder`; run in `cwd`, where it is named by its last part. */
export async function fuse(
  source: string,
  folder: string,
  options: readonly string[] = [],
  name = 'ours',
  cwd?: string,
): Promise<Mounted> {
  const path = join(folder, name)
  // A dead mount is there, too.
  if ((await mountAt(path)) === undefined) await writeFile(path, '', { flag: 'a' })
  const args = ['fuse', source, cwd === undefined ? path : name, ...options]
  const isReady = (log: string) => log.includes('"Mounted"')
  return await mounted(join(checkout, 'hack/ondemand-disk'), args, path, isReady, cwd)
}

/** `qemu-storage-daemon --export fuse` of an image over a new file in `folder`. */
export async function qemuFuse(
  image: string,
  folder: string,
  options: readonly string[] = [],
): Promise<Mounted> {
  const path = join(folder, 'qemu')
  await writeFile(path, '')
  const block = `driver=raw,file.driver=file,file.filename=${image},node-name=disk,discard=unmap,file.discard=unmap`
  const what = ['type=fuse', 'id=export', 'node-name=disk', `mountpoint=${path}`, ...options].join(',')
  return await mounted('qemu-storage-daemon', ['--blockdev', block, '--export', what], path, () => true)
}

/** A loop device over a file. Disposing of it detaches it. */
export interface Loop extends AsyncDisposable {
  readonly device: string
}

export async function loop(path: string, options: readonly string[] = ['--direct-io=on']): Promise<Loop> {
  const device = (await check('losetup', ['--find', '--show', ...options, path])).trim()
  return {
    device,
    async [Symbol.asyncDispose]() {
      await run('umount', [device])
      await run('losetup', ['-d', device])
    },
  }
}

/** Mounts a device on a folder. Disposing of it unmounts it. */
export async function mountDevice(
  device: string,
  folder: string,
  options: readonly string[] = [],
): Promise<AsyncDisposable> {
  await check('mount', [...options, device, folder])
  return {
    async [Symbol.asyncDispose]() {
      if ((await mountAt(folder)) !== undefined) await check('umount', [folder])
    },
  }
}

/** SHA-256 of a file's bytes, read in a process of its own: this one must not touch a mount that may hang. */
export async function sumOf(path: string): Promise<string> {
  return (await check('sha256sum', [path])).split(' ')[0] ?? ''
}

/** SHA-256 of bytes. */
export const sum = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

/** Arguments of fio: writes a file `verify.0.0` of this size at random, in blocks of `range`, and reads what it wrote. */
export const verifyJob = (folder: string, size: string, range: string, seed: number): readonly string[] => [
  ...['--name=verify', `--directory=${folder}`, `--size=${size}`, `--bsrange=${range}`, '--rw=randwrite'],
  ...['--direct=1', '--ioengine=libaio', '--iodepth=16', `--randseed=${seed}`],
  ...['--verify=crc32c', '--verify_fatal=1', '--verify_state_save=0', '--do_verify=1'],
]
