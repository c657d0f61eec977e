import { execFile, execFileSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'
import { HIDDEN_NAME, openDiskDirectory } from './directory.ts'
import type { Recipe } from './recipe.ts'
import {
  cannotMount,
  countDescriptors,
  makeDirectory,
  makeSmallFilesystem,
  stagingEntries,
} from './test-directory.ts'
import { contents, context, EMPTY, EXT4, MIB, setUp } from './test-setup.ts'

describe('A creation that fails leaves nothing, tells why, and is tried again', () => {
  test.for<[string, Recipe, string, RegExp]>([
    [
      'mkfs for a disk that is too small',
      { type: 'btrfs' },
      'EIO',
      /^mkfs\.btrfs failed: ERROR: minimum size .* is \d+$/,
    ],
    ['mkfs.xfs, whose last line is usage', { type: 'xfs' }, 'EIO', /^mkfs\.xfs failed: .*(larger|too small)/],
    [
      'a failing command',
      { command: 'truncate -s 1M "$disk"; echo no luck >&2; false' },
      'EIO',
      /^The command failed: no luck$/,
    ],
    [
      'a command that does not exist',
      { command: 'nosuchcommand' },
      'EIO',
      /^The command failed: .*nosuchcommand.*(not found|denied)/,
    ],
    ['a command that makes nothing', { command: 'true' }, 'EIO', /made nothing/],
    ['a command that makes an empty file', { command: ': > "$disk"' }, 'EIO', /empty disk/],
    [
      'a command that makes a directory',
      { command: 'mkdir "$disk"; touch "$disk/x"' },
      'EIO',
      /made a directory/,
    ],
    ['a command that makes a FIFO', { command: 'mkfifo "$disk"' }, 'EIO', /made a FIFO/],
    ['a link to nothing', { command: 'ln -s /nonexistent "$disk"' }, 'EIO', /link that points to nothing/],
    ['a link to a directory', { command: 'ln -s /usr "$disk"' }, 'EIO', /link to a directory/],
    ['a link to a FIFO', { command: 'mkfifo "$disk.f"; ln -s "$disk.f" "$disk"' }, 'EIO', /does not last/],
    [
      'a link beside the disk',
      { command: 'echo > "$disk.real"; ln -s "$disk.real" "$disk"' },
      'EIO',
      /does not last/,
    ],
    ['a relative link', { command: 'ln -s ../alice "$disk"' }, 'EIO', /must be absolute/],
    [
      'a hanging command',
      { command: 'truncate -s 1M "$disk"; sleep 60 & sleep 60' },
      'ETIMEDOUT',
      /--command-timeout/,
    ],
  ])('%s', async ([, recipe, code, message]) => {
    const { path, backend, problems } = await setUp({
      recipe,
      commandTimeoutMs: code === 'ETIMEDOUT' ? 200 : 9000,
    })
    const before = await countDescriptors()
    for (const _ of ['first', 'second']) {
      const results = await Promise.allSettled([
        backend.open('alice', context()),
        backend.open('alice', context()),
      ])
      for (const result of results) {
        expect(result).toMatchObject({
          status: 'rejected',
          reason: { code, message: expect.stringMatching(message) },
        })
      }
    }
    expect(contents(path)).toEqual(EMPTY)
    expect(problems).toEqual([])
    expect(await countDescriptors()).toBe(before)
  })

  test('and succeeds when the reason has gone', async () => {
    const gate = join(makeDirectory(), 'gate')
    const { backend } = await setUp({ recipe: { command: 'cat "$gate" > "$disk"', variables: { gate } } })
    await expect(backend.open('alice', context())).rejects.toThrow(/No such file/)
    writeFileSync(gate, 'content')
    expect((await backend.open('alice', context())).size).toBe(7)
  })

  test.for(['ext4', 'xfs', 'vfat', 'btrfs', 'ntfs'])(
    'for want of space, by mkfs.%s',
    async (type, { skip }) => {
      skip(cannotMount !== undefined, cannotMount)
      const { path, backend } = await setUp({
        path: makeSmallFilesystem(400_000),
        recipe: { type },
        size: 2 ** 32,
      })
      await expect(backend.open('alice', context())).rejects.toMatchObject({
        code: 'ENOSPC',
        message: expect.stringMatching(/^No space left/),
      })
      expect(contents(path)).toEqual(EMPTY)
    },
  )

  test('for a size that the file system cannot hold', async () => {
    const { path, backend } = await setUp({ recipe: EXT4, size: Number.MAX_SAFE_INTEGER })
    await expect(backend.open('alice', context())).rejects.toMatchObject({ name: 'CreationError' })
    expect(contents(path)).toEqual(EMPTY)
  })
})

describe('A directory that cannot be used is refused at start', () => {
  test('because it does not exist', async () => {
    const path = join(makeDirectory(), 'gone')
    await expect(openDiskDirectory({ path, create: true })).rejects.toThrow(/^--dir: .* it does not exist$/)
    expect(existsSync(path)).toBe(false)
  })

  test('because it is a file', async () => {
    const path = join(makeDirectory(), 'file')
    writeFileSync(path, '')
    await expect(openDiskDirectory({ path, create: true })).rejects.toThrow(/^--dir: .* is not a directory$/)
  })

  test('because it cannot be written, unless no disk is to be made', async ({ skip }) => {
    skip(cannotMount !== undefined, cannotMount)
    const path = makeSmallFilesystem(2 * MIB)
    await (await openDiskDirectory({ path, create: true })).close()
    truncateSync(writeNew(join(path, 'alice')), 4096)
    execFileSync('mount', ['-o', 'remount,ro', path])
    await expect(openDiskDirectory({ path, create: true })).rejects.toMatchObject({
      name: 'DirectoryError',
      code: 'EROFS',
      message: expect.stringMatching(/^--dir: .* is read-only$/),
    })
    const { backend } = await setUp({ path, create: false })
    await expect(backend.open('alice', context())).rejects.toThrow(/--read-only/)
    expect((await backend.open('alice', context({ readOnly: true }))).size).toBe(4096)
  })

  test('because its mode forbids it', async () => {
    const path = makeDirectory()
    chmodSync(path, 0o555)
    await asNobody(async () => {
      await expect(openDiskDirectory({ path, create: true })).rejects.toMatchObject({
        code: 'EACCES',
        message: expect.stringMatching(/^--dir: .* the server may not make disks in it$/),
      })
    })
  })
})

test('Where only the hidden directory can be written, no disk can be made, and the server does not start', async () => {
  const path = makeDirectory()
  mkdirSync(join(path, HIDDEN_NAME))
  chmodSync(join(path, HIDDEN_NAME), 0o777)
  chmodSync(path, 0o555)
  expect(await openAsNobody(path)).toBe(`--dir: ${path} cannot be used: the server may not make disks in it`)
})

test('Where only the hidden directory cannot be written, it is named', async () => {
  const path = makeDirectory()
  mkdirSync(join(path, HIDDEN_NAME))
  chmodSync(join(path, HIDDEN_NAME), 0o555)
  chmodSync(path, 0o777)
  const reason = 'cannot be used: the server may not make disks in it'
  expect(await openAsNobody(path)).toBe(`--dir: ${path}/${HIDDEN_NAME} ${reason}`)
})

/** Opens a directory in a process that is another user's, also where root runs the tests; returns the error's message. */
async function openAsNobody(path: string): Promise<string> {
  const module = new URL('./directory.ts', import.meta.url)
  const script = `
    import { openDiskDirectory } from '${module}'
    if (process.getuid() === 0) process.setuid(65534)
    const message = await openDiskDirectory({ path: process.argv[1], create: true }).then(() => 'opened', error => error.message)
    process.stdout.write(message, () => process.exit())`
  const { stdout } = await promisify(execFile)(process.execPath, [
    '--input-type=module',
    '--eval',
    script,
    '--',
    path,
  ])
  return stdout
}

/** Root may write everywhere. */
async function asNobody(work: () => Promise<void>): Promise<void> {
  const isRoot = process.geteuid?.() === 0
  if (isRoot) process.seteuid?.(65534)
  try {
    await work()
  } finally {
    if (isRoot) process.seteuid?.(0)
  }
}

function writeNew(path: string): string {
  writeFileSync(path, '')
  return path
}

describe('Without the right to create', () => {
  test('disks that exist are served and listed, and no others made', async () => {
    const path = makeDirectory()
    truncateSync(writeNew(join(path, 'alice')), 4096)
    const { backend } = await setUp({ path, create: false })
    expect((await backend.open('alice', context())).size).toBe(4096)
    await expect(backend.open('bob', context())).rejects.toMatchObject({
      name: 'NoSuchDiskError',
      code: 'ENOENT',
    })
    await expect(backend.probe('bob')).rejects.toMatchObject({ code: 'ENOENT' })
    expect(await backend.listExports()).toEqual(['alice'])
    expect(readdirSync(path)).toEqual(['alice'])
  })

  test('leftovers of dead servers are removed all the same', async () => {
    const path = makeDirectory()
    mkdirSync(join(path, HIDDEN_NAME, `ondemand-disk-${'0'.repeat(32)}`), { recursive: true })
    await setUp({ path, create: false })
    expect(stagingEntries(path)).toEqual([])
  })
})

test('A directory in which nothing can be made though it exists is refused, not tried for ever', async () => {
  await expect(openDiskDirectory({ path: '/proc/self', create: true })).rejects.toThrow(
    /^--dir: .* cannot be used/,
  )
})

describe('The directory of disks while the server runs', () => {
  test('may lose its hidden directory: disks are made all the same', async () => {
    const { path, backend } = await setUp({ recipe: { command: 'ln -s /etc/hostname "$disk"' } })
    rmSync(join(path, HIDDEN_NAME), { recursive: true })
    const names = ['alice', 'bob']
    const disks = await Promise.all(names.map(name => backend.open(name, context({ readOnly: true }))))
    await Promise.all(disks.map(disk => backend.close(disk)))
    expect(contents(path)).toEqual({ disks: names, inUse: [] })
  })

  test('has gone: no disk is made until it is back, and the client learns why', async () => {
    const { path, backend } = await setUp()
    renameSync(path, `${path}.away`)
    await expect(backend.open('alice', context())).rejects.toMatchObject({
      code: 'ENOENT',
      message: expect.stringContaining('the directory of disks is gone; put it back, or restart the server'),
    })
    renameSync(`${path}.away`, path)
    await backend.close(await backend.open('alice', context()))
  })

  test('is another one, as when a mount has gone: no disk is made in it', async () => {
    const { path, backend } = await setUp()
    renameSync(path, `${path}.away`)
    mkdirSync(path)
    await expect(backend.open('alice', context())).rejects.toMatchObject({
      code: 'ESTALE',
      message: expect.stringContaining('the directory of disks is another one now'),
    })
    expect(readdirSync(path)).toEqual([])
    // Nor where somebody else has made a hidden directory in it.
    mkdirSync(join(path, HIDDEN_NAME))
    await expect(backend.open('alice', context())).rejects.toMatchObject({ code: 'ESTALE' })
    rmSync(path, { recursive: true })
    renameSync(`${path}.away`, path)
  })
})
