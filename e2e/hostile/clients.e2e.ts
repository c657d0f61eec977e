/** Foreign clients drive every command and flag; what they should have written is the oracle. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  check,
  needPrograms,
  run,
  type Scratch,
  type ServerProcess,
  scratch,
  startServer,
} from '../harness.ts'
import { needLibnbd, PYTHON } from '../libnbd.ts'

const MIB = 2 ** 20
const SIZE = 48 * MIB + 512
const BLANK = ['--size', String(SIZE), '--command', 'truncate -s "$size" "$disk"']

let folder: Scratch
let disks: ServerProcess
let temporary: ServerProcess

beforeAll(async () => {
  folder = await scratch()
  await mkdir(join(folder.path, 'disks'))
  disks = await startServer(['--dir', join(folder.path, 'disks'), '--connections-per-disk', '4', ...BLANK])
  temporary = await startServer(['--temporary', ...BLANK], { env: { TMPDIR: folder.path } })
})

afterAll(async () => {
  for (const server of [disks, temporary]) expect(await server?.stop()).toBe(0)
  await folder?.[Symbol.asyncDispose]()
})

const exercise = async (...args: readonly string[]) =>
  (await check(PYTHON, [join(import.meta.dirname, 'exercise.py'), ...args], { timeout: 120_000 })).trim()

async function checksum(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path)) hash.update(chunk)
  return hash.digest('hex')
}

const onDisk = (name: string) => checksum(join(folder.path, 'disks', name))

/** A file of random data with long runs of zeroes in it. */
async function makeImage(name: string, mebibytes: number): Promise<string> {
  const path = join(folder.path, name)
  const script =
    'head -c "$2"M /dev/urandom >"$1"; for at in 1 4 5 9; do dd if=/dev/zero of="$1" bs=1M seek=$at count=1 conv=notrunc; done'
  await check('bash', ['-c', script, 'image', path, String(mebibytes)])
  return path
}

describe.each(['simple', 'structured'])('libnbd with %s replies', replies => {
  test.for([1, 2, 3])('leaves on the disk what it should have written (seed %i)', async (seed, context) => {
    await needLibnbd(context)
    const name = `libnbd-${replies}-${seed}`
    const expected = await exercise(disks.uri(name), String(seed), '25', replies, 'zero')
    expect(await onDisk(name)).toBe(expected)
  })

  test('goes on where another client has stopped', async context => {
    await needLibnbd(context)
    const name = `again-${replies}`
    await exercise(disks.uri(name), '7', '8', 'structured', 'zero')
    const expected = await exercise(disks.uri(name), '8', '8', replies, 'read')
    expect(await onDisk(name)).toBe(expected)
  })

  test('finds a temporary disk blank each time, whatever was written to it', async context => {
    await needLibnbd(context)
    for (const seed of ['4', '5']) await exercise(temporary.uri('same'), seed, '15', replies, 'zero')
  })
})

describe('nbdcopy', () => {
  test.for([
    '--requests=16',
    '--connections=4 --requests=64',
    '--connections=1 --requests=1 --request-size=33554432',
    '--synchronous --request-size=16384',
    '--flush --destination-is-zero',
    '--allocated --no-extents',
  ])('%s: copies there and back', async (given, context) => {
    await needPrograms(context, 'nbdcopy', 'cmp')
    const image = await makeImage('image', 12)
    const options = given.split(' ')
    const name = given.replaceAll(/[^a-z0-9]/g, '')
    await check('nbdcopy', [...options, image, disks.uri(name)])
    const back = join(folder.path, 'back')
    await check('nbdcopy', [...options, disks.uri(name), back])
    await check('cmp', ['-n', String(12 * MIB), image, back])
    await check('cmp', ['-n', String(12 * MIB), image, join(folder.path, 'disks', name)])
    expect((await stat(back)).size).toBe(SIZE)
  })

  test('copies from one disk to another', async context => {
    await needPrograms(context, 'nbdcopy')
    await check('nbdcopy', [await makeImage('image', 12), disks.uri('from')])
    await check('nbdcopy', ['--connections=2', disks.uri('from'), disks.uri('to')])
    expect(await onDisk('to')).toBe(await onDisk('from'))
  })

  test('keeps holes as holes', async context => {
    await needPrograms(context, 'nbdcopy')
    await check('nbdcopy', ['--destination-is-zero', await makeImage('image', 12), disks.uri('sparse')])
    const { blocks } = await stat(join(folder.path, 'disks', 'sparse'))
    expect(blocks * 512).toBeLessThan(9 * MIB)
  })
})

