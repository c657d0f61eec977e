/** Runs the program that fills a disk, and ends it with all its children when it takes too long. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { startFailure } from '../../linux/start-failure.ts'
import { CreationAbortedError, CreationError } from './errors.ts'
import { killFamily } from './kill-family.ts'
import { DISK_NAME, searchPath } from './recipe.ts'

/** How the program runs. */
export interface RunOptions {
  /** Who failed, at the beginning of a message. */
  readonly name: string
  readonly directory: string
  /** ms */
  readonly timeoutMs: number
  /** Ends the program when aborted. */
  readonly signal: AbortSignal
}

/** The end of stderr that is kept, in bytes. */
const KEPT_STDERR = 8192
const MAX_REASON = 300
/** How long to wait for a killed program, in ms: one that hangs in the kernel cannot be killed. */
const KILL_PATIENCE_MS = 5000
/** How long to wait for the rest of stderr, in ms, which a child in a session of its own may keep open. */
const STDERR_PATIENCE_MS = 500

// Whatever moves a cursor, begins a line or changes the direction of text.
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu

/** What GNU's programs say after the reason. */
const HINT = /^Try '.+' for more information\.$/

/**
 * The line of stderr that says why a program failed: the last that is not empty, at most 300 characters,
 * without control characters. Programs that end with a page of usage (mkfs.xfs) or with where to find it (cp) have said
 * it before that, and those that wrap what they say (mkfs.ext4) begin the rest of it with a tab.
 */
export function reasonOf(stderr: string): string | undefined {
  const lines = stderr
    .replace(/[\r\n]+\t+(?=\S)/g, ' ')
    .split(/[\r\n]+/)
    .map(line => line.replace(UNPRINTABLE, ' ').trim())
    .filter(line => line !== '')
  const usage = lines.findIndex(line => /^usage:/i.test(line))
  const said = usage > 0 ? lines.slice(0, usage) : lines
  const reason = said.findLast(line => !HINT.test(line)) ?? said.at(-1)
  return reason !== undefined && reason.length > MAX_REASON ? `${reason.slice(0, MAX_REASON)}…` : reason
}

/** What to say of the codes by which the system starts no program now. */
const START_PROBLEMS: Readonly<Record<string, string>> = {
  EMFILE: ': the server has too many files open; raise its limit (ulimit -n)',
  ENFILE: ': the machine has too many files open',
  EAGAIN: ': there are too many processes',
  ENOMEM: ': there is no memory for it',
}

function startError(name: string, error: NodeJS.ErrnoException): CreationError {
  const problem = START_PROBLEMS[error.code ?? '']
  const code = (problem && error.code) ?? 'EIO'
  return new CreationError(code, `${name} cannot be started${problem ?? ''}`, { cause: error })
}

function codeFor(reason: string): string {
  if (/no space left on device/i.test(reason)) return 'ENOSPC'
  if (/disk quota exceeded/i.test(reason)) return 'EDQUOT'
  if (/file too large/i.test(reason)) return 'EFBIG'
  return 'EIO'
}

let lastStart: Promise<unknown> = Promise.resolve()

/**
 * Waits for a turn of the event loop in which nothing else is started. Starting a program holds the loop
 * for milliseconds, until the new process has been scheduled; fifty at once would stall every client.
 */
async function startingTurn(): Promise<void> {
  const before = lastStart
  lastStart = before.then(() => setImmediate())
  await before
}

/**
 * Runs a program to its end: in a process group of its own, stdin and stdout /dev/null, LC_ALL=C.
 * Throws CreationError (ETIMEDOUT after `timeoutMs`; else the code that the last line of stderr tells of)
 * or CreationAbortedError, in both cases after the program was killed with all that it started.
 */
export async function runProgram(argv: readonly [string, ...string[]], options: RunOptions): Promise<void> {
  await startingTurn()
  if (options.signal.aborted) throw new CreationAbortedError({ cause: options.signal.reason })
  await startProgram(argv, options)
}

function startProgram(
  [file, ...args]: readonly [string, ...string[]],
  { name, directory, timeoutMs, signal }: RunOptions,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, {
      cwd: directory,
      detached: true,
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, PATH: searchPath(), LC_ALL: 'C' },
    })
    if (child.pid === undefined) {
      void startFailure(child).then(error => reject(startError(name, error)))
      return
    }
    const leader = child.pid
    let stderr = Buffer.alloc(0)
    let stopped: CreationError | CreationAbortedError | undefined
    let patience: NodeJS.Timeout | undefined
    let killed: Promise<void> | undefined

    const settle = (error?: Error) => {
      clearTimeout(timeout)
      clearTimeout(patience)
      signal.removeEventListener('abort', onAbort)
      child.stderr.destroy()
      child.unref()
      if (error === undefined) resolve()
      else reject(error)
    }
    const stop = (error: CreationError | CreationAbortedError) => {
      if (stopped !== undefined) return
      stopped = error
      killed = killFamily(leader)
      patience = setTimeout(settle, KILL_PATIENCE_MS, error)
    }
    const onAbort = () => stop(new CreationAbortedError({ cause: signal.reason }))
    const timeout = setTimeout(() => {
      stop(
        new CreationError(
          'ETIMEDOUT',
          `${name} was killed: not done after ${timeoutMs / 1000} s (--command-timeout)`,
        ),
      )
    }, timeoutMs)
    signal.addEventListener('abort', onAbort)

    child.stderr.on('data', (chunk: Buffer) => {
      stderr = Buffer.from(Buffer.concat([stderr, chunk]).subarray(-KEPT_STDERR))
    })
    // A pipe that breaks loses a reason, not the disk.
    child.stderr.on('error', () => {})
    child.on('exit', (exitCode, killedBy) => {
      if (exitCode === 0 && stopped === undefined) {
        settle()
        return
      }
      // Its children may still be at work on the disk.
      killed ??= killFamily(leader)
      const fail = async () => {
        await killed
        // Clients need not learn where the server keeps its files.
        const reason = reasonOf(stderr.toString().replaceAll(join(directory, DISK_NAME), '$disk'))
        const ending = killedBy === null ? `exit code ${exitCode}` : `killed by ${killedBy}`
        settle(stopped ?? new CreationError(codeFor(reason ?? ''), `${name} failed: ${reason ?? ending}`))
      }
      clearTimeout(patience)
      patience = setTimeout(fail, STDERR_PATIENCE_MS)
      child.on('close', fail)
    })
  })
}
