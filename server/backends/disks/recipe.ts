/** What a new disk is filled with: a file system by mkfs, or whatever a command makes. */
import { constants } from 'node:fs'
import { access } from 'node:fs/promises'
import { delimiter, isAbsolute, join } from 'node:path'
import { labelProblem, NO_FILESYSTEM } from '../../../crds/filesystem-label.ts'
import { quote } from '../../../crds/quote.ts'
import { RecipeError } from './errors.ts'

/** A file system made by the program `mkfs.TYPE`, or none. */
export interface FilesystemRecipe {
  readonly type: string
  readonly label?: string
  /** Further arguments for mkfs. None may contain a slash, so none can name a file of the server. */
  readonly mkfsOptions?: readonly string[]
}

/** A fragment of shell script that makes `$disk`, about `$size` bytes large. */
export interface CommandRecipe {
  readonly command: string
  /** Further shell variables for the command. */
  readonly variables?: Readonly<Record<string, string>>
}

export type Recipe = FilesystemRecipe | CommandRecipe

/** A recipe that was checked, and whose program was found. */
export interface PreparedRecipe {
  /** Who fails, at the beginning of a message. */
  readonly program: string
  /** True: the program fills a file that exists, as large as the disk. False: it makes the disk itself. */
  readonly fillsFile: boolean
  /** Program and arguments. `disk` is an absolute path in the program's working directory, named DISK_NAME. */
  argv(disk: string, size: number): readonly [string, ...string[]]
}

/** Name of a disk in the directory where it is made. */
export const DISK_NAME = 'disk'

interface Family {
  /** Do not ask, do not chat, take a plain file. */
  readonly flags: readonly string[]
  readonly labelOption: string
}

const EXT: Family = { flags: ['-F', '-q'], labelOption: '-L' }
const FAT: Family = { flags: [], labelOption: '-n' }
const OTHER: Family = { flags: [], labelOption: '-L' }

const FAMILIES: ReadonlyMap<string, Family> = new Map([
  ['ext2', EXT],
  ['ext3', EXT],
  ['ext4', EXT],
  ['fat', FAT],
  ['vfat', FAT],
  ['msdos', FAT],
  ['ntfs', { flags: ['-Q', '-F', '-q'], labelOption: '-L' }],
  ['xfs', { flags: ['-f', '-q'], labelOption: '-L' }],
  ['btrfs', { flags: ['-f', '-q'], labelOption: '-L' }],
  ['f2fs', { flags: ['-f', '-q'], labelOption: '-l' }],
  ['jfs', { flags: ['-q'], labelOption: '-L' }],
  ['nilfs2', { flags: ['-f', '-q'], labelOption: '-L' }],
  ['reiserfs', { flags: ['-f', '-f', '-q'], labelOption: '-l' }],
])

const TYPE = /^[a-z0-9][a-z0-9_+-]{0,31}$/i
const VARIABLE = /^[A-Za-z_][A-Za-z0-9_]*$/
const CONTROL = /\p{Cc}/u
const MAX_MKFS_OPTIONS = 64
const MAX_MKFS_OPTION = 1024
/** The kernel takes no single argument above 32 pages (MAX_ARG_STRLEN); the rest is for `$disk` and `$size`. */
const MAX_SCRIPT_BYTES = 131_072 - 16_384

function familyOf(type: string): Family {
  return FAMILIES.get(type) ?? OTHER
}

function checkFilesystem({ type, label = '', mkfsOptions = [] }: FilesystemRecipe): void {
  if (!TYPE.test(type)) {
    throw new RecipeError(
      'type',
      `${quote(type)} is not a file system type such as ext4, xfs, vfat, btrfs or ntfs`,
    )
  }
  if (CONTROL.test(label)) throw new RecipeError('label', `${quote(label)} contains a control character`)
  // mkfs.fat would have to convert other characters to the DOS code page of a locale that servers lack.
  if (familyOf(type) === FAT && /[^ -~]/.test(label)) {
    throw new RecipeError(
      'label',
      `${quote(label)} contains other characters than ASCII, which ${type} cannot keep`,
    )
  }
  const problem = labelProblem(type, label)
  if (problem !== undefined) throw new RecipeError('label', problem)
  if (type === NO_FILESYSTEM && mkfsOptions.length > 0) {
    throw new RecipeError('mkfs-options', `There is no mkfs for the type ${NO_FILESYSTEM}`)
  }
  if (mkfsOptions.length > MAX_MKFS_OPTIONS) {
    throw new RecipeError(
      'mkfs-options',
      `${mkfsOptions.length} options are too many; at most ${MAX_MKFS_OPTIONS}`,
    )
  }
  for (const option of mkfsOptions) {
    if (option === '' || option.length > MAX_MKFS_OPTION || CONTROL.test(option)) {
      throw new RecipeError(
        'mkfs-options',
        `${quote(option)} is empty, too long or contains a control character`,
      )
    }
    // mkfs runs in a directory that holds nothing but the new disk. Without a slash an argument cannot
    // leave it: no other device to format, no file of the server to copy in (mkfs.ext4 -d).
    if (option.includes('/') || option.includes('..')) {
      throw new RecipeError('mkfs-options', `${quote(option)} contains a path, which is not allowed`)
    }
  }
}

