#!/usr/bin/env node
import './cli/thread-pool.ts'
import { backends } from './cli/backends.ts'
import { fuse } from './cli/fuse.ts'
import { requestedText } from './cli/help.ts'
import { make, StoppedError } from './cli/make.ts'
import { UsageError } from './cli/options.ts'
import { printable } from './cli/printable.ts'
import { serve } from './cli/serve.ts'

/** Commands of the program. */
const COMMANDS: ReadonlyMap<string, (argv: readonly string[]) => Promise<void>> = new Map([
  ['serve', (argv: readonly string[]) => serve(argv)],
  ['make', (argv: readonly string[]) => make(argv)],
  ['backends', backends],
  ['fuse', fuse],
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

try {
  await run(process.argv.slice(2))
} catch (error) {
  const message = error instanceof Error ? error.message : String(error)
  process.stderr.write(`ondemand-disk: ${printable(message)}\n`)
  process.exitCode = error instanceof UsageError ? 2 : error instanceof StoppedError ? 143 : 1
}
// What a backend's module has left running must not keep a server that has stopped.
setTimeout(() => process.exit(), 500).unref()
