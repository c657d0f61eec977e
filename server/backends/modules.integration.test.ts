import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { LoadOrder, LoadResult } from './loading-process.ts'

// Modules are loaded by a plain Node.js: under the test runner, imports are the runner's own.

const REQUIRED = `
export const apiVersion = 1
export const open = () => 7
export const getSize = handle => handle * 512
export const pread = (_, target, start, length) => { target.fill(1, start, start + length) }
`
const required = (more: string) => REQUIRED + more
const without = (name: string) => REQUIRED.replace(new RegExp(`^export const ${name} .*$`, 'm'), '')

const KEYS = `
export const configKeys = {
  size: { description: 'How large.', required: true, parse: text => {
    if (!/^\\d+$/.test(text)) throw new Error(text + ' is no number')
    return Number(text)
  } },
  name: { description: 'What for.' },
}
let config
export const configure = given => { config = given }
export const open = () => config.name === 'x=y' ? config.size : -1
`
const configured = without('open') + KEYS

/** Files, what is asked of them, and the error, or the size of the disk that they make. */
const CASES: readonly [string, Record<string, string>, LoadOrder, string | number][] = [
  ['a module', { 'a.mjs': REQUIRED }, { specifier: './a.mjs', settings: [] }, 3584],
  [
    'a module in TypeScript',
    { 'a.ts': required('export const description: string = "x"') },
    { specifier: './a.ts', settings: [] },
    3584,
  ],
  ['a module without ./', { 'b.ts': REQUIRED }, { specifier: 'b.ts', settings: [] }, 3584],
  [
    'a module with a difficult name',
    { 'a #b%20?.ts': REQUIRED },
    { specifier: './a #b%20?.ts', settings: [] },
    3584,
  ],
  [
    'a module in the older format',
    {
      'a.cjs':
        'exports.__esModule = true; exports.apiVersion = 1; Object.assign(exports, { open: () => 2, getSize: h => h, pread() {} })',
    },
    { specifier: './a.cjs', settings: [] },
    2,
  ],
  [
    'a package beside the working directory',
    {
      'node_modules/disk-of-mine/package.json': '{"type":"module","exports":{"import":"./m.js"}}',
      'node_modules/disk-of-mine/m.js': REQUIRED,
    },
    { specifier: 'disk-of-mine', settings: [] },
    3584,
  ],
  ['settings', { 'c.mjs': configured }, { specifier: './c.mjs', settings: ['size=3', 'name=x=y'] }, 1536],
  ['a built-in backend', {}, { specifier: 'memory', settings: ['size=4G'] }, 2 ** 32],

  [
    'nothing of this path',
    {},
    { specifier: './gone.ts', settings: [] },
    'SettingError: There is no such file.',
  ],
  [
    'a path through a file',
    { f: '' },
    { specifier: './f/x.ts', settings: [] },
    'SettingError: There is no such file.',
  ],
  ['a directory', { 'd/x': '' }, { specifier: './d', settings: [] }, 'SettingError: It is not a file.'],
  [
    'nothing of this name',
    {},
    { specifier: 'nothing', settings: [] },
    'SettingError: There is no built-in backend and no package of this name. A file is named by its path, such as ./nothing.ts.',
  ],
  [
    'a misspelt name',
    {},
    { specifier: 'memroy', settings: [] },
    'SettingError: There is no built-in backend and no package of this name. Did you mean memory?',
  ],
  [
    'what is chosen by an option',
    {},
    { specifier: 'temporary', settings: [] },
    'SettingError: The backend temporary is chosen by --temporary and set up by options, not by --backend.',
  ],
  [
    'a syntax error in TypeScript',
    { 's.ts': 'export const a = 1\n\nexport const = 5\n' },
    { specifier: './s.ts', settings: [] },
    'ModuleError: It cannot be loaded: Syntax error in line 3: Unexpected token',
  ],
  [
    'a syntax error in JavaScript',
    { 's.mjs': 'export const = 5' },
    { specifier: './s.mjs', settings: [] },
    "ModuleError: It cannot be loaded: Syntax error: Unexpected token '='",
  ],
  [
    'what Node.js cannot strip',
    { 'e.ts': '\nenum A { B }\n' },
    { specifier: './e.ts', settings: [] },
    'ModuleError: It cannot be loaded: Syntax error in line 2: TypeScript enum is not supported in strip-only mode',
  ],
  [
    'a module that throws',
    { 't.mjs': 'throw new Error("boom\\nmore")' },
    { specifier: './t.mjs', settings: [] },
    'ModuleError: It cannot be loaded: boom',
  ],
  [
    'a module that throws nothing',
    { 'u.mjs': 'throw undefined' },
    { specifier: './u.mjs', settings: [] },
    /^ModuleError: It cannot be loaded: .*without a reason$/.source,
  ],
  [
    'a module that needs another',
    { 'n.mjs': "import 'not-there'" },
    { specifier: './n.mjs', settings: [] },
    "ModuleError: It cannot be loaded: Cannot find package 'not-there' imported from DIR/n.mjs",
  ],
  [
    'a package that needs another',
    { 'node_modules/broken/index.js': "require('not-there')" },
    { specifier: 'broken', settings: [] },
    "ModuleError: It cannot be loaded: Cannot find module 'not-there'",
  ],
  [
    'a package in TypeScript',
    { 'node_modules/typed/package.json': '{"exports":"./m.ts"}', 'node_modules/typed/m.ts': REQUIRED },
    { specifier: 'typed', settings: [] },
    'ModuleError: It cannot be loaded: Node.js does not run TypeScript from packages. Compile it to JavaScript.',
  ],
  [
    'no apiVersion',
    { 'v0.mjs': without('apiVersion') },
    { specifier: './v0.mjs', settings: [] },
    'ModuleError: It lacks apiVersion. Write: export const apiVersion = 1',
  ],
  [
    'a newer apiVersion',
    { 'v2.mjs': REQUIRED.replace('apiVersion = 1', 'apiVersion = 2') },
    { specifier: './v2.mjs', settings: [] },
    'ModuleError: It needs version 2 of the backend interface, but this server has version 1.',
  ],
  [
    'a strange apiVersion',
    { 'vx.mjs': REQUIRED.replace('apiVersion = 1', 'apiVersion = "1"') },
    { specifier: './vx.mjs', settings: [] },
    'ModuleError: Its apiVersion is "1", not a whole number from 1 on.',
  ],
  [
    'no pread',
    { 'p.mjs': without('pread') },
    { specifier: './p.mjs', settings: [] },
    'ModuleError: It lacks the function pread, which every backend has to export.',
  ],
  [
    'a callback that is no function',
    { 'f.mjs': required('export const flush = true') },
    { specifier: './f.mjs', settings: [] },
    'ModuleError: Its export flush is true, not a function.',
  ],
  [
    'a misspelt callback',
    { 'w.mjs': required('export const pwritee = () => {}') },
    { specifier: './w.mjs', settings: [] },
    'ModuleError: Its export "pwritee" is not part of the backend interface. Did you mean pwrite?',
  ],
  [
    'a foreign export',
    { 'x.mjs': required('export const banana = 1') },
    { specifier: './x.mjs', settings: [] },
    'ModuleError: Its export "banana" is not part of the backend interface. See docs/backends.md for those that are.',
  ],
  [
    'a default export',
    { 'dx.mjs': 'export default { apiVersion: 1 }' },
    { specifier: './dx.mjs', settings: [] },
    'ModuleError: It has a default export. A backend exports each function by its name.',
  ],
  [
    'a trim without a pwrite',
    { 'tr.mjs': required('export const trim = () => {}') },
    { specifier: './tr.mjs', settings: [] },
    'ModuleError: It exports trim, which is of no use without pwrite.',
  ],
  [
    'a canFlush without a flush',
    { 'cf.mjs': required('export const canFlush = () => true') },
    { specifier: './cf.mjs', settings: [] },
    'ModuleError: It exports canFlush, which is of no use without flush.',
  ],
  [
    'configKeys without configure',
    { 'k.mjs': required('export const configKeys = {}') },
    { specifier: './k.mjs', settings: [] },
    'ModuleError: It exports configKeys, which are of no use without configure.',
  ],
  [
    'a key without a description',
    { 'kd.mjs': required('export const configKeys = { a: {} }; export const configure = () => {}') },
    { specifier: './kd.mjs', settings: [] },
    'ModuleError: Its configKeys.a lacks a description.',
  ],
  [
    'a key that cannot be written',
    {
      'kn.mjs': required(
        'export const configKeys = { "a=b": { description: "" } }; export const configure = () => {}',
      ),
    },
    { specifier: './kn.mjs', settings: [] },
    'ModuleError: Its configKeys.a=b is not a possible key: letters, digits, _ and - with a letter first, at most 64.',
  ],

  [
    'an unknown key',
    { 'c1.mjs': configured },
    { specifier: './c1.mjs', settings: ['sized=3'] },
    'SettingError: There is no key "sized". Did you mean size?',
  ],
  [
    'a strange key',
    { 'c2.mjs': configured },
    { specifier: './c2.mjs', settings: ['constructor=3'] },
    'SettingError: There is no key "constructor". The keys are size, name.',
  ],
  [
    'a key where there are none',
    { 'c3.mjs': REQUIRED },
    { specifier: './c3.mjs', settings: ['size=3'] },
    'SettingError: There is no key "size". This backend has no keys.',
  ],
  [
    'a missing key',
    { 'c4.mjs': configured },
    { specifier: './c4.mjs', settings: ['name=a'] },
    'SettingError: The key size is missing: How large.',
  ],
  [
    'a key that is given twice',
    { 'c5.mjs': configured },
    { specifier: './c5.mjs', settings: ['size=3', 'size=3'] },
    'SettingError: The key size is given twice.',
  ],
  [
    'no key at all',
    { 'c6.mjs': configured },
    { specifier: './c6.mjs', settings: ['3'] },
    'SettingError: "3" is not KEY=VALUE.',
  ],
  [
    'an empty key',
    { 'c7.mjs': configured },
    { specifier: './c7.mjs', settings: ['=3'] },
    'SettingError: "=3" is not KEY=VALUE.',
  ],
  [
    'a bad value',
    { 'c8.mjs': configured },
    { specifier: './c8.mjs', settings: ['size=x'] },
    'SettingError: size: x is no number',
  ],
  [
    'a bad value for a built-in backend',
    {},
    { specifier: 'memory', settings: ['size=0'] },
    'SettingError: size: "0" is too small. Give a size of at least 1 byte.',
  ],
  [
    'a configure that fails',
    {
      'cx.mjs': required(
        'export const configKeys = {}; export const configure = async () => { throw new Error("no") }',
      ),
    },
    { specifier: './cx.mjs', settings: [] },
    'ModuleError: Its configure failed: no',
  ],
  [
    'an unload that fails',
    { 'ux.mjs': required('export const unload = async () => { throw new Error("no") }') },
    { specifier: './ux.mjs', settings: [] },
    "BackendError: The backend's unload failed: no",
  ],
  [
    'an unload that never ends',
    { 'un.mjs': required('export const unload = () => new Promise(() => {})') },
    { specifier: './un.mjs', settings: [] },
    'ModuleError: Its unload did not end within 1.5 s.',
  ],
]

