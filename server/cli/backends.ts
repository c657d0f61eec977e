/** `ondemand-disk backends`: which backends there are, and their keys. */
import { BUILT_IN, type OptionBackend, type SettableBackend } from '../backends/built-in.ts'
import type { ConfigKeys } from '../backends/module-exports.ts'
import { findNamedBackend } from './named-backend.ts'
import { wrap } from './option-help.ts'
import { UsageError } from './options.ts'
import { bounded, printable } from './printable.ts'

const HELP = `Usage: ondemand-disk backends [BACKEND]

Lists the backends that come with the server, and the keys that each takes in
ondemand-disk serve --backend BACKEND KEY=VALUE. With the name of a backend, the
path of a module or the name of a package, describes that one: a module's code
is run.

Options:
  -h, --help   Show this text.
`

const MAX_DESCRIPTION = 2000

/**
 * Prints the list, or one backend.
 * @throws UsageError, and an error that says why a module cannot be used
 */
export async function backends(argv: readonly string[]): Promise<void> {
  process.stdout.write(await backendsText(argv))
}

/** What `ondemand-disk backends` prints. Throws as `backends`. */
export async function backendsText(argv: readonly string[]): Promise<string> {
  if (argv.includes('--help') || argv.includes('-h')) return HELP
  const option = argv.find(argument => argument.startsWith('-'))
  if (option !== undefined) {
    throw new UsageError(`Unknown option ${bounded(option, 80)}. See ondemand-disk backends --help.`)
  }
  const [name, ...others] = argv
  if (others.length > 0) throw new UsageError('Only one backend can be described at a time.')
  if (name !== undefined) return describeOne(name)
  return Object.entries(BUILT_IN)
    .map(([builtIn, backend]) => describeBuiltIn(builtIn, backend))
    .join('\n')
}

async function describeOne(specifier: string): Promise<string> {
  const builtIn = Object.hasOwn(BUILT_IN, specifier) ? BUILT_IN[specifier] : undefined
  if (builtIn !== undefined) return describeBuiltIn(specifier, builtIn)
  const { description, configKeys } = await findNamedBackend({ specifier, shown: specifier })
  return withKeys(specifier, description ?? 'A module without a description.', configKeys)
}

function describeBuiltIn(name: string, backend: SettableBackend | OptionBackend): string {
  if ('configKeys' in backend) return withKeys(name, backend.description, backend.configKeys)
  const options = backend.options.map(option => `--${option}`).join(', ')
  return `${heading(name, backend.description)}${wrap(`Options of ondemand-disk serve: ${options}.`)}`
}

function heading(name: string, description: string): string {
  return `${printable(name)}\n${wrap(shown(description))}`
}

function withKeys(name: string, description: string, keys: ConfigKeys): string {
  const described = Object.entries(keys).map(([key, { description: text, required }]) => {
    const needed = required ? ' Needed.' : ''
    return `  ${key}=VALUE\n${wrap(`${shown(text)}${needed}`)}`
  })
  return `${heading(name, description)}${described.join('')}`
}

const shown = (text: string) => printable(bounded(text.trim().replace(/\s+/g, ' '), MAX_DESCRIPTION))
