import packageJson from '../../package.json' with { type: 'json' }
import { DISK_COMMANDS } from './disk-help.ts'
import { MAKE_OPTIONS } from './make-options.ts'
import { optionGroups } from './option-help.ts'
import { hasFlag, type OptionTable } from './options.ts'
import { SERVE_OPTIONS } from './serve-option-table.ts'

const OVERVIEW = `Usage: ondemand-disk COMMAND [OPTION]...

Disks on demand over NBD: connecting to a name makes the disk.

Commands:
  serve        Serve disks.
  make         Make one declared disk, and end.
  backends     List where the bytes of a disk may live.
  fuse         Present an image file or a disk as a file.
  attach       Make a disk a block device of this machine.
  detach       Take such a device away.
  grow         Let such a device grow with its disk.
  attached     List them.

Each has a text of its own: ondemand-disk COMMAND --help.

Options:
  -h, --help   Show this text.
  --version    Show the version.
`

const SERVE_INTRODUCTION = `Usage: ondemand-disk serve --dir DIR --size SIZE [OPTION]...
       ondemand-disk serve --temporary --size SIZE [OPTION]...

Serves disks over NBD. A client that connects to a name for which there is no
disk gets a new one, which stays until an administrator deletes its file.

SIZE is a number of bytes, alone or with K, M, G, T or P (powers of 1024).
TIME is a number of seconds, or one with ms, s, m or h.
`

const SERVE_EXAMPLES = `Examples:
  Make 1 GiB ext4 disks on demand, for this machine only:
      ondemand-disk serve --dir /srv/disks --size 1G
  Serve a network, and let clients ask for up to 20 GiB by name:20G:
      ondemand-disk serve --dir /srv/disks --size 4G --max-size 20G \\
          --listen '*:10809' --allow 192.168.7.0/24
  Give every connection a throw-away copy of a template:
      ondemand-disk serve --temporary --size 0 --var base=/srv/base.img \\
          --command 'cp --sparse=always "$base" "$disk"'
`

const MAKE_INTRODUCTION = `Usage: ondemand-disk make --dir DIR --manifest FILE [OPTION]...

Makes the disk that a manifest declares, if it is not there yet, and ends: a
file named by the object's metadata.uid. A crash at any moment leaves no disk or
a whole one, and a disk that is there is never touched. This is what the Jobs of
the operator run.

Exit code: 0 the disk is there; 1 it could not be made, trying again may help;
2 the options or the manifest cannot be obeyed, trying again will not help; 143
it was told to stop.
`

/** What `--help` says of a command that has a table of options. */
export interface CommandHelp {
  readonly introduction: string
  readonly options: OptionTable
  readonly examples?: string
}

/** What `--help` says of each command that has a table of options. */
const COMMANDS: ReadonlyMap<string, CommandHelp> = new Map<string, CommandHelp>([
  ['serve', { introduction: SERVE_INTRODUCTION, options: SERVE_OPTIONS, examples: SERVE_EXAMPLES }],
  ['make', { introduction: MAKE_INTRODUCTION, options: MAKE_OPTIONS }],
  ...Object.entries(DISK_COMMANDS),
])

/**
 * What to print on standard output, and then exit with 0, if the arguments of the whole program ask for help
 * or the version, whatever else is wrong with them; undefined if they ask for neither.
 */
export function requestedText(argv: readonly string[]): string | undefined {
  const [first = '', ...rest] = argv
  const command = COMMANDS.get(first)
  if (command !== undefined) {
    if (hasFlag(command.options, rest, 'help')) return commandHelp(first)
    if (hasFlag(command.options, rest, 'version')) return versionText()
    return undefined
  }
  if (first === '--help' || first === '-h') return OVERVIEW
  if (first === '--version') return versionText()
  return undefined
}

/** Text of `ondemand-disk --version`. */
export function versionText(): string {
  return `ondemand-disk ${packageJson.version}\n`
}

/** Text of `ondemand-disk serve --help`, at most 80 columns wide. */
export function serveHelp(): string {
  return commandHelp('serve')
}

/** Text of `ondemand-disk COMMAND --help` for a command that has a table of options. */
export function commandHelp(name: string): string {
  const command = COMMANDS.get(name)
  if (command === undefined) throw new RangeError(`${name} has no table of options.`)
  const { introduction, options, examples } = command
  const parts = [introduction, ...optionGroups(options)]
  return (examples === undefined ? parts : [...parts, examples]).join('\n')
}

/** Text of `ondemand-disk make --help`, at most 80 columns wide. */
export function makeHelp(): string {
  return commandHelp('make')
}
