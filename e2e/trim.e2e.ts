import { closeSync, fdatasyncSync, openSync, statSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { check, needPrograms, run, scratch, startServer } from './harness.ts'
import { PYTHON } from './libnbd.ts'

const MIB = 2 ** 20

function fill(path: string, size: number): void {
  const fd = openSync(path, 'w')
  const data = Buffer.alloc(4 * MIB, 0x33)
  for (let at = 0; at < size; at += data.length) writeSync(fd, data)
  fdatasyncSync(fd)
  closeSync(fd)
}

test('What is written right after a gigabyte was trimmed stays, and all else is a hole after a flush', async context => {
  await needPrograms(context, 'qemu-io')
  await using folder = await scratch()
  const disk = join(folder.path, 'alice')
  fill(disk, 1024 * MIB)
  await using server = await startServer(['--dir', folder.path, '--no-create'])
  const commands = [
    'discard 0 1G',
    // What is punched at this moment or soon, what is punched last, and parts of blocks.
    'write -P 0x5a 32M 64k',
    'write -P 0x5b 512M 64k',
    'write -P 0x5c 1023M 1M',
    'write -P 0x5d 700000000 512',
    'flush',
    'read -P 0x5a 32M 64k',
    'read -P 0x5b 512M 64k',
    'read -P 0x5c 1023M 1M',
    'read -P 0x5d 700000000 512',
    'read -P 0 0 32M',
    'read -P 0 33619968 32M',
    'read -P 0 536936448 128M',
    'read -P 0 991M 32M',
  ]
  const output = await check('qemu-io', [
    ...['-f', 'raw'],
    ...commands.flatMap(command => ['-c', command]),
    server.uri('alice'),
  ])
  expect(output).not.toContain('failed')
  expect(statSync(disk).blocks * 512).toBeLessThan(4 * MIB)
  expect(await server.stop()).toBe(0)
})

/** Trims all of a disk and leaves; then, as the next client, reads of it. */
const LEAVE = `
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
h.trim(h.get_size(), 0)
h.shutdown()
h = nbd.NBD()
h.connect_uri(sys.argv[1])
assert h.pread(4096, 0) == bytes(4096)
h.pwrite(b"x" * 4096, 4096)
h.shutdown()
`

test('A client that trims and leaves without a flush leaves a hole, and the disk to the next one', async context => {
  const { status } = await run(PYTHON, ['-c', 'import nbd']).catch(() => ({ status: -1 }))
  context.skip(status !== 0, 'not installed: python3-libnbd')
  await using folder = await scratch()
  const disk = join(folder.path, 'alice')
  fill(disk, 256 * MIB)
  await using server = await startServer(['--dir', folder.path, '--no-create', '--wait'])
  await check(PYTHON, ['-c', LEAVE, server.uri('alice')])
  expect(statSync(disk).blocks * 512).toBeLessThan(MIB)
  expect(await server.stop()).toBe(0)
})
