/** The backends that come with the server, by the names under which `--backend` knows them. */
import { parseSize } from '../../crds/quantity.ts'
import type { Backend } from './backend.ts'
import { createMemoryBackend } from './memory/memory.ts'
import type { Config, ConfigKeys } from './module-exports.ts'

/** A backend that is made from settings. */
export interface SettableBackend {
  readonly description: string
  readonly configKeys: ConfigKeys
  create(config: Config): Backend
}

/** A backend for which the command line has options of its own. */
export interface OptionBackend {
  readonly description: string
  /** Names of the options of `serve` that choose it and set it up, the one that chooses it first. */
  readonly options: readonly string[]
}

const CONTENT_OPTIONS = ['type', 'label', 'mkfs-option', 'command', 'var', 'command-timeout']

export const BUILT_IN: Readonly<Record<string, SettableBackend | OptionBackend>> = {
  disks: {
    description: 'A directory of disks, each a file that is made when a client first asks for its name.',
    options: ['dir', 'size', 'max-size', ...CONTENT_OPTIONS, 'no-create', 'max-disks', 'names'],
  },
  forward: {
    description: 'The exports of another NBD server.',
    options: ['upstream', 'upstream-export', 'upstream-shared', 'upstream-retry'],
  },
  memory: {
    description:
      'One disk in memory, the same for all names and clients. It begins empty and is gone when the server stops.',
    configKeys: {
      size: {
        description: 'Size of the disk, such as 4G. Memory is used for what is written only.',
        required: true,
        parse: text => parseSize(text),
      },
    },
    create: ({ size }) => createMemoryBackend({ size: size as number }) as Backend,
  },
  temporary: {
    description: 'A fresh disk for every connection, which is gone when the connection ends.',
    options: ['temporary', 'size', 'max-size', 'dir', ...CONTENT_OPTIONS],
  },
}
