/**
 * A server's worth of process for tests: opens one disk, makes it if need be, and tells on stdout what came
 * of it. Can be told to die, or to wait for a file, at a step of the creation.
 */
import { existsSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { codeOf } from '../../linux/errno.ts'
import type { CreationStep } from './create.ts'
import { openDiskDirectory } from './directory.ts'
import { createDisksBackend } from './disks.ts'
import { prepareRecipe, type Recipe } from './recipe.ts'

/** What the process is told, as JSON. */
export interface CreatingOrder {
  readonly path: string
  readonly name: string
  readonly recipe: Recipe
  readonly size: number
  readonly at?: CreationStep
  /** Die by SIGKILL at that step, or wait there until a file exists. */
  readonly die?: boolean
  readonly waitFor?: string
  /** Keep the disk open until this file exists. */
  readonly holdUntil?: string
}

/** What the process says. */
export interface CreatingResult {
  readonly error?: string | undefined
  readonly message?: string
  readonly size?: number
  readonly inode?: number
}

async function waitForFile(path: string): Promise<void> {
  while (!existsSync(path)) await sleep(5)
}

async function run(order: CreatingOrder): Promise<CreatingResult> {
  const directory = await openDiskDirectory({
    path: order.path,
    create: true,
    onProblem: problem => {
      throw problem
    },
    onStep: async step => {
      if (step !== order.at) return
      if (order.die === true) process.kill(process.pid, 'SIGKILL')
      if (order.waitFor !== undefined) await waitForFile(order.waitFor)
    },
  })
  try {
    const recipe = await prepareRecipe(order.recipe)
    const backend = createDisksBackend({ directory, recipe, size: order.size })
    const signal = new AbortController().signal
    const disk = await backend.open(order.name, { readOnly: false, client: 'test', signal })
    if (order.holdUntil !== undefined) {
      process.stdout.write('open\n')
      await waitForFile(order.holdUntil)
    }
    const { ino } = await stat(join(order.path, order.name))
    await backend.close(disk)
    return { size: disk.size, inode: ino }
  } catch (error) {
    return { error: codeOf(error), message: String(error) }
  } finally {
    await directory.close()
  }
}

const result = await run(JSON.parse(process.argv[2] ?? '') as CreatingOrder)
process.stdout.write(`${JSON.stringify(result)}\n`)