describe('qemu-img', () => {
  test.for(['raw', 'qcow2'])(
    'converts %s images to a disk and finds them the same',
    async (format, context) => {
      await needPrograms(context, 'qemu-img')
      const raw = await makeImage('image', 12)
      const image = join(folder.path, `image.${format}`)
      await check('qemu-img', ['convert', '-f', 'raw', '-O', format, raw, image])
      const uri = disks.uri(`qemu-${format}`)
      await check('qemu-img', ['convert', '-n', '-W', '-m', '16', '-f', format, '-O', 'raw', image, uri])
      await check('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', raw, uri])
      const back = join(folder.path, 'back.qcow2')
      await check('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', uri, back])
      await check('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', back, uri])
    },
  )

  test('maps holes and data as the file has them', async context => {
    await needPrograms(context, 'qemu-img', 'qemu-io')
    const uri = disks.uri('mapped')
    await check('qemu-io', [
      '-f',
      'raw',
      '-c',
      'write -P 1 8M 4M',
      '-c',
      'write -z -u 9M 1M',
      '-c',
      'flush',
      uri,
    ])
    const map: { start: number; length: number; data: boolean; zero: boolean }[] = JSON.parse(
      await check('qemu-img', ['map', '--output=json', '-f', 'raw', uri]),
    )
    expect(map.map(({ start, data, zero }) => [start / MIB, data, zero])).toEqual([
      [0, false, true],
      [8, true, false],
      [9, false, true],
      [10, true, false],
      [12, false, true],
    ])
    expect(map.reduce((sum, { length }) => sum + length, 0)).toBe(SIZE)
  })

  test('tells size and format', async context => {
    await needPrograms(context, 'qemu-img')
    const info = JSON.parse(
      await check('qemu-img', ['info', '--output=json', '-f', 'raw', disks.uri('info')]),
    )
    expect(info['virtual-size']).toBe(SIZE)
  })
})

describe('nbdinfo', () => {
  test('reads size, capabilities, the list and the map', async context => {
    await needPrograms(context, 'nbdinfo')
    const uri = disks.uri('asked')
    expect(Number(await check('nbdinfo', ['--size', uri]))).toBe(SIZE)
    const { exports } = JSON.parse(await check('nbdinfo', ['--json', uri]))
    expect(exports[0]).toMatchObject({
      'export-size': SIZE,
      is_read_only: false,
      can_cache: true,
      can_df: true,
      can_fast_zero: true,
      can_flush: true,
      can_fua: true,
      can_multi_conn: true,
      can_trim: true,
      can_zero: true,
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 32 * MIB,
      contexts: ['base:allocation'],
    })
    const list = JSON.parse(await check('nbdinfo', ['--list', '--no-content', '--json', disks.uri('')]))
    const names = list.exports.map((item: Record<string, unknown>) => item['export-name'])
    // The empty name comes first and is shown as what it stands for.
    expect(names).toEqual(['default', ...names.slice(1).toSorted()])
    expect(names).toContain('asked')
    expect(JSON.parse(await check('nbdinfo', ['--map', '--json', uri]))).toEqual([
      { offset: 0, length: SIZE, type: 3, description: 'hole,zero' },
    ])
    for (const can of ['flush', 'fua', 'trim', 'zero', 'df', 'cache', 'fast-zero', 'multi-conn', 'write']) {
      expect((await run('nbdinfo', ['--can', can, uri])).status, can).toBe(0)
    }
    expect((await run('nbdinfo', ['--is', 'read-only', uri])).status).toBe(2)
  })
})