function checkCommand({ command, variables = {} }: CommandRecipe): void {
  if (command.trim() === '') throw new RecipeError('command', 'The command is empty')
  if (command.includes('\0')) throw new RecipeError('command', 'The command contains a NUL character')
  for (const [key, value] of Object.entries(variables)) {
    if (!VARIABLE.test(key)) {
      throw new RecipeError(
        'var',
        `${quote(key)} is not a shell identifier (letters, digits and _, no digit first)`,
      )
    }
    if (key === 'disk')
      throw new RecipeError('var', '"disk" is the path that the server gives to the command')
    if (key === 'size')
      throw new RecipeError('var', '"size" is the size that the server gives to the command')
    if (value.includes('\0'))
      throw new RecipeError('var', `The value of ${quote(key)} contains a NUL character`)
  }
  const bytes = Buffer.byteLength(script({ command, variables }, '', 0))
  if (bytes > MAX_SCRIPT_BYTES) {
    throw new RecipeError(
      'command',
      `The command and its variables have ${bytes} bytes; put what is above ${MAX_SCRIPT_BYTES} in a script file`,
    )
  }
}

/** Checks all that can be checked without looking at the machine. Throws RecipeError. */
export function checkRecipe(recipe: Recipe): void {
  if ('command' in recipe) checkCommand(recipe)
  else checkFilesystem(recipe)
}

/** A word of shell script that stands for exactly this text, which contains no NUL. */
function shellQuote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`
}

/** What it makes is, as what mkfs fills, for nobody else on this machine to read, unless it says otherwise. */
const UMASK = 'umask 077'

function script({ command, variables = {} }: CommandRecipe, disk: string, size: number): string {
  const all = [['disk', disk], ['size', String(size)], ...Object.entries(variables)]
  return `${UMASK}; ${all.map(([key, value]) => `${key}=${shellQuote(value ?? '')}`).join(' ')}\n${command}`
}

/** The PATH that mkfs is looked for in and that commands get: users' accounts often lack the sbin directories. */
export function searchPath(path = process.env.PATH ?? ''): string {
  const directories = path.split(delimiter).filter(directory => isAbsolute(directory))
  return [...new Set([...directories, '/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/bin', '/bin'])].join(
    delimiter,
  )
}

async function findProgram(name: string, path: string): Promise<string | undefined> {
  for (const directory of path.split(delimiter)) {
    const file = join(directory, name)
    const runs = await access(file, constants.X_OK).then(
      () => true,
      () => false,
    )
    if (runs) return file
  }
  return undefined
}

/** Checks a recipe and finds its program. Throws RecipeError naming the option that cannot be obeyed. */
export async function prepareRecipe(recipe: Recipe): Promise<PreparedRecipe> {
  checkRecipe(recipe)
  if ('command' in recipe) {
    return {
      program: 'The command',
      fillsFile: false,
      argv: (disk, size) => ['/bin/sh', '-c', script(recipe, disk, size), 'command'],
    }
  }
  const { type, label = '', mkfsOptions = [] } = recipe
  // The empty file is the disk.
  if (type === NO_FILESYSTEM) return { program: 'true', fillsFile: true, argv: () => ['/bin/true'] }
  const { flags, labelOption } = familyOf(type)
  const program = `mkfs.${type}`
  const file = await findProgram(program, searchPath())
  if (file === undefined) {
    throw new RecipeError(
      'type',
      `There is no program ${program} on this machine; install it or choose another type`,
    )
  }
  const labelling = label === '' ? [] : [labelOption, label]
  return {
    program,
    fillsFile: true,
    argv: () => [file, ...flags, ...labelling, ...mkfsOptions, DISK_NAME],
  }
}

/** Throws RecipeError for a size in bytes that this recipe can make no disk of. Only a command can do without one. */
export function checkSize({ fillsFile }: PreparedRecipe, size: number): void {
  if (!Number.isSafeInteger(size) || size < (fillsFile ? 1 : 0)) {
    throw new RecipeError('size', `${size} bytes is no size for a disk`)
  }
}