let directory: string
let results: LoadResult[]

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'backend-modules-'))
  for (const [, files] of CASES) {
    for (const [name, text] of Object.entries(files)) {
      mkdirSync(dirname(join(directory, name)), { recursive: true })
      writeFileSync(join(directory, name), text)
    }
  }
  const script = join(import.meta.dirname, 'loading-process.ts')
  const orders = CASES.map(([, , order]) => order)
  const output = execFileSync(process.execPath, [script, JSON.stringify(orders)], {
    cwd: directory,
    encoding: 'utf8',
  })
  results = JSON.parse(output) as LoadResult[]
})

afterAll(() => {
  rmSync(directory, { recursive: true })
})

describe('What --backend names may be', () => {
  test.each(CASES.map(([name, , , expected], index) => [name, expected, index] as const))(
    '%s',
    (_, expected, index) => {
      const { error, size } = results[index] ?? {}
      const shown =
        error === undefined ? size : `${error.name}: ${error.message.replaceAll(directory, 'DIR')}`
      if (typeof expected === 'string' && expected.startsWith('^'))
        expect(shown).toMatch(new RegExp(expected))
      else if (typeof expected === 'string') expect(shown).toContain(expected)
      else expect(shown).toBe(expected)
    },
  )

  test('a message is one line', () => {
    for (const { error } of results) expect(error?.message ?? '').not.toContain('\n')
  })

  test('only foreign code is called foreign', () => {
    const foreign = results.map(result => result.foreign)
    expect(foreign.slice(0, 8)).toEqual([true, true, true, true, true, true, true, false])
  })
})
