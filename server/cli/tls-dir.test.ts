import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { makeDirectory } from '../backends/disks/test-directory.ts'
import { UsageError } from './options.ts'
import { parseServeOptions } from './serve-options.ts'
import { findTlsFiles } from './tls-dir.ts'

const directoryOf = (...names: string[]) => {
  const directory = makeDirectory()
  for (const name of names) writeFileSync(join(directory, name), '')
  return directory
}

test.for([
  [
    ['tls.crt', 'tls.key'],
    ['cert', 'key'],
  ],
  [
    ['tls.crt', 'tls.key', 'ca.crt', 'keys.psk', 'other'],
    ['cert', 'key', 'clientCa', 'psk'],
  ],
  [['keys.psk', 'ca.crt'], ['psk']],
])('Credentials are found by their names: %s', async ([names = [], found]) => {
  const files = await findTlsFiles(directoryOf(...names))
  expect(Object.entries(files).flatMap(([kind, path]) => (path === undefined ? [] : [kind]))).toEqual(found)
})

test.for([
  [[], 'neither tls.crt and tls.key, nor keys.psk'],
  [['ca.crt'], 'neither'],
  [['tls.crt', 'keys.psk'], 'has no tls.key'],
  [['tls.key'], 'has no tls.crt'],
] as [string[], string][])('What is not enough is told: %s', async ([names, reason]) => {
  await expect(findTlsFiles(directoryOf(...names))).rejects.toThrow(reason)
})

test('The option takes the place of the others', () => {
  const common = ['--dir', 'd', '--size', '1G', '--tls-dir', 't']
  expect(parseServeOptions([...common, '--tls', 'require']).tls).toMatchObject({ required: true, dir: 't' })
  expect(() => parseServeOptions(common)).toThrow(UsageError)
  expect(() => parseServeOptions([...common, '--tls', 'on', '--tls-psk', 'k'])).toThrow('exclude each other')
})
