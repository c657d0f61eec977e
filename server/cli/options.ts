import { parseArgs } from 'node:util'
import { quote } from '../../crds/quote.ts'
import { nearest } from './nearest.ts'
import { bounded, printable } from './printable.ts'

/** A command line that cannot be obeyed. The message is one line that names the option and the reason. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
  readonly code = 'EUSAGE'

  constructor(message: string, options?: ErrorOptions) {
    super(printable(message), options)
  }
}

interface Described {
  /** Heading of `--help` under which the option stands. */
  readonly group: string
  /** What the option does, for `--help`. */
  readonly help: string
  /** What follows and is no option is for this option. */
  readonly takesRest?: boolean
}

/** `--name`: present or not. */
export interface FlagOption extends Described {
  readonly kind: 'flag'
  /** One letter that means the same: `-h`. */
  readonly short?: string
}

/** `--name VALUE` or `--name=VALUE`, once. */
export interface TextOption extends Described {
  readonly kind: 'text'
  readonly placeholder: string
  /** Turns the text into the value; throws an error with a `code` whose message says what is wrong with it. */
  readonly parse: (text: string) => unknown
  /** The text that counts when the option is absent. It goes through `parse`, and `--help` shows it. */
  readonly default?: string
  /** For `--help` only, where what counts when the option is absent depends on the others. */
  readonly shownDefault?: string
}

/** `--name` or `--name=VALUE`, once. The value never comes as an argument of its own. */
export interface OptionalValueOption extends Described {
  readonly kind: 'optional value'
  readonly placeholder: string
  /** As in `TextOption`; undefined stands for `--name` alone. */
  readonly parse: (text: string | undefined) => unknown
  readonly shownDefault?: string
}

/** `--name VALUE`, any number of times. */
export interface RepeatableOption extends Described {
  readonly kind: 'repeatable'
  readonly placeholder: string
  readonly parse: (text: string) => unknown
  readonly shownDefault?: string
}

export type Option = FlagOption | TextOption | OptionalValueOption | RepeatableOption

/** The options of a command: the name without its dashes, and what it means. */
export type OptionTable = Readonly<Record<string, Option>>

type Value<O> = O extends FlagOption
  ? boolean
  : O extends RepeatableOption
    ? readonly ReturnType<O['parse']>[]
    : O extends TextOption & { readonly default: string }
      ? ReturnType<O['parse']>
      : O extends TextOption | OptionalValueOption
        ? ReturnType<O['parse']> | undefined
        : never

/** The parsed value of every option of a table. Absent: false for a flag, an empty list, else undefined. */
export type Parsed<Table extends OptionTable> = { readonly [Name in keyof Table]: Value<Table[Name]> }

/** Under this key stand the operands, or the arguments that belong to an option with `takesRest`. */
export const REST: unique symbol = Symbol('rest')

/**
 * Parses the arguments of a command that takes options, and others behind an option that wants them, or as many
 * as `operands` names.
 *
 * `--name VALUE` accepts a value with one leading dash (`--size -1` is a bad size, not a missing one). One
 * that begins with two goes after `=`, so that a forgotten value does not swallow the next option.
 * @throws UsageError
 */
