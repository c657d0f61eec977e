/** The processes that serve devices, found among all processes of the machine by what the kernel says of them. */
import { access, readdir, readFile, readlink } from 'node:fs/promises'
import { join } from 'node:path'
import { codeOf } from '../linux/errno.ts'
import { AttachError, type AttachedDisk, type AttachTerms } from './attached-disk.ts'

/** The program that such a process runs. */
export const DAEMON_PROGRAM = join(import.meta.dirname, 'daemon.ts')
const PROGRAM_NAME = /\/server\/attach\/daemon\.[jt]s$/

/** Arguments of the program. */
export function daemonArguments(uri: string, terms: AttachTerms): string[] {
  const { readOnly, deadAfterMs, tag = '', openTimeoutMs } = terms
  const words = [uri, readOnly ? 'ro' : 'rw', deadAfterMs === undefined ? 'never' : `${deadAfterMs}`, tag]
  return openTimeoutMs === undefined ? words : [...words, `${openTimeoutMs}`]
}

/** Processes come and go. */
const orNothing = <Value>(promise: Promise<Value>, nothing: Value): Promise<Value> =>
  promise.catch(() => nothing)

/**
 * May the process be one of ours? Every user can have a process with such arguments and descriptors, and would choose by it
 * the device that root mounts as the disk. All four of its users count: a program that has the set-user-ID bit is started
 * by anybody with any arguments.
 */
async function isTrusted(pid: string): Promise<boolean> {
  const status = await orNothing(readFile(`/proc/${pid}/status`, 'utf8'), '')
  const users = /^Uid:\s+(.*)$/m.exec(status)?.[1]?.split(/\s+/) ?? []
  return users.length === 4 && (users.every(isRoot) || users.every(isOwn))
}

const isRoot = (user: string): boolean => user === '0'
const isOwn = (user: string): boolean => Number(user) === process.geteuid?.()

/** Root of a container is no more to be trusted than a plain user, and has processes of its own there. */
async function isOfOurContainer(pid: string): Promise<boolean> {
  const [its, ours] = await Promise.all(
    [pid, 'self'].map(whose => orNothing(readlink(`/proc/${whose}/ns/pid`), '')),
  )
  return its === ours
}

/** The descriptors of a process. @throws AttachError EACCES: it is another user's, and what it serves cannot be seen */
async function descriptorsOf(pid: string): Promise<string[]> {
  try {
    return await readdir(`/proc/${pid}/fd`)
  } catch (cause) {
    if (codeOf(cause) !== 'EACCES') return []
    const problem = `Cannot see which device process ${pid} serves. Run this as root.`
    throw new AttachError('EACCES', problem, { cause })
  }
}

/** The loop device that a process has open, or leads to, and that has a file behind it. @throws AttachError EACCES */
async function deviceOf(pid: string): Promise<string | undefined> {
  for (const descriptor of await descriptorsOf(pid)) {
    const path = await orNothing(readlink(`/proc/${pid}/fd/${descriptor}`), '')
    const number = /^\/dev\/loop(\d+)$/.exec(path)?.[1]
    if (number === undefined) continue
    const isUsed = access(`/sys/block/loop${number}/loop/backing_file`).then(() => true)
    if (await orNothing(isUsed, false)) return path
  }
  return undefined
}

/** The disks that are attached by FUSE. @throws AttachError EACCES */
export async function findDaemons(): Promise<AttachedDisk[]> {
  const found: AttachedDisk[] = []
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue
    const words = (await orNothing(readFile(`/proc/${pid}/cmdline`, 'utf8'), '')).split('\0')
    const at = words.findIndex(word => PROGRAM_NAME.test(word))
    const [uri, mode, , tag = ''] = words.slice(at + 1)
    if (at < 1 || uri === undefined || !(await isTrusted(pid))) continue
    const device = await deviceOf(pid)
    if (device !== undefined && (await isOfOurContainer(pid))) {
      const named = tag === '' ? {} : { tag }
      found.push({ device, via: 'fuse', uri, readOnly: mode === 'ro', pid: Number(pid), ...named })
    }
  }
  return found
}

/** Is the process still there, and no zombie? */
export async function isRunning(pid: number): Promise<boolean> {
  const status = await orNothing(readFile(`/proc/${pid}/stat`, 'utf8'), '')
  const state = status.slice(status.lastIndexOf(')') + 2, status.lastIndexOf(')') + 3)
  return status !== '' && state !== 'Z' && state !== 'X'
}
