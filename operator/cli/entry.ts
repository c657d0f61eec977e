/** From the arguments of the program to its exit code. */
import '../../server/cli/first-signals.ts'
import { UsageError } from '../../server/cli/options.ts'
import { printable } from '../../server/cli/printable.ts'
import { requestedText } from './help.ts'

export type Commands = ReadonlyMap<string, (argv: readonly string[]) => Promise<void>>

/** Runs the command that the arguments name. Sets the exit code: 2 for what cannot be obeyed, 1 for what failed. */
export async function runCommand(commands: Commands, argv: readonly string[]): Promise<void> {
  try {
    const text = requestedText(argv)
    if (text !== undefined) {
      process.stdout.write(text)
      return
    }
    const [name, ...rest] = argv
    const command = commands.get(name ?? '')
    if (command === undefined) {
      const problem = name === undefined ? 'A command is missing' : `There is no command ${name}`
      throw new UsageError(`${problem}. Try ondemand-disk-operator --help.`)
    }
    await command(rest)
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    process.stderr.write(`ondemand-disk-operator: ${printable(message)}\n`)
    process.exitCode = error instanceof UsageError ? 2 : 1
  }
  // What a failed start has left running must not keep the program.
  setTimeout(() => process.exit(), 500).unref()
}