export function parseOptions<const Table extends OptionTable>(
  table: Table,
  argv: readonly string[],
  operands: readonly string[] = [],
): Parsed<Table> & { readonly [REST]: readonly string[] } {
  const values: Record<string, unknown> = {}
  const lists = new Map<string, unknown[]>()
  for (const [name, option] of Object.entries(table)) {
    if (option.kind === 'flag') values[name] = false
    if (option.kind === 'text' && option.default !== undefined) values[name] = option.parse(option.default)
    if (option.kind === 'repeatable') {
      const list: unknown[] = []
      lists.set(name, list)
      values[name] = list
    }
  }

  const given = new Set<string>()
  const rest: string[] = []
  const takers = new Set(Object.keys(table).filter(name => table[name]?.takesRest))
  let previous: string | undefined
  for (const token of tokensOf(table, argv)) {
    if (token.kind === 'option-terminator') continue
    if (token.kind === 'positional') {
      if (operands.length > 0 && rest.length === operands.length) {
        throw new UsageError(`Unexpected argument ${quote(token.value)} after ${operands.join(' and ')}.`)
      }
      if (operands.length === 0 && takers.isDisjointFrom(given)) {
        throw unexpectedArgument(table, token.value, previous)
      }
      rest.push(token.value)
      continue
    }
    const { name } = token
    const option = Object.hasOwn(table, name) ? table[name] : undefined
    if (option === undefined) throw unknownOption(table, argv[token.index] ?? token.rawName)
    if (given.has(name) && option.kind !== 'repeatable') throw new UsageError(`--${name} is given twice.`)
    given.add(name)
    previous = name

    switch (option.kind) {
      case 'flag':
        if (token.value !== undefined) {
          throw new UsageError(`--${name} takes no value, but is given ${quote(token.value)}.`)
        }
        values[name] = true
        break
      case 'optional value':
        values[name] = parseValue(name, token.value, option.parse)
        break
      case 'text':
        values[name] = parseValue(name, textOf(option, token), option.parse)
        break
      case 'repeatable':
        lists.get(name)?.push(parseValue(name, textOf(option, token), option.parse))
        break
    }
  }
  const missing = operands[rest.length]
  if (missing !== undefined) throw new UsageError(`${missing} is missing.`)
  // Not among the options' own names, and not in what is compared or printed.
  return Object.defineProperty(values, REST, { value: rest }) as ReturnType<typeof parseOptions<Table>>
}

/** Whether a flag such as `help` stands among the arguments, whatever is wrong with the others. */
export function hasFlag(table: OptionTable, argv: readonly string[], name: string): boolean {
  return tokensOf(table, argv).some(token => token.kind === 'option' && token.name === name)
}

function tokensOf(table: OptionTable, argv: readonly string[]) {
  const options: Record<string, { type: 'boolean' | 'string'; short?: string }> = {}
  for (const [name, option] of Object.entries(table)) {
    const takesNext = option.kind === 'text' || option.kind === 'repeatable'
    options[name] = {
      type: takesNext ? 'string' : 'boolean',
      ...(option.kind === 'flag' && option.short !== undefined && { short: option.short }),
    }
  }
  return parseArgs({ args: [...argv], options, strict: false, allowPositionals: true, tokens: true }).tokens
}

interface OptionToken {
  readonly name: string
  readonly value?: string | undefined
  readonly inlineValue?: boolean | undefined
}

function textOf(option: TextOption | RepeatableOption, { name, value, inlineValue }: OptionToken): string {
  if (value === undefined) throw new UsageError(`--${name} needs a value: --${name} ${option.placeholder}.`)
  if (inlineValue === false && value.startsWith('--')) {
    throw new UsageError(
      `--${name} needs a value, but ${quote(value)} follows. ` +
        `If that is the value, write --${name}=${option.placeholder}.`,
    )
  }
  return value
}

const MAX_REASON = 400

function parseValue<Text>(name: string, text: Text, parse: (text: Text) => unknown): unknown {
  try {
    return parse(text)
  } catch (error) {
    // Every error that a value can cause carries a code; anything else is a defect and must not pass as one.
    if (!(error instanceof Error && 'code' in error)) throw error
    throw new UsageError(`--${name}: ${bounded(error.message, MAX_REASON)}`, { cause: error })
  }
}

function unexpectedArgument(table: OptionTable, argument: string, previous: string | undefined): UsageError {
  const option = previous === undefined ? undefined : table[previous]
  const hint =
    option?.kind === 'optional value'
      ? `The value of --${previous} goes after an equals sign: --${previous}=${option.placeholder}.`
      : 'Only options are expected here.'
  return new UsageError(`Unexpected argument ${quote(argument)}. ${hint}`)
}

function unknownOption(table: OptionTable, argument: string): UsageError {
  const [dashed = ''] = argument.split('=', 1)
  const near = nearest(dashed.replace(/^-+/, ''), Object.keys(table))
  const hint = near === undefined ? 'See --help for the options.' : `Did you mean --${near}?`
  return new UsageError(`Unknown option ${bounded(dashed, 80)}. ${hint}`)
}
