/** Attaches by FUSE and a loop device: starts the process that serves the device, and ends it. */
import { spawn } from 'node:child_process'
import { constants } from 'node:fs'
import { access, type FileHandle, open } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { codeOf } from '../linux/errno.ts'
import { startFailure } from '../linux/start-failure.ts'
import { AttachError, type AttachedDisk, type AttachTerms } from './attached-disk.ts'
import { DAEMON_PROGRAM, daemonArguments, isRunning } from './processes.ts'

/** What the process says of itself. */
type Report =
  | { readonly device: string; readonly cutOff: number }
  | { readonly code: string; readonly message: string }

/**
 * Starts the process and waits until the device is there; the process ends if this one does before that. `lock` stays held
 * until then.
 * @throws AttachError
 */
export async function attachByFuse(uri: string, terms: AttachTerms, lock: FileHandle): Promise<AttachedDisk> {
  const args = daemonArguments(uri, terms)
  const { launch = (program, rest) => [process.execPath, program, ...rest] } = terms
  const [command, ...rest] = launch(DAEMON_PROGRAM, args)
  const child = spawn(command, rest, {
    detached: true,
    stdio: ['ignore', 'ignore', 'ignore', 'pipe', lock.fd],
    cwd: '/',
    env: { PATH: process.env.PATH ?? '', UV_THREADPOOL_SIZE: '8' },
  })
  if (child.pid === undefined) throw await startFailure(child)
  const report = child.stdio[3] as NodeJS.ReadableStream
  let text = ''
  report.setEncoding('utf8')
  const said = new Promise<void>(resolve => {
    report.on('data', (chunk: string) => {
      text = (text + chunk).slice(0, 10_000)
    })
    report.once('end', resolve)
  })
  await said
  child.unref()
  const answer = parseReport(text)
  if ('code' in answer) throw new AttachError(answer.code, answer.message)
  await access(answer.device)
  const { readOnly, tag } = terms
  const named = tag === undefined ? {} : { tag }
  return { ...answer, via: 'fuse', uri, readOnly, pid: child.pid ?? -1, ...named }
}

function parseReport(text: string): Report {
  if (text === '')
    return { code: 'EIO', message: 'The process that was to serve the disk ended without a word.' }
  return JSON.parse(text) as Report
}

const POLL_MS = 20
/** How long somebody who has the device open for a moment is waited for, in ms. */
const PATIENCE_MS = 10_000

/** Does somebody have the device for himself: a mounted file system, swap, a mapping? */
export async function isClaimed(device: string): Promise<boolean> {
  try {
    await (await open(device, constants.O_RDONLY | constants.O_EXCL)).close()
    return false
  } catch (error) {
    if (codeOf(error) === 'EBUSY') return true
    throw error
  }
}

/** Asks the process to look whether the export has grown. */
export function renewByFuse({ pid = -1 }: AttachedDisk): void {
  process.kill(pid, 'SIGUSR2')
}

/**
 * Asks the process to let go of the device, and waits until both are gone; `lazy`: does not wait.
 * @throws AttachError EBUSY
 */
export async function detachByFuse({ device, pid = -1 }: AttachedDisk, lazy: boolean): Promise<void> {
  try {
    process.kill(pid, 'SIGTERM')
  } catch (error) {
    if (codeOf(error) === 'ESRCH') return
    throw new AttachError(codeOf(error) ?? 'EIO', `Cannot reach process ${pid}, which serves ${device}.`, {
      cause: error,
    })
  }
  if (lazy) return
  const deadline = performance.now() + PATIENCE_MS
  while (await isRunning(pid)) {
    if (performance.now() > deadline) {
      throw new AttachError('EBUSY', `${device} is still open. It goes when its last user closes it.`)
    }
    await sleep(POLL_MS)
  }
}
