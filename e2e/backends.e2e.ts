import { readFileSync } from 'node:fs'
import { truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { check, checkout, needPrograms, run, scratch, startServer } from './harness.ts'

const command = join(checkout, 'hack/ondemand-disk')
const PAGE = readFileSync(join(checkout, 'docs/backends.md'), 'utf8')
const [, EXAMPLE = ''] = /^```ts\n(\/\/ images\.ts\n.*?)^```$/ms.exec(PAGE) ?? []

test('The backend of docs/backends.md is served as the page says', async context => {
  await needPrograms(context, 'nbdcopy', 'qemu-io')
  await using folder = await scratch()
  const module = join(folder.path, 'images.ts')
  const image = join(folder.path, 'alice.img')
  await writeFile(module, EXAMPLE)
  await writeFile(image, '')
  await truncate(image, 2 ** 20)
  expect(await check(command, ['backends', module])).toContain('folder=VALUE')

  await using server = await startServer(['--backend', module, `folder=${folder.path}`])
  const io = [
    '-c',
    'write -f -P 7 4096 8192',
    '-c',
    'write -z 8192 4096',
    '-c',
    'flush',
    '-c',
    'read -P 7 4096 4096',
  ]
  await check('qemu-io', ['-f', 'raw', ...io, server.uri('alice')])
  await check('nbdcopy', [server.uri('alice'), join(folder.path, 'copy')])
  const copy = readFileSync(join(folder.path, 'copy'))
  expect(copy.equals(readFileSync(image))).toBe(true)
  expect([copy.indexOf(7), copy.lastIndexOf(7)]).toEqual([4096, 8191])
  expect(await server.stop()).toBe(0)
})

test('A disk in memory is served by name', async context => {
  await needPrograms(context, 'nbdinfo')
  await using server = await startServer(['--backend', 'memory', 'size=4G'])
  expect((await check('nbdinfo', ['--size', server.uri('any')])).trim()).toBe(String(4 * 2 ** 30))
  expect(await server.stop()).toBe(0)
})

const REQUIRED = `
export const apiVersion = 1
export const open = () => 0
export const getSize = () => 4096
export const pread = () => {}
`

test.each([
  ['a wrong path', undefined, ['./none.ts'], 2, '--backend ./none.ts: There is no such file.'],
  [
    'an unknown key',
    REQUIRED,
    ['MODULE', 'a=b'],
    2,
    '--backend MODULE: There is no key "a". This backend has no keys.',
  ],
  [
    'a missing callback',
    'export const apiVersion = 1',
    ['MODULE'],
    1,
    '--backend MODULE: It lacks the function open, which every backend has to export.',
  ],
  [
    'a misspelt callback',
    `${REQUIRED}export const flsuh = () => {}`,
    ['MODULE'],
    1,
    '--backend MODULE: Its export "flsuh" is not part of the backend interface. Did you mean flush?',
  ],
])('%s is told at start', async (_, text, args, status, message) => {
  await using folder = await scratch()
  const module = join(folder.path, 'mine.mjs')
  if (text !== undefined) await writeFile(module, text)
  const words = args.map(word => word.replace('MODULE', module))
  const ended = await run(command, ['serve', '--listen', '127.0.0.1:0', '--backend', ...words])
  expect(ended).toMatchObject({ status, stdout: '' })
  expect(ended.stderr).toBe(`ondemand-disk: ${message.replaceAll('MODULE', module)}\n`)
})

test('What a module has left running does not keep the server', async () => {
  await using folder = await scratch()
  const module = join(folder.path, 'mine.mjs')
  await writeFile(module, `${REQUIRED}setInterval(() => {}, 1000)`)
  await using server = await startServer(['--backend', module])
  const startedAt = performance.now()
  expect(await server.stop()).toBe(0)
  expect(performance.now() - startedAt).toBeLessThan(10_000)
})
