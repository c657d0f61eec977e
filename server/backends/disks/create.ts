/**
 * Makes one disk so that a crash at any moment leaves either no disk or a whole one: everything happens in
 * a staging directory, and the last step gives the finished, synced disk its name.
 */
import { link } from 'node:fs/promises'
import { join } from 'node:path'
import { codeOf } from '../../linux/errno.ts'
import { renameNoReplace } from '../../linux/syscalls.ts'
import { type ContentOrder, checkLink, creationError, makeContent, openContent } from './content.ts'
import { closeDescriptor, syncDescriptor } from './descriptors.ts'
import { CreationAbortedError } from './errors.ts'
import { DISK_NAME } from './recipe.ts'
import { type Records, syncDirectory } from './records.ts'
import type { Staging } from './staging.ts'

/**
 * What has just been reached when a disk is made, in this order: a staging directory; a sparse file (not
 * with a command); its content; the content is durable; its record (links and block devices only); its
 * name; the name is durable; the staging directory is gone.
 */
export const CREATION_STEPS = [
  'staged',
  'allocated',
  'filled',
  'synced',
  'recorded',
  'published',
  'durable',
  'cleared',
] as const

export type CreationStep = (typeof CREATION_STEPS)[number]

/** Waited for after each step, so that a test can stop or die between any two. */
export type OnStep = (step: CreationStep) => Promise<void>

/** Where disks are made and where they go. */
export interface Workshop {
  readonly directory: string
  readonly hidden: string
  readonly staging: Staging
  readonly records: Records
  readonly onStep?: OnStep
}

/** Errors by which a file system says that it has no hard links, or none for this file. */
const NO_HARD_LINK = new Set(['EPERM', 'EOPNOTSUPP', 'ENOTSUP', 'ENOSYS', 'EMLINK'])

/**
 * Gives a finished disk its name. False if something of that name exists. A hard link is to a rename what
 * waiting in the thread pool is to waiting on the event loop; the staging name goes with its directory.
 */
async function publish(from: string, to: string): Promise<boolean> {
  try {
    try {
      await link(from, to)
    } catch (error) {
      if (!NO_HARD_LINK.has(codeOf(error) ?? '')) throw error
      renameNoReplace(from, to)
    }
    return true
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false
    throw error
  }
}

async function syncContent(staged: string, program: string): Promise<void> {
  const { fd } = await openContent(staged, program, true)
  try {
    await syncDescriptor(fd)
  } finally {
    await closeDescriptor(fd)
  }
}

/**
 * Makes the disk `fileName`. Returns false, and drops what it made, if something of that name exists when
 * it is ready: another server was faster. Waits for its turn with the staging area, and calls `onBegin`
 * when that has come; aborting `interest` calls it off.
 *
 * Throws CreationError, CreationAbortedError, DirectoryError; then nothing is left, except where the last
 * sync of the directory failed: then the disk exists and is whole.
 */
export async function createDisk(
  { directory, hidden, staging, records, onStep }: Workshop,
  fileName: string,
  order: ContentOrder,
  interest: AbortSignal,
  onBegin?: () => void,
): Promise<boolean> {
  const { program } = order.recipe
  const made = await staging.use(interest, async (staged, signal) => {
    const reached = async (step: CreationStep) => {
      await onStep?.(step)
      if (signal.aborted) throw new CreationAbortedError({ cause: signal.reason })
    }
    onBegin?.()
    try {
      await reached('staged')
      const kind = await makeContent(staged, order, signal, () => reached('allocated'))
      await reached('filled')
      if (kind === 'link') await checkLink(staged, hidden, program)
      await syncContent(staged, program)
      await reached('synced')
      const from = join(staged, DISK_NAME)
      const name = () => publish(from, join(directory, fileName))
      const recordFirst = () =>
        records.record(from, fileName, async () => {
          await onStep?.('recorded')
          return await name()
        })
      const isOurs = kind === 'file' ? await name() : await recordFirst()
      await onStep?.('published')
      await syncDirectory(directory)
      await onStep?.('durable')
      return isOurs
    } catch (error) {
      throw await creationError(error, staged)
    }
  })
  await onStep?.('cleared')
  return made
}
