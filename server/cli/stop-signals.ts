import { isatty } from 'node:tty'

/** The signals that ask a command to end in order: also that its terminal has hung up, where it has one. */
export const STOP_SIGNALS: readonly NodeJS.Signals[] = isatty(0)
  ? ['SIGTERM', 'SIGINT', 'SIGHUP']
  : ['SIGTERM', 'SIGINT']
