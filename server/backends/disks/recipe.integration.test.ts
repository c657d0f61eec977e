import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { checkRecipe, checkSize, prepareRecipe, type Recipe, searchPath } from './recipe.ts'
import { makeDirectory } from './test-directory.ts'

describe('A recipe is refused', () => {
  test.for<[string, Recipe, RegExp]>([
    ['with a slash in the type', { type: '../sh' }, /^--type: "\.\.\/sh" is not a file system type/],
    ['with an empty type', { type: '' }, /^--type: /],
    ['with a type that looks like an option', { type: '-x' }, /^--type: /],
    [
      'with 17 bytes of label on ext4',
      { type: 'ext4', label: 'x'.repeat(17) },
      /^--label: .* ext4\. .* 16 bytes, not 17\.$/,
    ],
    ['with 16 characters of 17 bytes on ext4', { type: 'ext4', label: `${'x'.repeat(15)}ü` }, /not 17/],
    ['with 13 bytes of label on xfs', { type: 'xfs', label: 'x'.repeat(13) }, /^--label: .* at most 12 /],
    [
      'with 12 characters of label on vfat',
      { type: 'vfat', label: 'x'.repeat(12) },
      /^--label: .* at most 11 /,
    ],
    ['with an umlaut in a label on vfat', { type: 'vfat', label: 'Schüler' }, /^--label: .*ASCII/],
    [
      'with 256 bytes of label on btrfs',
      { type: 'btrfs', label: 'x'.repeat(256) },
      /^--label: .* at most 255 /,
    ],
    [
      'with 129 characters of label on ntfs',
      { type: 'ntfs', label: 'ü'.repeat(129) },
      /^--label: .* at most 128 /,
    ],
    [
      'with a line break in the label',
      { type: 'ext4', label: 'a\nb' },
      /^--label: "a\\nb" contains a control/,
    ],
    [
      'with another device to format',
      { type: 'ext4', mkfsOptions: ['/dev/sda'] },
      /^--mkfs-options: .* path/,
    ],
    [
      'with files of the server to copy in',
      { type: 'ext4', mkfsOptions: ['-d', '..'] },
      /^--mkfs-options: .* path/,
    ],
    ['with a label for no file system', { type: 'none', label: 'x' }, /^--label: .* type none/],
    ['with options for no mkfs', { type: 'none', mkfsOptions: ['-q'] }, /^--mkfs-options: .* none/],
    ['with an empty mkfs option', { type: 'ext4', mkfsOptions: [''] }, /^--mkfs-options: /],
    [
      'with too many mkfs options',
      { type: 'ext4', mkfsOptions: Array(65).fill('-q') },
      /^--mkfs-options: 65/,
    ],
    ['with an empty command', { command: ' \n' }, /^--command: The command is empty/],
    ['with a NUL in the command', { command: 'a\0b' }, /^--command: .*NUL/],
    ['with the variable disk', { command: 'true', variables: { disk: 'x' } }, /^--var: "disk"/],
    ['with the variable size', { command: 'true', variables: { size: 'x' } }, /^--var: "size"/],
    [
      'with a variable that is no identifier',
      { command: 'true', variables: { 'a-b': 'x' } },
      /^--var: "a-b"/,
    ],
    ['with code for a variable', { command: 'true', variables: { 'a=$(id);b': 'x' } }, /^--var: /],
    ['with a NUL in a value', { command: 'true', variables: { a: 'x\0' } }, /^--var: .*NUL/],
    [
      'with more script than the kernel takes',
      { command: `#${'x'.repeat(131_072)}` },
      /^--command: .*script file/,
    ],
  ])('%s', ([, recipe, message]) => {
    expect(() => checkRecipe(recipe)).toThrow(message)
    expect(() => checkRecipe(recipe)).toThrow(
      expect.objectContaining({ name: 'RecipeError', code: 'EINVAL' }),
    )
  })

  test('with a type for which there is no mkfs', async () => {
    await expect(prepareRecipe({ type: 'nosuchfs' })).rejects.toThrow(
      /^--type: There is no program mkfs\.nosuchfs on this machine/,
    )
  })

  test.for([0, -1, 1.5, Number.NaN, 2 ** 53])('with mkfs for %d bytes', async size => {
    const recipe = await prepareRecipe({ type: 'ext4' })
    expect(() => checkSize(recipe, size)).toThrow(/^--size: /)
  })
})

test.for<[string, string]>([
  ['ext4', 'x'.repeat(16)],
  ['xfs', 'x'.repeat(12)],
  ['vfat', 'x'.repeat(11)],
  ['btrfs', 'x'.repeat(255)],
  ['ntfs', 'ü'.repeat(128)],
])('A label as long as %s allows is accepted', ([type, label]) => {
  checkRecipe({ type, label })
})

test('Only a command can do without a size', async () => {
  checkSize(await prepareRecipe({ command: 'true' }), 0)
})

test('mkfs is found without the sbin directories in PATH, which never includes the working directory', () => {
  expect(searchPath('/opt/bin').split(':')).toEqual(
    expect.arrayContaining(['/opt/bin', '/usr/sbin', '/sbin']),
  )
  expect(
    searchPath(':.:bin')
      .split(':')
      .every(path => path.startsWith('/')),
  ).toBe(true)
})

test('Whatever stands in the label and the options reaches mkfs as one argument each', async () => {
  const label = `-F "$(id)" '`
  const recipe = await prepareRecipe({ type: 'ext4', label, mkfsOptions: ['-O', '^has_journal; reboot'] })
  expect(recipe.argv('/x/disk', 1).slice(1)).toEqual([
    '-F',
    '-q',
    '-L',
    label,
    '-O',
    '^has_journal; reboot',
    'disk',
  ])
})

test('Every path and value reaches the command unchanged, and only as a variable', async () => {
  const directory = makeDirectory()
  const text = fc
    .oneof(
      fc.string({ unit: 'binary', maxLength: 60 }),
      fc.string({
        unit: fc.constantFrom(...`'"\\$\`!#&;|<>()[]{}*?~=% \t\n\r-`, 'é', '\u0081'),
        maxLength: 60,
      }),
    )
    .filter(value => !value.includes('\0'))
  const key = fc.stringMatching(/^v_[A-Za-z0-9_]{0,20}$/)
  await fc.assert(
    fc.asyncProperty(text, fc.dictionary(key, text, { maxKeys: 4 }), async (disk, variables) => {
      const out = join(directory, 'out')
      const names = Object.keys(variables)
      const command = `printf '%s\\0' "$disk" "$size" ${names.map(name => `"$${name}"`).join(' ')} > "$v__out"
        env > "$v__out.env"`
      const recipe = await prepareRecipe({ command, variables: { ...variables, v__out: out } })
      const [program, ...args] = recipe.argv(disk, 2 ** 53 - 1)
      execFileSync(program, args)
      const expected = [disk, String(2 ** 53 - 1), ...Object.values(variables)]
      expect(readFileSync(out, 'utf8')).toBe(expected.map(value => `${value}\0`).join(''))
      expect(readFileSync(`${out}.env`, 'utf8')).not.toMatch(/^(disk|size|v_\w*)=/m)
    }),
    { numRuns: 80 },
  )
})
