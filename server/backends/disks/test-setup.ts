/** What the tests of disks share: a directory of disks with a backend on it, and a look at what is in it. */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import type { OpenContext } from '../backend.ts'
import { type DiskDirectoryOptions, HIDDEN_NAME, openDiskDirectory } from './directory.ts'
import { createDisksBackend, type DisksConfig } from './disks.ts'
import { prepareRecipe, type Recipe } from './recipe.ts'
import { makeDirectory, stagingEntries } from './test-directory.ts'

export const MIB = 2 ** 20
export const EXT4: Recipe = { type: 'ext4' }
/** A command that is quick and whose disk is easy to recognise. */
const QUICK: Recipe = { command: 'printf x > "$disk"; truncate -s "$size" "$disk"' }

/** What a client opens a disk with. */
export const context = (options: Partial<OpenContext> = {}): OpenContext => ({
  readOnly: false,
  client: 'test',
  signal: new AbortController().signal,
  ...options,
})

/** What is not the default. */
export interface Setup
  extends Partial<Omit<DiskDirectoryOptions, 'path'>>,
    Partial<Omit<DisksConfig, 'recipe'>> {
  readonly path?: string
  readonly recipe?: Recipe
}

/** Opens a directory of disks, new if no path is given, that is closed with the test. */
export async function setUp({ path = makeDirectory(), recipe = QUICK, create = true, ...rest }: Setup = {}) {
  const problems: Error[] = []
  const onProblem = (problem: Error) => problems.push(problem)
  const directory = await openDiskDirectory({ path, create, onProblem, ...rest })
  onTestFinished(() => directory.close())
  const prepared = await prepareRecipe(recipe)
  const backend = createDisksBackend({ directory, recipe: prepared, size: MIB, ...rest })
  return { path, directory, backend, problems }
}

/** Names in the directory, and the staging directories that are in use. */
export function contents(path: string) {
  const hidden = join(path, HIDDEN_NAME)
  const inUse = stagingEntries(path).flatMap(name =>
    name.endsWith('.lock') ? [] : readdirSync(join(hidden, name)),
  )
  return { disks: readdirSync(path).filter(name => name !== HIDDEN_NAME), inUse }
}

/** Neither a disk nor a part of one. */
export const EMPTY = { disks: [], inUse: [] }
