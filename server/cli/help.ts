import packageJson from '../../package.json' with { type: 'json' }
import { MAKE_OPTIONS } from './make-options.ts'
import { optionGroups } from './option-help.ts'
import { hasFlag, type OptionTable } from './options.ts'
import { SERVE_OPTIONS } from './serve-option-table.ts'

const OVERVIEW = `Usage: ondemand-disk COMMAND [OPTION]...

Disks on demand over NBD: connecting to a name makes the disk.

Commands:
  serve        Serve disks. See ondemand-disk serve --help.
  make         Make one declared disk, and end. See ondemand-disk make --help.

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
          --listen 0.0.0.0:10809 --allow 192.168.7.0/24
  Give every connection a throw-away copy of a template:
      ondemand-disk serve --temporary --size 0 --var base=/srv/base.img \\
          --command 'cp --sparse=always "$base" "$disk"'
`

const MAKE_INTRODUCTION = `Usage: ondemand-disk make --dir DIR --manifest FILE [OPTION]...

Makes the disk that a manifest declares, if it is not there yet, and ends: a file
named by the object's metadata.uid. A crash at any moment leaves no disk or a
whole one, and a disk that is there is never touched. This is what the Jobs of
the operator run.

Exit code: 0 the disk is there; 1 it could not be made, trying again may help;
2 the options or the manifest cannot be obeyed, trying again will not help; 143
it was told to stop.
`

/**
 * What to print on standard output, and then exit with 0, if the arguments of the whole program ask for help
 * or the version, whatever else is wrong with them; undefined if they ask for neither.
 */
export function requestedText(argv: readonly string[]): string | undefined {
  const [first, ...rest] = argv
  if (first === 'serve' || first === 'make') {
    const table: OptionTable = first === 'serve' ? SERVE_OPTIONS : MAKE_OPTIONS
    if (hasFlag(table, rest, 'help')) return first === 'serve' ? serveHelp() : makeHelp()
    if (hasFlag(table, rest, 'version')) return versionText()
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
  return [SERVE_INTRODUCTION, ...optionGroups(SERVE_OPTIONS), SERVE_EXAMPLES].join('\n')
}

/** Text of `ondemand-disk make --help`, at most 80 columns wide. */
export function makeHelp(): string {
  return [MAKE_INTRODUCTION, ...optionGroups(MAKE_OPTIONS)].join('\n')
}
