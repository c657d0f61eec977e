/** Finds out which process has a file locked, for the message that refuses somebody else. */
import { readdir, readFile, stat } from 'node:fs/promises'
import type { LockHolder } from './errors.ts'

/** How long to look, in ms: it is a courtesy. */
const BUDGET_MS = 100

interface Identity {
  readonly dev: bigint
  readonly ino: bigint
}

async function readOr(path: string, otherwise: string): Promise<string> {
  // Processes come and go, and those of other users are closed to us.
  return await readFile(path, 'utf8').catch(() => otherwise)
}

async function listOrNothing(path: string): Promise<readonly string[]> {
  return await readdir(path).catch(() => [])
}

async function holds(pid: string, descriptor: string, { dev, ino }: Identity): Promise<boolean> {
  const found = await stat(`/proc/${pid}/fd/${descriptor}`, { bigint: true }).catch(() => undefined)
  if (found?.ino !== ino || found.dev !== dev) return false
  return /^lock:/m.test(await readOr(`/proc/${pid}/fdinfo/${descriptor}`, ''))
}

async function describe(pid: number): Promise<LockHolder> {
  return { pid, program: (await readOr(`/proc/${pid}/comm`, 'unknown')).trimEnd() }
}

/**
 * The process, other than this one, that has a lock on the file; undefined if it is not found within a
 * tenth of a second or may not be seen. /proc/locks names the process of classic record locks only, so
 * for OFD locks the descriptors of all visible processes are looked through.
 */
export async function findLockHolder(file: Identity): Promise<LockHolder | undefined> {
  const locks = (await readOr('/proc/locks', ''))
    .split('\n')
    .filter(line => line.includes(`:${file.ino} `) && !line.includes('->'))
  const classic = locks
    .map(line => Number(/POSIX\s+\S+\s+\S+\s+(\d+)/.exec(line)?.[1] ?? 0))
    .find(pid => pid > 0)
  if (classic !== undefined) return await describe(classic)
  if (locks.length === 0) return undefined

  const deadline = performance.now() + BUDGET_MS
  for (const pid of await listOrNothing('/proc')) {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) continue
    for (const descriptor of await listOrNothing(`/proc/${pid}/fd`)) {
      if (performance.now() > deadline) return undefined
      if (await holds(pid, descriptor, file)) return await describe(Number(pid))
    }
  }
  return undefined
}
