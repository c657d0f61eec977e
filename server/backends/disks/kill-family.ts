/**
 * Ends a program with everything that it started. Its process group alone is not that: `timeout` begins one of its own,
 * `setsid` a session, and a shell with job control does so for each command.
 */
import { readdir, readFile } from 'node:fs/promises'

interface Process {
  readonly pid: number
  readonly parent: number
  readonly session: number
}

/** How many processes are looked at at once: the threads that this takes are those that read disks. */
const AT_ONCE = 8
/** A program that starts others faster than they can be stopped is not waited for. */
const MAX_ROUNDS = 10

function send(target: number, signal: 'SIGSTOP' | 'SIGKILL'): void {
  try {
    process.kill(target, signal)
  } catch {
    // ESRCH: all are gone. EPERM: they run as another user (sudo) and cannot be killed.
  }
}

async function look(pid: number): Promise<Process | undefined> {
  // Processes come and go meanwhile.
  const text = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => undefined)
  // The name before it may hold parentheses and spaces.
  const [, parent, , session] = text?.slice(text.lastIndexOf(')') + 2).split(' ') ?? []
  return parent === undefined ? undefined : { pid, parent: Number(parent), session: Number(session) }
}

async function listProcesses(): Promise<readonly Process[]> {
  const pids = (await readdir('/proc').catch(() => [])).map(Number).filter(Number.isInteger)
  const found: Process[] = []
  for (let first = 0; first < pids.length; first += AT_ONCE) {
    const looks = await Promise.all(pids.slice(first, first + AT_ONCE).map(look))
    found.push(...looks.filter(process => process !== undefined))
  }
  return found
}

/** All that stem from the leader, and those of its session whose parents have ended; not the leader itself. */
function familyOf(leader: number, processes: readonly Process[]): Set<number> {
  const family = new Set<number>([leader])
  for (let before = 0; before < family.size; ) {
    before = family.size
    for (const { pid, parent, session } of processes) {
      if (session === leader || family.has(parent)) family.add(pid)
    }
  }
  family.delete(leader)
  return family
}

/**
 * Kills the leader of a session with all that it has started. They are stopped first: one that runs could start another
 * while they are looked for, and one that is killed leaves children of whom nothing tells where they come from. What
 * was started as a daemon, in a session of its own and by a parent that has ended, is not found.
 */
export async function killFamily(leader: number): Promise<void> {
  send(-leader, 'SIGSTOP')
  let family = new Set<number>()
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const found = familyOf(leader, await listProcesses())
    const others = [...found].filter(pid => !family.has(pid))
    family = found
    if (others.length === 0) break
    for (const pid of others) send(pid, 'SIGSTOP')
  }
  send(-leader, 'SIGKILL')
  for (const pid of family) send(pid, 'SIGKILL')
}
