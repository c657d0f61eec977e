import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { makeDirectory } from '../backends/disks/test-directory.ts'
import { MIB, serve } from '../connection/test-server.ts'
import { backendsText } from './backends.ts'
import { openNamedBackend } from './named-backend.ts'
import { catalogOf } from './test-catalog.ts'
import { needClients, run, succeed } from './test-programs.ts'

const PAGE = readFileSync(`${import.meta.dirname}/../../docs/backends.md`, 'utf8')
const [, EXAMPLE = ''] = /^```ts\n(\/\/ images\.ts\n.*?)^```$/ms.exec(PAGE) ?? []

function example(): { module: string; folder: string } {
  const folder = makeDirectory()
  const module = join(folder, 'images.ts')
  writeFileSync(module, EXAMPLE)
  return { module, folder }
}

const opening = { readOnly: true, client: 'test', signal: new AbortController().signal }
const terms = { readOnly: false, onProblem() {}, openMs: 10_000 }

test('The backend of docs/backends.md has about twenty lines', () => {
  expect(EXAMPLE.split('\n').length).toBeLessThan(26)
})

test('ondemand-disk backends shows the keys of the backend of docs/backends.md', async () => {
  const { module } = example()
  expect(await backendsText([module])).toBe(
    `${module}\n      A module without a description.\n  folder=VALUE\n      Where the images are. Needed.\n`,
  )
  await expect(openNamedBackend(module, [], terms)).rejects.toThrow(
    `--backend ${module}: The key folder is missing: Where the images are.`,
  )
})

test('The backend of docs/backends.md can be read and written by nbdcopy and qemu-io', async context => {
  needClients(context)
  const { module, folder } = example()
  const image = join(folder, 'alice.img')
  const data = Buffer.alloc(5 * MIB)
  for (let at = 0; at < data.length; at += 4) data.writeUInt32LE((at * 2_654_435_761) >>> 0, at)
  writeFileSync(join(folder, 'data'), data)
  writeFileSync(image, '')
  truncateSync(image, data.length)

  const { backend, close } = await openNamedBackend(module, [`folder=${folder}`], terms)
  const { port } = await serve({ catalog: catalogOf(backend) })
  const uri = `nbd://127.0.0.1:${port}/alice`
  await succeed('nbdcopy', '--flush', join(folder, 'data'), uri)
  expect(readFileSync(image).equals(data)).toBe(true)
  await succeed('nbdcopy', uri, join(folder, 'copy'))
  expect(readFileSync(join(folder, 'copy')).equals(data)).toBe(true)

  const commands = [
    'write -f -P 7 4096 8192',
    'write -z 1M 2M',
    'flush',
    'read -P 7 4096 8192',
    'read -P 0 1M 2M',
  ]
  const output = await succeed('qemu-io', '-f', 'raw', ...commands.flatMap(command => ['-c', command]), uri)
  expect(output).not.toContain('verification failed')
  data.fill(7, 4096, 4096 + 8192).fill(0, MIB, 3 * MIB)
  expect(readFileSync(image).equals(data)).toBe(true)

  const refused = await run('nbdcopy', `nbd://127.0.0.1:${port}/bob`, join(folder, 'none'))
  expect(refused.status).not.toBe(0)
  expect(refused.stderr).toContain("no export named 'bob'")
  await expect(backend.open('../alice', opening)).rejects.toThrow('Names are letters, digits, _ and -.')
  await close()
})
