/** `ondemand-disk make`: makes what a manifest declares, if it is not there, and ends. */
import { readFile, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { hasFile, InvalidSpecError, type OnDemandDisk } from '../../crds/ondemanddisk.ts'
import type { OnStep } from '../backends/disks/create.ts'
import { type DiskDirectory, openDiskDirectory } from '../backends/disks/directory.ts'
import { RecipeError } from '../backends/disks/errors.ts'
import { checkSize, type PreparedRecipe, prepareRecipe } from '../backends/disks/recipe.ts'
import { lookUp, makeDirectory, syncDirectory } from '../backends/disks/records.ts'
import { recipeOf, recipeProblem } from '../exports/declared-recipe.ts'
import { parseManifest } from '../exports/manifest-file.ts'
import { codeOf, toError } from '../linux/errno.ts'
import { MAKE_OPTIONS } from './make-options.ts'
import { parseOptions, UsageError } from './options.ts'
import { bounded, printable } from './printable.ts'

/** It was told to stop before the disk was made. */
export class StoppedError extends Error {
  override readonly name = 'StoppedError'
  readonly code = 'ECANCELED'
}

/** For tests. */
export interface MakeHooks {
  /** Waited for between the steps of a creation. */
  readonly onStep?: OnStep
}

const SIGNALS = ['SIGTERM', 'SIGINT'] as const

/** Spares are made a few at a time: more of them would only wait for the same volume. */
const AT_ONCE = 4

/** What a kubelet shows of a termination message ends at 4096 bytes. */
const MAX_MESSAGE = 1000

/**
 * Makes a disk, or some spare ones.
 * @throws UsageError for options and manifests that cannot be obeyed, StoppedError, and the errors of making a disk
 */
export async function make(argv: readonly string[], hooks: MakeHooks = {}): Promise<void> {
  const options = parseOptions(MAKE_OPTIONS, argv)
  const stop = new AbortController()
  const onSignal = (signal: NodeJS.Signals) => stop.abort(signal)
  for (const signal of SIGNALS) process.on(signal, onSignal)
  try {
    await makeMissing(options, stop.signal, hooks)
  } catch (thrown) {
    const error = stop.signal.aborted
      ? new StoppedError(`Stopped by ${stop.signal.reason} before the disk was made`, { cause: thrown })
      : thrown
    await leaveMessage(options['message-file'], error)
    throw error
  } finally {
    for (const signal of SIGNALS) process.off(signal, onSignal)
  }
}

type MakeOptions = ReturnType<typeof parseOptions<typeof MAKE_OPTIONS>>

async function makeMissing(options: MakeOptions, signal: AbortSignal, { onStep }: MakeHooks): Promise<void> {
  const { dir, manifest, spares, 'command-timeout': timeoutMs } = options
  if (dir === undefined) throw new UsageError('--dir is missing: give the directory of the disks.')
  if (manifest === undefined) throw new UsageError('--manifest is missing: give the file of the object.')
  const { uid, disk } = await readObject(manifest)
  const names = spares === undefined ? [uid] : Array.from({ length: spares }, (_, index) => `${uid}-${index}`)
  await prepareDirectory(dir)
  // Before the directory is opened, which needs room for a file in it: what is there needs none.
  const missing = await missingOf(dir, names)
  if (missing.length === 0) return
  const order = { recipe: await prepare(disk), size: disk.spec.size ?? 0, timeoutMs }
  const directory = await openDiskDirectory({
    path: dir,
    create: true,
    maxAtOnce: AT_ONCE,
    onProblem: problem => process.stderr.write(`ondemand-disk: ${printable(problem.message)}\n`),
    ...(onStep !== undefined && { onStep }),
  })
  try {
    await createAll(directory, missing, name => directory.create(name, order, signal), signal)
  } finally {
    await directory.close()
  }
}

/** Waits for all of them, so that one that fails leaves no other half made, and throws what the first failed with. */
async function createAll(
  directory: DiskDirectory,
  names: readonly string[],
  create: (name: string) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  // A creation that has begun goes on when those who wait for it have left, unless it is called off.
  const callOff = () => names.forEach(name => void directory.callOff(name))
  signal.addEventListener('abort', callOff)
  try {
    const failed = (await Promise.allSettled(names.map(create))).find(({ status }) => status === 'rejected')
    if (failed?.status === 'rejected') throw failed.reason
  } finally {
    signal.removeEventListener('abort', callOff)
  }
}

async function readObject(file: string): Promise<{ uid: string; disk: OnDemandDisk }> {
  let bytes: Buffer
  try {
    bytes = await readFile(file)
  } catch (error) {
    throw new UsageError(`--manifest: ${file} cannot be read: ${codeOf(error) ?? 'EIO'}.`, { cause: error })
  }
  // Which names the pool allows is not this program's business: the file is named by the UID.
  const [document, another] = await parseManifest(bytes, 'relaxed')
  if (document === undefined || another !== undefined) {
    throw new UsageError('--manifest: Give a file with one object.')
  }
  const { content: disk } = document
  if (disk instanceof InvalidSpecError) throw new UsageError(disk.message, { cause: disk })
  const { uid } = disk.metadata
  if (uid === undefined) throw new UsageError('metadata.uid: This field is required: it names the file.')
  if (disk.spec.source !== undefined) {
    throw new UsageError('spec.source: Copies are made by the agent of the pool, not by this program.')
  }
  if (!hasFile(disk.spec)) {
    const field = disk.spec.upstream === undefined ? 'spec.mode' : 'spec.upstream'
    throw new UsageError(`${field}: There is nothing to make for such a disk.`)
  }
  return { uid, disk }
}

async function prepare({ spec }: OnDemandDisk): Promise<PreparedRecipe> {
  try {
    const recipe = await prepareRecipe(recipeOf(spec))
    checkSize(recipe, spec.size ?? 0)
    return recipe
  } catch (error) {
    if (error instanceof RecipeError) throw new UsageError(recipeProblem(error), { cause: error })
    throw error
  }
}

/** What the directory stands in must exist: it is where the volume is mounted. */
async function prepareDirectory(dir: string): Promise<void> {
  const parent = dirname(resolve(dir))
  if ((await lookUp(dir)) !== undefined) return
  try {
    await makeDirectory(dir)
    await syncDirectory(parent)
  } catch (error) {
    const reason = codeOf(error) === 'ENOENT' ? `there is no ${parent}` : (codeOf(error) ?? 'EIO')
    throw new Error(`--dir: ${dir} cannot be made: ${reason}`, { cause: error })
  }
}

async function missingOf(dir: string, names: readonly string[]): Promise<string[]> {
  const found = await Promise.all(names.map(name => lookUp(join(dir, name))))
  // Whoever gave it its name may have died before the name was durable.
  if (found.some(stats => stats !== undefined)) await syncDirectory(dir)
  return names.filter((_, index) => found[index] === undefined)
}

async function leaveMessage(file: string | undefined, error: unknown): Promise<void> {
  if (file === undefined) return
  const message = toError(error).message
  await writeFile(file, bounded(printable(message), MAX_MESSAGE)).catch((problem: unknown) => {
    process.stderr.write(`ondemand-disk: --message-file: ${file} cannot be written: ${codeOf(problem)}\n`)
  })
}
