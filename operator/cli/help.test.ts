import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import packageJson from '../../package.json' with { type: 'json' }
import { shownDefault, synopsis } from '../../server/cli/option-help.ts'
import type { Option } from '../../server/cli/options.ts'
import { COMMAND_OPTIONS, requestedText } from './help.ts'

const MANUAL = readFileSync(`${import.meta.dirname}/../../docs/operator-cli.md`, 'utf8')
const VERSION = `ondemand-disk-operator ${packageJson.version}\n`
const SECTIONS = MANUAL.split(/^## /m)
const plain = (text: string) => text.replaceAll('`', '').replace(/\s+/g, ' ').toLowerCase()

describe.each(Object.entries(COMMAND_OPTIONS))(
  '%s: --help, the table and docs/operator-cli.md',
  (name, { table }) => {
    const help = requestedText([name, '--help']) ?? ''
    const rows: readonly [string, Option][] = Object.entries(table)
    const synopses = rows.map(([option, described]) => synopsis(option, described))
    const section = SECTIONS.find(text => text.startsWith(`\`${name}\``)) ?? ''

    test('list the same options in the same order, under the same headings', () => {
      expect([...help.matchAll(/^ {2}(-.*)$/gm)].map(([, text]) => text)).toEqual(synopses)
      expect([...section.matchAll(/^#### `(.*)`$/gm)].map(([, text]) => text)).toEqual(synopses)
      const groups = [...new Set(rows.map(([, option]) => option.group))]
      expect([...help.matchAll(/^(\w+):$/gm)].map(([, title]) => title)).toEqual(groups)
      expect([...section.matchAll(/^### (.*)$/gm)].map(([, title]) => title)).toEqual(groups)
    })

    test('say the same default', () => {
      for (const [option, described] of rows) {
        const text = plain(
          section.split(/^#{3,4} /m).find(part => part.startsWith(`\`${synopsis(option, described)}\``)) ??
            '',
        )
        const expected = shownDefault(described)
        if (expected === undefined) expect(text, option).not.toContain('default:')
        else expect(text, option).toContain(`default: ${plain(expected)}`)
      }
    })

    test('mention no option that does not exist', () => {
      for (const [text, known] of [
        [help, rows.map(([option]) => option)],
        [section, rows.map(([option]) => option)],
      ] as const) {
        const mentioned = [...text.matchAll(/(?<![\w-])--([a-z][a-z-]*[a-z])/g)].map(([, option]) => option)
        expect(known).toEqual(expect.arrayContaining([...new Set(mentioned)]))
      }
    })

    test('no line of the help is longer than 80 columns or ends in a blank', () => {
      for (const line of help.split('\n')) {
        expect(line.length).toBeLessThanOrEqual(80)
        expect(line).not.toMatch(/\s$/)
      }
    })

    test('the version is told', () => {
      expect(requestedText([name, '--bogus', '--version'])).toBe(VERSION)
    })
  },
)

test('help without a command names the commands', () => {
  for (const name of Object.keys(COMMAND_OPTIONS)) expect(requestedText(['--help'])).toContain(`\n  ${name} `)
  expect(requestedText(['-h'])).toBe(requestedText(['--help']))
  expect(requestedText(['--version'])).toBe(VERSION)
})

test.each([[[]], [['run']], [['constructor', '--help']], [['run', '--image', '--help']], [['x', '--help']]])(
  '%j asks for no text',
  argv => {
    expect(requestedText(argv)).toBeUndefined()
  },
)

test.each([
  [[], 'A command is missing. Try ondemand-disk-operator --help.'],
  [['fly\x1b[2J'], 'There is no command fly\\x1b[2J. Try ondemand-disk-operator --help.'],
])('%j is refused with one line and exit code 2', (argv, message) => {
  const main = `${import.meta.dirname}/../main.ts`
  try {
    execFileSync(process.execPath, [main, ...argv], { encoding: 'utf8', stdio: 'pipe' })
    expect.unreachable('it was obeyed')
  } catch (error) {
    const { status, stderr, stdout } = error as { status: number; stderr: string; stdout: string }
    expect({ status, stderr, stdout }).toEqual({
      status: 2,
      stderr: `ondemand-disk-operator: ${message}\n`,
      stdout: '',
    })
  }
})
