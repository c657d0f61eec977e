/** What the tests of this folder need of the machine: directories, small file systems, descriptors, processes. */
import { execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, readlinkSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, vi } from 'vitest'
import { HIDDEN_NAME } from './directory.ts'

/** Makes a directory that goes away with the test. */
export function makeDirectory(): string {
  const path = mkdtempSync(join(tmpdir(), 'ondemand-disk-test-'))
  onTestFinished(() => rmSync(path, { recursive: true, force: true }))
  return path
}

/** Why this machine cannot mount, undefined if it can. In CI nothing is skipped: there a mount that fails is a failure. */
export const cannotMount: string | undefined = (() => {
  if (process.env.CI === 'true') return undefined
  const path = mkdtempSync(join(tmpdir(), 'ondemand-disk-mount-'))
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'none', path], { stdio: 'ignore' })
    execFileSync('umount', [path])
    return undefined
  } catch {
    return 'needs the right to mount'
  } finally {
    rmSync(path, { recursive: true, force: true })
  }
})()

/** Mounts a file system in memory, of this size in bytes, for as long as the test lasts. */
export function makeSmallFilesystem(size: number): string {
  const path = makeDirectory()
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size},mode=700`, 'none', path])
  onTestFinished(() => {
    execFileSync('umount', ['-l', path])
  })
  return path
}

/** Files of this directory that this process has open, also those without a name. */
export function openFilesIn(directory: string): string[] {
  return readdirSync('/proc/self/fd').flatMap(descriptor => {
    try {
      const target = readlinkSync(`/proc/self/fd/${descriptor}`)
      return target.startsWith(`${directory}/`) ? [target] : []
    } catch {
      return []
    }
  })
}

/** How many descriptors this process has, once that number stays the same. */
export async function countDescriptors(): Promise<number> {
  const count = () => readdirSync('/proc/self/fd').length
  let last = count()
  await vi.waitFor(
    () => {
      const before = last
      last = count()
      expect(last).toBe(before)
    },
    { interval: 20 },
  )
  return last
}

/** What is in the hidden directory beside the records of links. */
export function stagingEntries(directory: string): string[] {
  try {
    return readdirSync(join(directory, HIDDEN_NAME)).filter(name => !name.startsWith('links'))
  } catch {
    return []
  }
}

/** What a process came to. */
export interface Ending {
  readonly stdout: string
  readonly stderr: string
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

/** Runs a program of this folder with one argument, as JSON, in a process of its own. */
export async function runProcess(program: string, argument: unknown): Promise<Ending> {
  const child = spawn(process.execPath, [join(import.meta.dirname, program), JSON.stringify(argument)], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', chunk => {
    stdout += chunk
  })
  child.stderr.on('data', chunk => {
    stderr += chunk
  })
  // 'exit', not 'close': an orphan of a killed process may keep the pipes open.
  return await new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('exit', (code, signal) => setImmediate(() => resolve({ stdout, stderr, code, signal })))
  })
}
