import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  defaultExports,
  folderCycles,
  forbiddenImports,
  importsOf,
  layerRules,
  longFiles,
  registryNames,
  resolvedPackages,
  type SourceFile,
  strayNames,
} from './layout.ts'

const root = join(import.meta.dirname, '..')

/** Files that are in the repository or would be with the next `git add`, also where another user owns it. */
function repositoryFiles(): SourceFile[] {
  const list = ['ls-files', '-z', '--cached', '--others', '--exclude-standard']
  return execFileSync('git', ['-c', 'safe.directory=*', ...list], { cwd: root, encoding: 'utf8' })
    .split('\0')
    .filter(path => path !== '' && existsSync(join(root, path)))
    .map(path => ({ path, text: readFileSync(join(root, path), 'utf8') }))
}

describe('This repository', () => {
  const files = repositoryFiles()
  const rules = layerRules(readFileSync(join(root, 'docs/architecture.md'), 'utf8'))

  test('has a table of folders in docs/architecture.md', () => {
    expect(rules.length).toBeGreaterThan(8)
    expect(rules).toContainEqual({
      folder: 'server/backends',
      mayImport: ['server/client', 'server/linux', 'crds'],
    })
  })

  test.for([
    ['imports only along the table', () => forbiddenImports(files, rules)],
    [
      'has no folders that import in a circle',
      () =>
        folderCycles(
          files,
          rules.map(rule => rule.folder),
        ),
    ],
    ['has no source file of more than 400 lines', () => longFiles(files)],
    ['has no default exports', () => defaultExports(files)],
    ['names no host of a package registry', () => registryNames(files)],
    ['has lock files without download addresses', () => resolvedPackages(files)],
    ['has only known names at its top', () => strayNames(files)],
  ] as const)('%s', ([, broken]) => {
    expect(broken()).toEqual([])
  })
})

const table = `
| folder | the one idea | may import from |
|---|---|---|
| \`crds/\` | the API | – |
| \`server/linux/\` | calls | – |
| \`server/disks/\`, \`server/memory/\` | bytes | \`linux\`, \`crds\` |
| \`server/cli/\` | options | all of the above |
| \`e2e/\` | tests | the command line only |
| \`e2e/deep/\` | tests | \`e2e\`, \`crds\` |

| name | other | table |
|---|---|---|
| \`nothing/\` | | \`of it\` |
`

describe('The table of folders', () => {
  test('is read from the page', () => {
    expect(layerRules(table)).toEqual([
      { folder: 'crds', mayImport: [] },
      { folder: 'server/linux', mayImport: [] },
      { folder: 'server/disks', mayImport: ['server/linux', 'crds'] },
      { folder: 'server/memory', mayImport: ['server/linux', 'crds'] },
      { folder: 'server/cli', mayImport: ['crds', 'server/linux', 'server/disks', 'server/memory'] },
      { folder: 'e2e', mayImport: [] },
      { folder: 'e2e/deep', mayImport: ['e2e', 'crds'] },
    ])
  })

  test('may only point upwards', () => {
    expect(() => layerRules(table.replace('the command line only', '`e2e`'))).toThrow('not an earlier row')
    expect(() => layerRules(table.replace('`linux`, `crds`', '`cli`'))).toThrow('server/cli')
  })
})

test('Imports are found in every form, and only there', () => {
  // Joined here, so that this very text is not taken for imports of this file.
  const text = [
    `import`,
    ` { a,\n  type B } from './static.ts'\nimport`,
    ` type { C } from "./type.ts"\nimport`,
    ` './effect.ts'\nexport`,
    ` * from './all.ts'\nexport`,
    ` { d } from './some.ts'\n  import`,
    ` e from 'package'\nconst f = await import`,
    `('./dynamic.ts')\nconst g = import`,
    `(\n  \`./template.ts\`)\n// import`,
    ` h from './comment.ts'\n/*\nimport`,
    ` i from './block.ts'\n*/\nconst importantly = from('./call.ts')\nexport const j = './value.ts'\nexport function from() { return './body.ts' }`,
  ].join('')
  expect(importsOf(text)).toEqual([
    './static.ts',
    './type.ts',
    './effect.ts',
    './all.ts',
    './some.ts',
    'package',
    './dynamic.ts',
    './template.ts',
  ])
})

