#!/usr/bin/env -S node --max-semi-space-size=2
// The young generation would grow to 48 MB and more, which idle connections keep; with 2 new ones take no more time.
import './cli/thread-pool.ts'
import './cli/first-signals.ts'
import './cli/standard-output.ts'
import { requestedText } from './cli/help.ts'
import { UsageError } from './cli/options.ts'
import { printable } from './cli/printable.ts'

type Command = (argv: readonly string[]) => Promise<void>

/** Commands of the program. Each is loaded when it is asked for: a small one shall begin at once. */
const COMMANDS: ReadonlyMap<string, Command> = new Map<string, Command>([
  ['serve', async argv => (await import('./cli/serve.ts')).serve(argv)],
  ['make', async argv => (await import('./cli/make.ts')).make(argv)],
  ['backends', async argv => (await import('./cli/backends.ts')).backends(argv)],
  ['fuse', async argv => (await import('./cli/fuse.ts')).fuse(argv)],
  ['attach', async argv => (await import('./cli/attach.ts')).attach(argv)],
  ['detach', async argv => (await import('./cli/attach.ts')).detach(argv)],
  ['grow', async argv => (await import('./cli/attach.ts')).grow(argv)],
  ['attached', async argv => (await import('./cli/attach.ts')).attached(argv)],
])

async function run(argv: readonly string[]): Promise<void> {
  const text = requestedText(argv)
  if (text !== undefined) {
    process.stdout.write(text)
    return
  }
  const [name, ...rest] = argv
  const command = COMMANDS.get(name ?? '')
  if (command === undefined) {
    throw new UsageError(
      `${name === undefined ? 'A command is missing' : `There is no command ${name}`}. Try ondemand-disk --help.`,
    )
  }
  await command(rest)
}

/** By the names of errors: their modules are loaded with the commands that throw them. */
const EXIT_CODES: Readonly<Record<string, number>> = { UriError: 2, StoppedError: 143 }

function exitCodeOf(error: unknown): number {
  if (error instanceof UsageError) return 2
  return (error instanceof Error ? EXIT_CODES[error.name] : undefined) ?? 1
}

try {
  await run(process.argv.slice(2))
} catch (error) {
  const message = error instanceof Error ? error.message : String(error)
  // The exit code says it also to who cannot be told.
  process.stderr.on('error', () => undefined)
  process.stderr.write(`ondemand-disk: ${printable(message)}\n`)
  process.exitCode = exitCodeOf(error)
}
// What a backend's module has left running must not keep a server that has stopped.
setTimeout(() => process.exit(), 500).unref()
