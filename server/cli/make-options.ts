import { parseCount, parseDuration, parseText } from './option-values.ts'
import type { OptionTable } from './options.ts'
import { HELP, PROGRAM, VERSION } from './program-options.ts'

/** Most spares that are made in one go: the most that a pool can ask for. */
const MAX_SPARES = 100

const DISK = 'Disk'

/** The options of `ondemand-disk make`, in the order in which `--help` shows them. */
export const MAKE_OPTIONS = {
  dir: {
    group: DISK,
    kind: 'text',
    placeholder: 'DIR',
    help: 'Directory of the disks. It is made if only it is missing, not what it stands in.',
    parse: parseText,
  },
  manifest: {
    group: DISK,
    kind: 'text',
    placeholder: 'FILE',
    help: 'The OnDemandDisk object, YAML or JSON, with metadata.uid.',
    parse: parseText,
  },
  spares: {
    group: DISK,
    kind: 'text',
    placeholder: 'N',
    help: 'Make the disks UID-0 to UID-(N-1) in place of UID, as many as are missing.',
    parse: parseCount(1, MAX_SPARES),
  },
  'command-timeout': {
    group: DISK,
    kind: 'text',
    placeholder: 'TIME',
    help: 'How long mkfs or the command may take.',
    default: '10m',
    parse: parseDuration,
  },
  'message-file': {
    group: PROGRAM,
    kind: 'text',
    placeholder: 'FILE',
    help: 'Write the reason of a failure there, too, such as to /dev/termination-log.',
    parse: parseText,
  },
  help: HELP,
  version: VERSION,
} as const satisfies OptionTable