describe('A repository that breaks its rules', () => {
  const rules = layerRules(table)
  const from = (specifier: string) => `import${` { x } from '${specifier}'`}\n`
  const file = (path: string, text: string): SourceFile => ({ path, text })

  test('imports against the table', () => {
    expect(
      forbiddenImports(
        [
          file('crds/a.ts', from('../server/linux/b.ts')),
          file('server/linux/b.ts', from('./deep/c.ts') + from('koffi') + from('node:fs')),
          file('server/linux/deep/c.ts', from('../b.ts') + from('../../disks/d.ts')),
          file('server/disks/d.ts', from('../linux/b.ts') + from('../../crds/a.ts') + from('../memory/e.ts')),
          file('server/main.ts', from('./cli/f.ts') + from('../package.json') + from('../crds/a.ts')),
          file('server/new/g.ts', ''),
          file('e2e/h.ts', from('../server/cli/f.ts') + from('../vitest.config.ts')),
          file('e2e/deep/h.ts', from('../h.ts') + from('../../crds/a.ts') + from('../../server/cli/f.ts')),
          file('vitest.config.ts', from('./hack/i.ts')),
        ],
        rules,
      ),
    ).toEqual([
      'crds/a.ts imports ../server/linux/b.ts, which crds may not import from',
      'server/linux/deep/c.ts imports ../../disks/d.ts, which server/linux may not import from',
      'server/disks/d.ts imports ../memory/e.ts, which server/disks may not import from',
      'server/main.ts imports ../crds/a.ts, which it may not import from',
      'server/new/g.ts is in no folder that docs/architecture.md names',
      'e2e/h.ts imports ../server/cli/f.ts, which e2e may not import from',
      'e2e/h.ts imports ../vitest.config.ts, which e2e may not import from',
      'e2e/deep/h.ts imports ../../server/cli/f.ts, which e2e/deep may not import from',
    ])
  })

  test('imports in a circle', () => {
    const files = [
      file('a/1.ts', from('../b/1.ts')),
      file('b/1.ts', from('./2.ts')),
      file('b/2.ts', from('../c/1.ts')),
      file('c/1.ts', from('../b/1.ts')),
    ]
    expect(folderCycles(files, ['a', 'b', 'c'])).toEqual(['b -> c -> b'])
    expect(folderCycles(files.slice(0, 3), ['a', 'b', 'c'])).toEqual([])
  })

  test('has long files', () => {
    const text = 'x\n'.repeat(401)
    expect(
      longFiles([
        file('a.ts', text),
        file('a.test.ts', text),
        file('b.ts', 'x\n'.repeat(400)),
        file('hack/c', `#!/bin/sh\n${text}`),
        file('LICENSE', text),
      ]),
    ).toEqual(['a.ts has 401 lines, more than 400', 'hack/c has 402 lines, more than 400'])
  })

  test('exports by default', () => {
    const files = [
      file('a.ts', 'export default 1\n'),
      file('b.ts', 'const x = 1\nexport { x as default }\n'),
      file('c.ts', 'export const defaults = 1\n'),
      file('vitest.config.ts', 'export default {}\n'),
    ]
    expect(defaultExports(files)).toEqual(['a.ts has a default export', 'b.ts has a default export'])
  })

  test('names registries', () => {
    const host = ['registry', 'npmjs', 'org'].join('.')
    const files = [file('a', `see https://${host}/x`), file('b', 'apt-get install docker.io'), file('c', '')]
    expect(registryNames(files)).toEqual([`a names ${['npmjs', 'org'].join('.')}`])
    expect(registryNames([file('a', ['DEB', 'debian', 'org'].join('.'))])).toHaveLength(1)
  })

  test('keeps download addresses in lock files', () => {
    const text = '{ "resolved": "https://example.com" }'
    expect(resolvedPackages([file('x/package-lock.json', text), file('y.json', text)])).toEqual([
      'x/package-lock.json has "resolved" fields',
    ])
  })

  test('has stray names at its top', () => {
    expect(
      strayNames([file('lib/a.ts', ''), file('lib/b.ts', ''), file('.ci/run', ''), file('server/a', '')]),
    ).toEqual(['lib does not belong at the top of the repository'])
  })
})
