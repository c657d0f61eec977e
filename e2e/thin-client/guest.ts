/** What a thin client needs to run our own program: Node, the program, and foreign programs with their libraries. */
import { cp, glob, mkdir, readFile, writeFile } from 'node:fs/promises'
import { stripTypeScriptTypes } from 'node:module'
import { dirname, join } from 'node:path'
import type { TestContext } from 'vitest'
import { check, checkout, type Ended, needPrograms } from '../harness.ts'

/** Where the program is in the thin client. */
export const HOME = 'opt/ondemand-disk'

/** Shell lines that make `odd` the command line of the program. */
export const COMMAND_LINE = `export PATH=/usr/bin:$PATH
  odd() { node /${HOME}/server/main.js "$@"; }`

/** Lines, and characters of each, that say by themselves how a thin client ended. */
const [LAST_WORDS, LAST_CHARACTERS] = [6, 200]

/**
 * How a thin client ended, for the message of a test: in one line, which is all that a summary shows, what it said last; then all of
 * its console.
 */
export function toldBy({ status, signal, stdout, stderr }: Ended): string {
  const lines = stdout.split('\n').filter(line => line.trim() !== '')
  const last = lines
    .slice(-LAST_WORDS)
    .map(line => line.slice(-LAST_CHARACTERS))
    .join(' | ')
  return `The thin client ended with ${signal ?? status}. Last on its console: ${last}\n${stdout}${stderr}`
}

/** Puts a program at `place`, and its libraries where they are here. */
async function addProgram(tree: string, program: string, place: string): Promise<void> {
  const libraries = (await check('ldd', [program])).match(/(?<=[\s>])\/\S+/g) ?? []
  const files: readonly (readonly [from: string, to: string])[] = [
    [program, place],
    ...libraries.map(library => [library, library] as const),
  ]
  for (const [from, to] of files) {
    await mkdir(join(tree, dirname(to)), { recursive: true })
    await cp(from, join(tree, to), { dereference: true })
  }
}

/** The packages with all that they depend on. */
async function addPackages(tree: string, names: readonly string[], added = new Set<string>()): Promise<void> {
  for (const name of names) {
    const from = join(checkout, 'node_modules', name)
    if (added.has(name)) continue
    added.add(name)
    // An optional one for another processor.
    const text = await readFile(join(from, 'package.json'), 'utf8').catch(() => undefined)
    if (text === undefined) continue
    await cp(from, join(tree, HOME, 'node_modules', name), { recursive: true })
    const { dependencies, optionalDependencies } = JSON.parse(text)
    await addPackages(tree, Object.keys({ ...dependencies, ...optionalDependencies }), added)
  }
}

/** The sources as plain JavaScript: stripping their types takes an emulated processor half a minute. */
async function addSources(tree: string, sources: readonly string[]): Promise<void> {
  for await (const file of glob(sources, { cwd: checkout })) {
    if (file.endsWith('.test.ts')) continue
    const source = await readFile(join(checkout, file), 'utf8')
    const plain = stripTypeScriptTypes(source).replace(/(?<=['/][\w-]+)\.ts(?=')/g, '.js')
    const target = join(tree, HOME, file.replace(/\.ts$/, '.js'))
    await mkdir(dirname(target), { recursive: true })
    await writeFile(target, plain)
  }
  await cp(join(checkout, 'package.json'), join(tree, HOME, 'package.json'))
}

/** What the thin client is made of on this machine. */
const NEEDED = ['qemu-system-x86_64', 'busybox', 'nbd-client', 'e2fsck', 'cpio', 'depmod', 'apt-get']

/** Skips the test where no thin client can be had, or one of its programs is missing. */
export async function needThinClient(context: TestContext, ...programs: readonly string[]): Promise<void> {
  context.skip(process.arch !== 'x64', `the thin client needs an x86-64 machine, this is ${process.arch}`)
  await needPrograms(context, ...NEEDED, ...programs)
}

/** What a thin client has beside the command line `ondemand-disk`. */
export interface GuestParts {
  /** Patterns of sources. */
  readonly sources?: readonly string[]
  /** Other files of the checkout. */
  readonly files?: readonly string[]
  /** Packages from npm. */
  readonly packages?: readonly string[]
}

/** Makes the tree for `boot` in an empty folder. */
export async function makeGuestTree(
  tree: string,
  programs: readonly string[],
  { sources = [], files = [], packages = [] }: GuestParts = {},
): Promise<void> {
  await addProgram(tree, process.execPath, '/usr/bin/node')
  for (const program of programs) {
    const path = (await check('sh', ['-c', 'command -v "$0"', program])).trim()
    await addProgram(tree, path, path)
  }
  await addSources(tree, ['{server,crds}/**/*.ts', ...sources])
  for (const file of files) await cp(join(checkout, file), join(tree, HOME, file))
  await addPackages(tree, ['koffi', 'pino', ...packages])
}
