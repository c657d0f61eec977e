import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import packageJson from '../../package.json' with { type: 'json' }
import { DISK_COMMANDS } from './disk-help.ts'
import { commandHelp, makeHelp, requestedText, serveHelp } from './help.ts'
import { MAKE_OPTIONS } from './make-options.ts'
import { shownDefault, synopsis } from './option-help.ts'
import type { Option } from './options.ts'
import { SERVE_OPTIONS } from './serve-option-table.ts'
import { parseServeOptions } from './serve-options.ts'

const HELP = serveHelp()
const MANUAL = readFileSync(`${import.meta.dirname}/../../docs/cli.md`, 'utf8')
const ROWS: readonly [string, Option][] = Object.entries(SERVE_OPTIONS)
const SYNOPSES = ROWS.map(([name, option]) => synopsis(name, option))

describe('--help, the table and docs/cli.md', () => {
  test('--help lists the options of the table, in its order', () => {
    const listed = [...HELP.matchAll(/^ {2}(-.*)$/gm)].map(([, text]) => text)
    expect(listed).toEqual(SYNOPSES)
  })

  test('docs/cli.md lists the options of the table, in its order', () => {
    const listed = [...MANUAL.matchAll(/^#### `(.*)`$/gm)].map(([, text]) => text)
    expect(listed).toEqual(SYNOPSES)
  })

  test.each([
    ['--help', HELP],
    ['docs/cli.md', MANUAL],
  ])('%s mentions no option that does not exist', (_, text) => {
    const mentioned = new Set([...text.matchAll(/(?<![\w-])--([a-z][a-z-]*[a-z])/g)].map(([, name]) => name))
    // An option of cp in an example.
    mentioned.delete('sparse')
    expect([...mentioned].sort()).toEqual(ROWS.map(([name]) => name).sort())
  })

  test('both say the same default', () => {
    const sections = MANUAL.split(/^#{2,4} /m)
    for (const [name, option] of ROWS) {
      const section = sections.find(text => text.startsWith(`\`${synopsis(name, option)}\``)) ?? ''
      const plain = section.replaceAll('`', '').replace(/\s+/g, ' ').toLowerCase()
      const expected = shownDefault(option)
      if (expected === undefined) expect(plain).not.toContain('default:')
      else expect(plain).toContain(`default: ${expected.toLowerCase()}`)
    }
  })

  test('both group the options alike', () => {
    const groups = [...new Set(ROWS.map(([, option]) => option.group))]
    const inHelp = [...HELP.matchAll(/^(\w+):$/gm)].map(([, title]) => title)
    expect(inHelp).toEqual([...groups, 'Examples'])
    const inManual = [...MANUAL.matchAll(/^### (.*)$/gm)].map(([, title]) => title)
    expect(inManual).toEqual(groups)
  })
})

describe('the other commands that have a table, and docs/fuse.md', () => {
  const manual = readFileSync(`${import.meta.dirname}/../../docs/fuse.md`, 'utf8')
  const sections = manual.split(/^## /m)

  test.each(Object.entries(DISK_COMMANDS))(
    '%s: both list the options of the table, in its order',
    (name, { options }) => {
      const synopses = Object.entries<Option>(options).map(([option, described]) =>
        synopsis(option, described),
      )
      const help = commandHelp(name)
      expect([...help.matchAll(/^ {2}(-.*)$/gm)].map(([, text]) => text)).toEqual(synopses)
      const section = sections.find(text => text.startsWith(`\`ondemand-disk ${name}`)) ?? ''
      expect([...section.matchAll(/^- `(--?[^`]*)`/gm)].map(([, text]) => text)).toEqual(synopses)
      for (const line of help.split('\n')) expect(line.length).toBeLessThanOrEqual(80)
    },
  )
})

describe('examples', () => {
  test.each([
    ['--help', HELP],
    ['docs/cli.md', MANUAL],
  ])('those of %s are accepted', (_, text) => {
    const [, examples = ''] = text.split(/^(?:## )?Examples:?$/m)
    const commands = examples.match(/^ +ondemand-disk serve (?:.*\\\n)*.*$/gm) ?? []
    expect(commands.length).toBeGreaterThan(2)
    for (const command of commands) {
      const script = command.replace(/^ +ondemand-disk serve/, "printf '%s\\0'")
      const argv = spawnSync('sh', ['-c', script], { encoding: 'utf8' }).stdout.split('\0').slice(0, -1)
      expect(argv.length).toBeGreaterThan(2)
      expect(parseServeOptions(argv)).toBeDefined()
    }
  })
})

describe('layout', () => {
  test.each([[HELP], [makeHelp()]])('no line is longer than 80 columns or ends in a blank', help => {
    for (const line of help.split('\n')) {
      expect(line.length).toBeLessThanOrEqual(80)
      expect(line).not.toMatch(/\s$/)
    }
    expect(help).toMatch(/[^\n]\n$/)
  })
})

test('make --help, its table and docs/make.md list the same options', () => {
  const table = Object.entries(MAKE_OPTIONS).map(([name, option]) => synopsis(name, option))
  expect([...makeHelp().matchAll(/^ {2}(-.*)$/gm)].map(([, text]) => text)).toEqual(table)
  const page = readFileSync(`${import.meta.dirname}/../../docs/make.md`, 'utf8')
  expect([...page.matchAll(/^\| `(-.*?)` \|/gm)].map(([, text]) => text)).toEqual(table)
})

describe('what is asked for', () => {
  const version = `ondemand-disk ${packageJson.version}\n`

  test.each([
    [['--version'], version],
    [['serve', '--version'], version],
    [['serve', '--help'], HELP],
    [['serve', '-h'], HELP],
    [['make', '--help'], makeHelp()],
    [['make', '--version'], version],
    [['serve', '--bogus', '--size', '1X', '--help', 'x'], HELP],
  ])('%j', (argv, expected) => {
    expect(requestedText(argv)).toBe(expected)
  })

  test('help without a command names the commands', () => {
    expect(requestedText(['--help'])).toMatch(/^Usage: ondemand-disk COMMAND.*^ {2}serve .*^ {2}make /ms)
    expect(requestedText(['-h'])).toBe(requestedText(['--help']))
  })

  test.each([
    [[]],
    [['serve']],
    [['serve', '--', '--help']],
    [['serve', '--label', '--help']],
    [['backends', '--help']],
    [['x']],
  ])('%j asks for no text', argv => {
    expect(requestedText(argv)).toBeUndefined()
  })
})
