/** Options that several commands have in common: those of the program itself. */
import { parseChoice } from './option-values.ts'

export const LOG_LEVELS = ['error', 'warn', 'info', 'debug'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]

/** Under which heading `--help` shows them. */
export const PROGRAM = 'Program'

export const LOG_LEVEL = {
  group: PROGRAM,
  kind: 'text',
  placeholder: 'LEVEL',
  help: `Least important lines to log: ${LOG_LEVELS.join(', ')}.`,
  default: 'info',
  parse: parseChoice(LOG_LEVELS),
} as const

export const HELP = { group: PROGRAM, kind: 'flag', short: 'h', help: 'Show this text.' } as const
export const VERSION = { group: PROGRAM, kind: 'flag', help: 'Show the version.' } as const
