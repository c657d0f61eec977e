/** What clients are told of a forwarded export, beside what they get. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { makeFolder, needPrograms, startNbdkit, startQemuNbd } from '../../client/test-servers.ts'
import { parseNbdUri } from '../../client/uri.ts'
import { fillIn } from '../layer.ts'
import { createForwardBackend } from './forward.ts'

const SIZE = 65_536

async function forwarding(nbdkitOptions: readonly string[], shared: boolean) {
  const folder = makeFolder()
  const socket = join(folder, 's')
  await startNbdkit(folder, socket, ...nbdkitOptions)
  const uri = parseNbdUri(`nbd+unix:///?socket=${encodeURIComponent(socket)}`)
  const backend = createForwardBackend({
    uri,
    exportName: shared ? 'fixed' : 'passed',
    shared,
    retryMs: 1000,
  })
  return fillIn(backend, { readOnly: false, onProblem() {} })
}

async function openedCapabilities(filled: Awaited<ReturnType<typeof forwarding>>) {
  const signal = new AbortController().signal
  const handle = await filled.open('', { readOnly: false, client: 'test', signal })
  const capabilities = filled.capabilities(handle)
  await filled.close(handle)
  return capabilities
}

const memory = ['memory', String(SIZE)]

test.for<[string, readonly string[], boolean]>([
  ['everything', memory, false],
  ['no WRITE_ZEROES', ['--filter=nozero', ...memory], false],
  ['no CACHE', ['--filter=nocache', ...memory], false],
  ['nothing but reads', ['-r', ...memory], false],
  [
    'no multi-conn, behind one connection for all',
    ['--filter=multi-conn', ...memory, 'multi-conn-mode=disable'],
    true,
  ],
  [
    'blocks',
    [
      ...['--filter=blocksize-policy', ...memory, 'blocksize-minimum=512'],
      ...['blocksize-preferred=4096', 'blocksize-maximum=65536'],
    ],
    false,
  ],
])('INFO tells the same as GO of an upstream that has %s', async ([, options, shared], context) => {
  needPrograms(context, 'nbdkit')
  const filled = await forwarding(options, shared)
  expect(await filled.probe('')).toEqual({ size: SIZE, capabilities: await openedCapabilities(filled) })
})

test('An upstream that cannot tell of an export without opening it leaves INFO to that', async context => {
  needPrograms(context, 'nbdkit')
  const filled = await forwarding(['--mask-handshake=0', ...memory], false)
  expect(await filled.probe('')).toBeUndefined()
})

test('What people are told of an upstream passes through', async context => {
  needPrograms(context, 'qemu-nbd')
  const folder = makeFolder()
  const socket = join(folder, 's')
  const image = join(folder, 'image')
  writeFileSync(image, Buffer.alloc(SIZE))
  const description = 'The disk of Ünal.'
  await startQemuNbd(folder, socket, '-f', 'raw', '-x', 'disk', '-D', description, image)
  const uri = parseNbdUri(`nbd+unix:///?socket=${encodeURIComponent(socket)}`)
  const backend = createForwardBackend({ uri, exportName: 'passed', shared: false, retryMs: 1000 })
  const filled = fillIn(backend, { readOnly: false, onProblem() {} })
  expect(await filled.listExports()).toEqual([{ name: 'disk', description }])
  expect(await filled.probe('disk')).toMatchObject({ size: SIZE, description })
  const signal = new AbortController().signal
  const handle = await filled.open('disk', { readOnly: false, client: 'test', signal })
  expect(filled.description(handle)).toBe(description)
  await filled.close(handle)
})
