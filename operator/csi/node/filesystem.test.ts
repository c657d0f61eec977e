import { execFile } from 'node:child_process'
import { mkdtemp, open, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { checkFlags, familyOf, filesystemOf } from './filesystem.ts'

const exec = promisify(execFile)
const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` }
let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ondemand-disk-filesystem-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

async function image(...command: readonly [string, ...string[]]): Promise<string> {
  const path = join(folder, command.join('-').replace(/\W/g, '_'))
  await writeFile(path, '')
  await truncate(path, 320 * 2 ** 20)
  const [program, ...args] = command
  if (program !== 'none') await exec(program, [...args, path], { env })
  return path
}

describe('What a device holds', () => {
  test.for([
    ['ext4', 'mkfs.ext4', '-q'],
    ['ext2', 'mkfs.ext2', '-q'],
    ['xfs', 'mkfs.xfs', '-q'],
    ['btrfs', 'mkfs.btrfs', '-q'],
  ] as const)('%s, as mkfs has made it', async ([type, program, ...args], context) => {
    const path = await image(program, ...args).catch((error: NodeJS.ErrnoException) => {
      context.skip(error.code === 'ENOENT', `not installed: ${program}`)
      throw error
    })
    const bytes = 320 * 2 ** 20
    expect(await filesystemOf(path, type)).toEqual({ type, bytes })
    expect(await filesystemOf(path, '')).toEqual({ type: type === 'ext2' ? 'ext4' : type, bytes })
    const other = type === 'xfs' ? 'ext4' : 'xfs'
    await expect(filesystemOf(path, other)).rejects.toMatchObject({ code: 'FAILED_PRECONDITION' })
  })

  test('nothing, and what is shorter than a superblock', async () => {
    const path = await image('none')
    await expect(filesystemOf(path, 'ext4')).rejects.toThrow('no filesystem that can be mounted')
    for (const length of [0, 3, 4, 1080, 1081, 65_599]) expect(familyOf(Buffer.alloc(length))).toBeUndefined()
    const handle = await open(path, 'r+')
    await handle.write(Buffer.from('XFS'), 0, 3, 0)
    await handle.close()
    await expect(filesystemOf(path, '')).rejects.toThrow('no filesystem that can be mounted')
  })
})

test('Flags that are no options of a filesystem are refused, and named', () => {
  checkFlags([
    'noatime',
    'discard',
    'commit=30',
    'data=ordered',
    'context=system_u:object_r:x_t:s0',
    'errors=panic,nodev',
  ])
  for (const flag of [
    'bind',
    'rbind',
    'ro,remount',
    'loop=/dev/loop1',
    'offset=0',
    'X-mount.mkdir',
    '-o',
    'a b',
    'a;b',
    '',
    'rshared',
    'helper=x',
  ]) {
    expect(() => checkFlags([flag]), flag).toThrow('cannot be mounted with')
  }
})
