import { execFileSync } from 'node:child_process'
import { existsSync, lstatSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test, vi } from 'vitest'
import { CREATION_STEPS, type CreationStep } from './create.ts'
import type { CreatingOrder, CreatingResult } from './creating-process.ts'
import { HIDDEN_NAME, openDiskDirectory } from './directory.ts'
import { createDisksBackend } from './disks.ts'
import { prepareRecipe, type Recipe } from './recipe.ts'
import { makeDirectory, runProcess, stagingEntries } from './test-directory.ts'

const MIB = 2 ** 20
const context = { readOnly: false, client: 'test', signal: new AbortController().signal }

async function runCreating(order: CreatingOrder): Promise<CreatingResult> {
  const { stdout, stderr } = await runProcess('creating-process.ts', order)
  expect(stderr).toBe('')
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as CreatingResult
}

/** What a server that starts finds, and leaves of it. */
async function restart(path: string, recipe: Recipe, size: number): Promise<{ found: string[] }> {
  const problems: Error[] = []
  const directory = await openDiskDirectory({
    path,
    create: true,
    onProblem: problem => problems.push(problem),
  })
  expect(problems).toEqual([])
  expect(stagingEntries(path).length, 'its own directory and lock').toBe(2)
  const found = readdirSync(path).filter(name => name !== HIDDEN_NAME)
  const backend = createDisksBackend({ directory, recipe: await prepareRecipe(recipe), size })
  await backend.close(await backend.open('alice', context))
  await directory.close()
  expect(stagingEntries(path)).toEqual([])
  return { found }
}

const NAMED: readonly CreationStep[] = ['published', 'durable', 'cleared']

describe('A server killed in the middle of making a disk leaves no disk or a whole one', () => {
  const withMkfs = CREATION_STEPS.filter(step => step !== 'recorded')
  test.for(withMkfs)('at %s', async at => {
    const path = makeDirectory()
    const recipe = { type: 'ext4', label: 'alice' }
    const order = { path, name: 'alice', recipe, size: 64 * MIB }
    const { signal } = await runProcess('creating-process.ts', { ...order, at, die: true })
    expect(signal).toBe('SIGKILL')
    expect(stagingEntries(path).length).toBeGreaterThan(0)

    const { found } = await restart(path, recipe, 64 * MIB)
    expect(found).toEqual(NAMED.includes(at) ? ['alice'] : [])
    execFileSync('e2fsck', ['-fn', join(path, 'alice')], { stdio: 'ignore' })
    expect(lstatSync(join(path, 'alice')).nlink).toBe(1)
  })

  const withLink = CREATION_STEPS.filter(step => step !== 'allocated')
  test.for(withLink)('at %s, when a command makes a link', async at => {
    const path = makeDirectory()
    const target = join(makeDirectory(), 'target')
    writeFileSync(target, 'x'.repeat(4096))
    const recipe = { command: 'ln -s "$target" "$disk"', variables: { target } }
    const order = { path, name: 'alice', recipe, size: 1 }
    const { signal } = await runProcess('creating-process.ts', { ...order, at, die: true })
    expect(signal).toBe('SIGKILL')

    // Opening succeeds only if the record of the link is whole, too.
    const { found } = await restart(path, recipe, 1)
    expect(found).toEqual(NAMED.includes(at) ? ['alice'] : [])
  })

  test('during the command, whose children go on', async () => {
    const path = makeDirectory()
    const done = join(makeDirectory(), 'done')
    const command = `truncate -s 1M "$disk"; kill -9 $PPID
      for i in 1 2 3 4 5 6 7 8; do sleep 0.05; echo $i >> "$disk"; echo $i > "$disk.$i"; done 2>/dev/null
      touch "$done"`
    const recipe = { command, variables: { done } }
    const { signal } = await runProcess('creating-process.ts', { path, name: 'alice', recipe, size: MIB })
    expect(signal).toBe('SIGKILL')

    const { found } = await restart(path, { type: 'ext4' }, 64 * MIB)
    expect(found).toEqual([])
    await vi.waitFor(() => expect(existsSync(done)).toBe(true), { timeout: 5000 })
    expect(stagingEntries(path)).toEqual([])
  })
})

describe('Two servers make the same disk at once', () => {
  test.for<[string, Recipe]>([
    ['by mkfs', { type: 'ext4' }],
    ['by a command that makes a link', { command: 'echo x > "$target.$$"; ln -s "$target.$$" "$disk"' }],
  ])('%s: the first wins, both serve the same', async ([, recipe]) => {
    const path = makeDirectory()
    const target = join(makeDirectory(), 'target')
    const complete = 'command' in recipe ? { ...recipe, variables: { target } } : recipe
    const order = { path, name: 'alice', recipe: complete, size: 8 * MIB }
    const late = join(makeDirectory(), 'late')
    const slow = runCreating({ ...order, at: 'synced', waitFor: late })
    await vi.waitFor(() => expect(stagingEntries(path).length).toBe(2))
    const fast = await runCreating(order)
    writeFileSync(late, '')
    expect(await slow).toEqual(fast)
    expect(fast).toMatchObject({ inode: statSync(join(path, 'alice')).ino })
    expect(stagingEntries(path)).toEqual([])
    // The loser has not replaced the winner's record.
    const { found } = await restart(path, { command: 'false' }, 1)
    expect(found).toEqual(['alice'])
  })

  test('and a server that starts does not sweep what another is making', async () => {
    const path = makeDirectory()
    const late = join(makeDirectory(), 'late')
    const order = { path, name: 'alice', recipe: { type: 'ext4' }, size: 8 * MIB }
    const slow = runCreating({ ...order, at: 'filled', waitFor: late })
    await vi.waitFor(() => expect(stagingEntries(path).length).toBe(2))
    const other = await openDiskDirectory({ path, create: true })
    expect(stagingEntries(path).length).toBe(4)
    await other.close()
    writeFileSync(late, '')
    expect(await slow).toMatchObject({ size: 8 * MIB })
  })
})
