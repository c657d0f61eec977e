/** Who had the processors, told from /proc. */
import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { report } from './report.ts'

/** Kernel ticks in a second, on every Linux that Node runs on. */
const TICKS = 100

/** Seconds of processor time that a process and its threads have had. */
function secondsOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  // What follows the program's name, which may hold blanks and brackets.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / TICKS
}

/**
 * Starts to count. The function that it returns tells how much processor time each process has had since then for one of
 * so many pieces of work, which does not depend on who else is at work on this machine.
 */
export function countProcessor(pids: Readonly<Record<string, number>>): (pieces: number) => void {
  const startedAt = performance.now()
  const before = Object.entries(pids).map(([name, pid]) => [name, pid, secondsOf(pid)] as const)
  return pieces => {
    const seconds = (performance.now() - startedAt) / 1000
    let sum = 0
    for (const [name, pid, had] of before) {
      const used = secondsOf(pid) - had
      sum += used
      report(`  processor time of ${name}, for each`, (used / pieces) * 1000, 'ms')
    }
    const share = (sum / (seconds * availableParallelism())) * 100
    report('  all of that, as a part of what this machine has', share, '%')
  }
}
