import { quote } from '../../../crds/quote.ts'

/**
 * A disk that cannot be made or opened. `code` is an errno name; the message is meant for the client's
 * screen as much as for the log, and holds no path of the server but DIR.
 */
export class DiskError extends Error {
  readonly code: string

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = new.target.name
    this.code = code
  }
}

/** What a recipe's part is called on the command line. */
export type RecipeOption = 'type' | 'label' | 'mkfs-options' | 'command' | 'var' | 'size'

/** A recipe that cannot work, found before anything is made. */
export class RecipeError extends DiskError {
  readonly option: RecipeOption
  /** The message without the option's name, for callers that call it something else. */
  readonly problem: string

  constructor(option: RecipeOption, problem: string) {
    super('EINVAL', `--${option}: ${problem}`)
    this.option = option
    this.problem = problem
  }
}

/** The directory of the disks, or of temporary files, cannot be used. */
export class DirectoryError extends DiskError {}

/** There is no such disk and none may be made. */
export class NoSuchDiskError extends DiskError {
  constructor(fileName: string) {
    super('ENOENT', `There is no disk ${quote(fileName)}, and this server makes no new ones (--no-create)`)
  }
}

/** Something of this name exists, but it is not to be served: a planted link, a FIFO, a directory. */
export class NotADiskError extends DiskError {
  constructor(fileName: string, what: string) {
    super('EINVAL', `${quote(fileName)} is no disk: ${what}`)
  }
}

/** The directory holds as many disks as it may. */
export class TooManyDisksError extends DiskError {
  readonly limit: number

  constructor(limit: number) {
    super(
      'EDQUOT',
      `No new disk: this server keeps at most ${limit} (--max-disks); an admin can delete one or raise the limit`,
    )
    this.limit = limit
  }
}

/** Who holds a lock. */
export interface LockHolder {
  readonly pid: number
  /** Name of the program, as `ps -o comm` shows it. */
  readonly program: string
}

/** Another open file description has a lock on the disk that excludes this one. */
export class DiskInUseError extends DiskError {
  readonly holder: LockHolder | undefined

  constructor(fileName: string, holder: LockHolder | undefined) {
    const by =
      holder === undefined
        ? 'another program'
        : holder.pid === process.pid
          ? 'another client of this server'
          : `process ${holder.pid} (${quote(holder.program)})`
    super('EBUSY', `The disk ${quote(fileName)} is in use by ${by}; try again when it is free`)
    this.holder = holder
  }
}

/** Making a disk failed; nothing of it is left. */
export class CreationError extends DiskError {}

/** Nobody waits any longer for the disk, or the server stops. */
export class CreationAbortedError extends DiskError {
  constructor(options?: ErrorOptions) {
    super('ECANCELED', 'Making the disk was called off', options)
  }
}

/** What to say of the codes that mean that there is no room. */
export const SPACE_PROBLEMS: Readonly<Record<string, string>> = {
  ENOSPC: 'No space left for a new disk',
  EDQUOT: 'The quota leaves no space for a new disk',
  EFBIG: 'The directory takes no file of this size',
}
