import { describe, expect, test } from 'vitest'
import { BUILT_IN } from '../backends/built-in.ts'
import { backendsText } from './backends.ts'
import { openNamedBackend } from './named-backend.ts'
import { UsageError } from './options.ts'
import { SERVE_OPTIONS } from './serve-option-table.ts'

describe('ondemand-disk backends', () => {
  test('lists the built-in backends and their keys', async () => {
    const text = await backendsText([])
    expect(text.match(/^\w.*$/gm)).toEqual(Object.keys(BUILT_IN))
    expect(text).toMatch(/^memory\n(?: {6}.*\n)+ {2}size=VALUE\n {6}Size of the disk, .* Needed\.$/ms)
    for (const line of text.split('\n')) expect(line.length).toBeLessThanOrEqual(80)
  })

  test('names only options that exist', () => {
    for (const backend of Object.values(BUILT_IN)) {
      if (!('options' in backend)) continue
      for (const option of backend.options) expect(Object.keys(SERVE_OPTIONS)).toContain(option)
    }
  })

  test('describes one backend', async () => {
    const all = await backendsText([])
    const one = await backendsText(['memory'])
    expect(one).toMatch(/^memory\n/)
    expect(all).toContain(one)
    expect(await backendsText(['temporary'])).toContain('--temporary, --size')
  })

  test('shows its help, whatever else is given', async () => {
    for (const argv of [['--help'], ['-h'], ['a', 'b', '--c', '--help']]) {
      expect(await backendsText(argv)).toMatch(/^Usage: ondemand-disk backends /)
    }
  })

  test.each([
    [['--bogus'], 'Unknown option --bogus. See ondemand-disk backends --help.'],
    [['memory', 'disks'], 'Only one backend can be described at a time.'],
    [['./not-there.ts'], './not-there.ts: There is no such file.'],
    [['memroy'], 'memroy: There is no built-in backend and no package of this name. Did you mean memory?'],
  ])('refuses %j', async (argv, message) => {
    const error = await backendsText(argv).catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(UsageError)
    expect((error as Error).message).toBe(message)
  })
})

describe('--backend', () => {
  const terms = { readOnly: false, onProblem() {}, openMs: 1000 }

  test('opens a built-in backend', async () => {
    const { backend, close } = await openNamedBackend('memory', ['size=1M'], terms)
    expect(await backend.probe('x')).toMatchObject({ size: 2 ** 20 })
    await close()
  })

  test.each([
    ['memory', [], '--backend memory: The key size is missing: Size of the disk, such as 4G.'],
    ['memory', ['sise=4G'], '--backend memory: There is no key "sise". Did you mean size?'],
    ['memory', ['size=4G', 'size=4G'], '--backend memory: The key size is given twice.'],
    ['disks', [], '--backend disks: The backend disks is chosen by --dir and set up by options'],
  ])('refuses %s %j as a mistake on the command line', async (name, settings, message) => {
    const error = await openNamedBackend(name, settings, terms).catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(UsageError)
    expect((error as Error).message).toContain(message)
  })
})
