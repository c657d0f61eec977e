/** How options are shown: the same in `--help` of every command and program. */
import type { Option, OptionTable } from './options.ts'

const WIDTH = 80
const INDENT = 6

/** The options under their headings, as `--help` shows them. */
export function optionGroups(table: OptionTable): string[] {
  const byGroup = Map.groupBy(Object.entries(table), ([, option]) => option.group)
  return [...byGroup].map(
    ([title, options]) => `${title}:\n${options.map(([name, option]) => describe(name, option)).join('')}`,
  )
}

function describe(name: string, option: Option): string {
  const shown = shownDefault(option)
  const text = shown === undefined ? option.help : `${option.help} Default: ${shown}.`
  return `  ${synopsis(name, option)}\n${wrap(text)}`
}

/** How an option is written: `--size SIZE`, `--wait[=SECONDS]`, `-h, --help`. */
export function synopsis(name: string, option: Option): string {
  switch (option.kind) {
    case 'flag':
      return option.short === undefined ? `--${name}` : `-${option.short}, --${name}`
    case 'optional value':
      return `--${name}[=${option.placeholder}]`
    case 'text':
    case 'repeatable':
      return `--${name} ${option.placeholder}`
  }
}

/** What counts when the option is absent, as `--help` shows it. */
export function shownDefault(option: Option): string | undefined {
  if (option.kind === 'flag') return undefined
  return option.kind === 'text' && option.default !== undefined ? option.default : option.shownDefault
}

/** The text in lines of at most 80 columns, indented by 6. */
export function wrap(text: string): string {
  let lines = ''
  let line = ''
  for (const word of text.split(' ')) {
    if (line !== '' && INDENT + line.length + 1 + word.length > WIDTH) {
      lines += `${' '.repeat(INDENT)}${line}\n`
      line = word
    } else {
      line = line === '' ? word : `${line} ${word}`
    }
  }
  return `${lines}${' '.repeat(INDENT)}${line}\n`
}
