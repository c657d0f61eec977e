import { isatty } from 'node:tty'

/**
 * Imported before anything else. The kernel gives the first process of a container no signal that it has no handler for.
 * One that came while the program starts would be lost, and the Pod would wait out its grace period. Elsewhere the
 * kernel ends such a process by itself.
 */
const EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const

function endAtOnce(signal: NodeJS.Signals): void {
  process.exit(EXIT_CODES[signal as keyof typeof EXIT_CODES])
}

/**
 * The command answers the signal itself from now on. Not before its handler is there: with the last one Node would stop
 * to listen to the signal at all.
 */
function giveUp(event: string | symbol): void {
  if (event === 'SIGINT' || event === 'SIGTERM') process.nextTick(() => process.off(event, endAtOnce))
}

if (process.pid === 1) {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, endAtOnce)
  process.on('newListener', giveUp)
}

// Node would open its debugger, by which every user of the machine could have this program do anything.
process.on('SIGUSR1', () => undefined)
// Node forgets that `nohup` lets it be ignored. Who cannot type anything here has no terminal that has hung up.
if (!isatty(0)) process.on('SIGHUP', () => undefined)
