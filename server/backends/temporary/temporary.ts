/** The backend of disks that last as long as a connection. */
import { codeOf } from '../../linux/errno.ts'
import { API_VERSION, type Backend, type OpenContext } from '../backend.ts'
import { creationError, makeContent, openContent } from '../disks/content.ts'
import { closeDescriptor } from '../disks/descriptors.ts'
import { DEFAULT_COMMAND_TIMEOUT_MS } from '../disks/disks.ts'
import { CreationAbortedError, DirectoryError } from '../disks/errors.ts'
import { checkSize, type PreparedRecipe } from '../disks/recipe.ts'
import { openStaging, type Staging, type StagingOptions } from '../disks/staging.ts'
import { type FileDisk, fileDisk, fileOperations } from '../file/file-disk.ts'

/** What a backend of temporary disks is made of. */
export interface TemporaryConfig {
  /** From openTemporaryArea. */
  readonly area: Staging
  readonly recipe: PreparedRecipe
  /** Bytes; 0 is possible with a command, which decides itself. A client's own wish goes before it. */
  readonly size: number
  /** Default: 10 minutes. */
  readonly commandTimeoutMs?: number
}

/** Where temporary disks are made unless told otherwise: $TMPDIR, or /var/tmp, which is on a disk. */
export function temporaryDirectory(): string {
  return process.env.TMPDIR || '/var/tmp'
}

/**
 * Opens a private place for temporary disks in a directory that others may write to as well, and removes
 * what dead servers of the same user left there. Throws DirectoryError.
 */
export async function openTemporaryArea(
  directory = temporaryDirectory(),
  options: StagingOptions = {},
): Promise<Staging> {
  try {
    return await openStaging(directory, options)
  } catch (error) {
    throw new DirectoryError(
      codeOf(error) ?? 'EIO',
      `No temporary disks can be made in ${directory} (${codeOf(error) ?? 'EIO'}); set TMPDIR to a writable directory`,
      { cause: error },
    )
  }
}

/**
 * Makes a backend that gives every `open` a disk of its own, whatever its name. The disk has lost its name
 * before `open` returns it, so that nothing of it outlives its connection, and nothing of it is ever
 * synced. Throws RecipeError for an impossible size; `open` throws the errors of disks/errors.ts and leaves
 * nothing behind when it fails.
 */
export function createTemporaryBackend(config: TemporaryConfig) {
  const { area, recipe, size, commandTimeoutMs = DEFAULT_COMMAND_TIMEOUT_MS } = config
  checkSize(recipe, size)
  const disks = new Set<FileDisk>()

  async function open(_name: string, { readOnly, requestedSize, signal }: OpenContext): Promise<FileDisk> {
    const order = { recipe, size: requestedSize ?? size, timeoutMs: commandTimeoutMs }
    const opened = await area.use(signal, async (directory, interest) => {
      try {
        await makeContent(directory, order, interest)
        return await openContent(directory, recipe.program, readOnly)
      } catch (error) {
        throw await creationError(error, directory)
      }
    })
    if (signal.aborted) {
      await closeDescriptor(opened.fd)
      throw new CreationAbortedError({ cause: signal.reason })
    }
    const { fd, blockDevice } = opened
    const disk = fileDisk(fd, opened.size, { durable: false, readOnly, blockDevice })
    disks.add(disk)
    return disk
  }

  return {
    ...fileOperations,
    apiVersion: API_VERSION,
    open,
    probe: (_name, requestedSize) => (recipe.fillsFile ? { size: requestedSize ?? size } : undefined),
    listExports: () => [''],
    async close(disk) {
      if (!disks.delete(disk)) return
      // Of a disk that nobody will see again no holes are needed.
      disk.trims.drop()
      await disk.trims.settled()
      await closeDescriptor(disk.fd)
    },
    canWrite: disk => !disk.readOnly,
  } satisfies Backend<FileDisk>
}
