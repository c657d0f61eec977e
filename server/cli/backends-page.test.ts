import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { API_VERSION, PENDING } from '../backends/backend.ts'
import { MAX_UNANSWERED } from '../backends/layer/answers.ts'
import { NO_MAXIMUM } from '../backends/layer/capabilities.ts'
import { ZERO_PIECE } from '../backends/layer/operations.ts'
import { DEFAULT_LIMITS } from '../backends/layer.ts'
import { CALLBACKS } from '../backends/module-exports.ts'
import { CONFIGURE_LIMIT_MS, LOAD_LIMIT_MS, UNLOAD_LIMIT_MS } from '../backends/modules.ts'
import { wireErrno } from '../protocol/transmission.ts'

const PAGE = readFileSync(`${import.meta.dirname}/../../docs/backends.md`, 'utf8')
const INTERFACE = readFileSync(`${import.meta.dirname}/../backends/backend.ts`, 'utf8')

/** Callbacks with their parameters, as the tables of the page have them. */
const described = [...PAGE.matchAll(/^\| `(\w+)\(([^)]*)\)` \|/gm)].map(([, name = '', parameters = '']) => ({
  name,
  parameters: parameters.split(', ').filter(parameter => parameter !== ''),
}))

test('docs/backends.md describes the callbacks of the interface', () => {
  expect(described.map(({ name }) => name).sort()).toEqual(Object.keys(CALLBACKS).sort())
})

test('docs/backends.md names the parameters as the interface does', () => {
  const [, body = ''] = /^export interface Backend<[^\n]*\n(.*?)^}/ms.exec(INTERFACE) ?? []
  const declared = [...body.matchAll(/^ {2}(\w+)\??\(([^)]*)\):/gm)].map(
    ([, name = '', parameters = '']) => ({
      name,
      parameters: [...parameters.matchAll(/(\w+)\??:/g)].map(([, parameter]) => parameter),
    }),
  )
  expect(declared.length).toBeGreaterThan(20)
  for (const callback of declared) expect(described).toContainEqual(callback)
})

test('docs/backends.md says which callbacks are needed', () => {
  const needed = [...PAGE.matchAll(/^\| `(\w+)\(.*\| needed \|$/gm)].map(([, name]) => name)
  const required = Object.entries(CALLBACKS).filter(([, rule]) => rule.required)
  expect(needed).toEqual(required.map(([name]) => name))
})

test('docs/backends.md maps error codes as the wire does', () => {
  const [, table = ''] = /^\| `code` \|.*\n((?:\|.*\n)+)/m.exec(PAGE) ?? []
  const rows = [...table.matchAll(/^\| (`E.*?) \| (`\w+`)/gm)]
  expect(rows.length).toBeGreaterThan(4)
  for (const [, codes = '', onWire = ''] of rows) {
    for (const code of codes.split(', ')) {
      expect(wireErrno(code.replaceAll('`', ''))).toBe(wireErrno(onWire.replaceAll('`', '')))
    }
  }
  expect(wireErrno('ENOENT')).toBe(wireErrno('EIO'))
})

test('docs/backends.md tells the figures that the code has', () => {
  const seconds = (ms: number) => `${ms / 1000} s`
  expect(PAGE).toContain(`\`apiVersion\` | Needed. The version of this interface, \`${API_VERSION}\``)
  expect(PAGE).toContain(`| loading the module | ${seconds(LOAD_LIMIT_MS)} |`)
  expect(PAGE).toContain(`| \`configure\` | ${seconds(CONFIGURE_LIMIT_MS)} |`)
  expect(PAGE).toContain(`| \`unload\` | ${seconds(UNLOAD_LIMIT_MS)} |`)
  expect(PAGE).toContain(`| \`close\` | ${seconds(DEFAULT_LIMITS.closeMs)} |`)
  expect(PAGE).toMatch(new RegExp(`\\| \`getSize\`, .* \\| ${seconds(DEFAULT_LIMITS.answerMs)} \\|`))
  expect(PAGE).toMatch(new RegExp(`\\| operations .* left \\| ${seconds(DEFAULT_LIMITS.leaveMs)} \\|`))
  expect(PAGE).toContain(`more than ${MAX_UNANSWERED} answers`)
  expect(PAGE).toContain(`zeroes are written, ${ZERO_PIECE / 1024} KiB at a time`)
  expect(PAGE).toContain(`Symbol.for('${Symbol.keyFor(PENDING)}')`)
  expect(PAGE).toContain(`any size will do: 1, 4096, ${NO_MAXIMUM} |`)
})
