import { parseChoice, parseDuration } from './option-values.ts'
import type { OptionTable } from './options.ts'
import { HELP, LOG_LEVEL, VERSION } from './program-options.ts'

const FILE = 'File'
const DEVICE = 'Device'
const SERVER = 'Server'

const ALLOW_OTHER = ['on', 'off', 'auto'] as const

const DEAD_AFTER = {
  group: SERVER,
  kind: 'text',
  placeholder: 'TIME',
  help: 'Answer by errors once the NBD server has been away for so long. Until then everything waits for it.',
  shownDefault: 'never',
  parse: parseDuration,
} as const

/** The options of `ondemand-disk fuse`, in the order in which `--help` shows them. */
export const FUSE_OPTIONS = {
  writable: { group: FILE, kind: 'flag', help: 'Allow writing. Without it the file can only be read.' },
  growable: {
    group: FILE,
    kind: 'flag',
    help: 'Let writes behind the end make the image longer. Without it they are cut short there. Needs --writable.',
  },
  'allow-other': {
    group: FILE,
    kind: 'optional value',
    placeholder: 'MODE',
    help: `Let other users have access, as far as the mode of the file says: ${ALLOW_OTHER.join(', ')}. Without MODE it means on; auto means where the system allows it.`,
    shownDefault: 'off',
    parse: (text: string | undefined) => (text === undefined ? 'on' : parseChoice(ALLOW_OTHER)(text)),
  },
  'dead-after': DEAD_AFTER,
  'log-level': LOG_LEVEL,
  help: HELP,
  version: VERSION,
} as const satisfies OptionTable

/** How a disk can be attached. */
export const WAYS = ['nbd', 'fuse'] as const

/** The options of `ondemand-disk attach`. */
export const ATTACH_OPTIONS = {
  via: {
    group: DEVICE,
    kind: 'text',
    placeholder: 'WAY',
    help: `How the disk becomes a device: nbd, by the kernel's own driver, or fuse, by a file and a loop device.`,
    shownDefault: 'nbd where the kernel has it, else fuse',
    parse: parseChoice(WAYS),
  },
  'read-only': { group: DEVICE, kind: 'flag', help: 'Make a device that can only be read.' },
  watch: {
    group: DEVICE,
    kind: 'flag',
    help: 'Stay, and connect a device of the NBD driver again whenever its server was lost. The device does not need it otherwise, and stays when it ends. One of FUSE does so by itself.',
  },
  'dead-after': DEAD_AFTER,
  help: HELP,
  version: VERSION,
} as const satisfies OptionTable

/** The options of `ondemand-disk detach`. */
export const DETACH_OPTIONS = {
  lazy: {
    group: DEVICE,
    kind: 'flag',
    help: 'Take away also a device that is in use: it goes when its last user does.',
  },
  help: HELP,
  version: VERSION,
} as const satisfies OptionTable

/** The options of `ondemand-disk grow`. */
export const GROW_OPTIONS = {
  'dead-after': {
    ...DEAD_AFTER,
    help: 'What the disk was attached with; a device of the NBD driver has it from now on.',
  },
  help: HELP,
  version: VERSION,
} as const satisfies OptionTable

/** The options of `ondemand-disk attached`. */
export const ATTACHED_OPTIONS = {
  help: HELP,
  version: VERSION,
} as const satisfies OptionTable
