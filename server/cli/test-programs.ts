/** For tests: foreign NBD clients that talk to a server of this process, which must go on running meanwhile. */
import { execFile, spawnSync } from 'node:child_process'
import type { TestContext } from 'vitest'

/** Debian's own, for which its package of libnbd is. */
const PYTHON = '/usr/bin/python3'
const LIMIT_MS = 20_000

/** How a program ended. */
export interface Ended {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

/** Runs a program to its end, or kills it after a while (status -1). */
export function run(program: string, ...args: readonly string[]): Promise<Ended> {
  return new Promise(resolve => {
    execFile(program, args, { timeout: LIMIT_MS, killSignal: 'SIGKILL' }, (error, stdout, stderr) => {
      const status = error === null ? 0 : typeof error.code === 'number' ? error.code : -1
      resolve({ status, stdout, stderr })
    })
  })
}

/** Runs a program that has to succeed; returns what it wrote to standard output. */
export async function succeed(program: string, ...args: readonly string[]): Promise<string> {
  const { status, stdout, stderr } = await run(program, ...args)
  if (status !== 0) throw new Error(`${program} ended with ${status}: ${stderr}${stdout}`)
  return stdout
}

/**
 * Runs a script over libnbd's Python binding, which has `h` connected to the first argument. What it prints as JSON
 * is returned.
 */
export async function libnbd(uri: string, script: string): Promise<unknown> {
  const whole = `import nbd, sys, json, errno\nh = nbd.NBD()\nh.set_strict_mode(0)\n${script}`
  const output = await succeed(PYTHON, '-c', whole, uri)
  return JSON.parse(output)
}

const absent = [
  ['nbdcopy', '--version'],
  ['qemu-io', '--version'],
  [PYTHON, '-c', 'import nbd'],
]
  .filter(([program = '', ...args]) => spawnSync(program, args).status !== 0)
  .map(command => command.join(' '))

/** Skips a test where the foreign clients are not installed. */
export function needClients({ skip }: TestContext): void {
  skip(absent.length > 0, `not installed: ${absent.join(', ')}`)
}
