import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import type { OpenContext } from '../backend.ts'
import { type DiskDirectory, type DiskDirectoryOptions, HIDDEN_NAME, openDiskDirectory } from './directory.ts'
import { createDisksBackend, type DisksConfig } from './disks.ts'
import { prepareRecipe, type Recipe } from './recipe.ts'
import {
  cannotMount,
  countDescriptors,
  makeDirectory,
  makeSmallFilesystem,
  openFilesIn,
  stagingEntries,
} from './test-directory.ts'

const MIB = 2 ** 20
const EXT4: Recipe = { type: 'ext4' }
/** A command that is quick and whose disk is easy to recognise. */
const QUICK: Recipe = { command: 'printf x > "$disk"; truncate -s "$size" "$disk"' }

const context = (options: Partial<OpenContext> = {}): OpenContext => ({
  readOnly: false,
  client: 'test',
  signal: new AbortController().signal,
  ...options,
})

interface Setup extends Partial<Omit<DiskDirectoryOptions, 'path'>>, Partial<Omit<DisksConfig, 'recipe'>> {
  readonly path?: string
  readonly recipe?: Recipe
}

async function setUp({ path = makeDirectory(), recipe = QUICK, create = true, ...rest }: Setup = {}) {
  const problems: Error[] = []
  const onProblem = (problem: Error) => problems.push(problem)
  const directory = await openDiskDirectory({ path, create, onProblem, ...rest })
  onTestFinished(() => directory.close())
  const prepared = await prepareRecipe(recipe)
  const backend = createDisksBackend({ directory, recipe: prepared, size: MIB, ...rest })
  return { path, directory, backend, problems }
}

/** Names in the directory, and the staging directories that are in use. */
function contents(path: string) {
  const hidden = join(path, HIDDEN_NAME)
  const inUse = stagingEntries(path).flatMap(name =>
    name.endsWith('.lock') ? [] : readdirSync(join(hidden, name)),
  )
  return { disks: readdirSync(path).filter(name => name !== HIDDEN_NAME), inUse }
}

const EMPTY = { disks: [], inUse: [] }

describe('A disk made on demand', () => {
  test.for<[type: string, label: string, check: string, ...args: string[]]>([
    ['ext2', 'sixteen bytes ok', 'e2fsck', '-fn'],
    ['ext3', 'Schüler', 'e2fsck', '-fn'],
    ['ext4', '-F', 'e2fsck', '-fn'],
    ['xfs', 'pupils of 7b', 'xfs_repair', '-n', '-f'],
    ['vfat', 'PUPILS 7B', 'fsck.vfat', '-n'],
    ['btrfs', 'Schüler "7b" $(id)', 'btrfs', 'check', '--readonly'],
    ['ntfs', 'Schüler 7b', 'ntfsfix', '-n'],
  ])('passes the check of %s and carries the label %s', async ([type, label, check, ...args]) => {
    const { path, backend } = await setUp({ recipe: { type, label }, size: 400 * MIB })
    const disk = await backend.open('alice', context())
    expect(disk.size).toBe(400 * MIB)
    await backend.close(disk)
    const file = join(path, 'alice')
    execFileSync(check, [...args, file], {
      stdio: 'pipe',
      env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
    })
    const probed = execFileSync('/sbin/blkid', ['-p', '-o', 'export', file], { encoding: 'utf8' })
    expect(probed).toMatch(new RegExp(`^TYPE=${type}$`, 'm'))
    const shown = execFileSync('/sbin/blkid', ['-p', '-s', 'LABEL', '-o', 'value', file], {
      encoding: 'utf8',
    })
    expect(shown.trimEnd()).toBe(label)
    const { blocks, mode } = lstatSync(file)
    expect(blocks * 512, 'allocated').toBeLessThan(100 * MIB)
    expect((mode & 0o777).toString(8)).toBe('600')
  })

  test('takes the options of mkfs', async () => {
    const { path, backend } = await setUp({
      recipe: { type: 'ext4', mkfsOptions: ['-b', '1024', '-O', '^has_journal'] },
      size: 32 * MIB,
    })
    await backend.close(await backend.open('alice', context()))
    const shown = execFileSync('/sbin/dumpe2fs', ['-h', join(path, 'alice')], {
      encoding: 'utf8',
      stdio: 'pipe',
    })
    expect(shown).toMatch(/Block size: +1024/)
    expect(shown).not.toContain('has_journal')
  })

  test('has the size that the client asked for, and keeps it', async () => {
    const { path, backend } = await setUp({ recipe: EXT4 })
    const sizes: number[] = []
    for (const requestedSize of [4 * MIB, 8 * MIB]) {
      const disk = await backend.open('alice', context({ requestedSize }))
      sizes.push(disk.size)
      await backend.close(disk)
    }
    expect(sizes).toEqual([4 * MIB, 4 * MIB])
    expect(statSync(join(path, 'alice')).size).toBe(4 * MIB)
  })

  test('is whatever size its command made', async () => {
    const { backend } = await setUp({
      recipe: { command: 'truncate -s "$more" "$disk"', variables: { more: '12345' } },
    })
    expect((await backend.open('alice', context())).size).toBe(12345)
  })

  test('can be written and read back, and stays', async () => {
    const { path, backend } = await setUp({ recipe: EXT4 })
    const disk = await backend.open('', context())
    const completion = () => {
      let complete = (_error?: unknown) => {}
      const done = new Promise<void>((resolve, reject) => {
        complete = error => (error === undefined || error === null ? resolve() : reject(error))
      })
      return { done, complete: (error?: unknown) => complete(error) }
    }
    const text = Buffer.from('hello')
    const written = completion()
    if (backend.pwrite(disk, text, 0, 5, 1000, written) === undefined) written.complete()
    await written.done
    const flushed = completion()
    if (backend.flush(disk, flushed) === undefined) flushed.complete()
    await flushed.done
    await backend.close(disk)
    const found = execFileSync('dd', [`if=${join(path, 'default')}`, 'bs=1', 'skip=1000', 'count=5'], {
      stdio: 'pipe',
    })
    expect(found.toString()).toBe('hello')
  })
})

describe('Many clients at once', () => {
  test('twenty who ask for one new name get one disk, made once', async () => {
    let published = 0
    const onStep = async (step: string) => {
      if (step === 'published') published++
    }
    const { path, backend } = await setUp({ recipe: EXT4, size: 64 * MIB, onStep })
    const before = await countDescriptors()
    const disks = await Promise.all(Array.from({ length: 20 }, () => backend.open('alice', context())))
    expect(published).toBe(1)
    expect(new Set(disks.map(disk => disk.fd)).size).toBe(1)
    expect(contents(path)).toEqual({ disks: ['alice'], inUse: [] })
    await Promise.all(disks.map(disk => backend.close(disk)))
    expect(await countDescriptors()).toBe(before)
  })

  test('fifty who ask for fifty new names get fifty disks', async () => {
    const { path, backend } = await setUp({ recipe: EXT4, size: 64 * MIB })
    const before = await countDescriptors()
    const names = Array.from({ length: 50 }, (_, index) => `disk${index}`)
    const disks = await Promise.all(names.map(name => backend.open(name, context())))
    expect(new Set(disks.map(disk => disk.fd)).size).toBe(50)
    await Promise.all(disks.map(disk => backend.close(disk)))
    expect(contents(path)).toEqual({ disks: names.toSorted(), inUse: [] })
    for (const name of names) execFileSync('/sbin/e2fsck', ['-fn', join(path, name)], { stdio: 'pipe' })
    expect(await countDescriptors()).toBe(before)
  })

  test('one whose disk takes long delays nobody else', async () => {
    const gate = join(makeDirectory(), 'gate')
    const command = `case "$size" in 4096) until [ -e "$gate" ]; do sleep 0.02; done;; esac; truncate -s "$size" "$disk"`
    const { backend } = await setUp({ recipe: { command, variables: { gate } } })
    const slow = backend.open('slow', context({ requestedSize: 4096 }))
    expect((await backend.open('quick', context())).size).toBe(MIB)
    writeFileSync(gate, '')
    expect((await slow).size).toBe(4096)
  })

  test('never more disks than the limit, which the refusal names', async () => {
    const { path, backend } = await setUp({ maxDisks: 4 })
    await backend.close(await backend.open('first', context()))
    mkdirSync(join(path, 'no disk'))
    writeFileSync(join(path, '.hidden'), '')
    const names = Array.from({ length: 12 }, (_, index) => `disk${index}`)
    const results = await Promise.allSettled(names.map(name => backend.open(name, context())))
    const refused = results.filter(result => result.status === 'rejected')
    expect(refused.length).toBe(9)
    for (const { reason } of refused) {
      expect(reason).toMatchObject({
        name: 'TooManyDisksError',
        code: 'EDQUOT',
        message: expect.stringContaining('at most 4 (--max-disks)'),
      })
    }
    expect(contents(path).disks.filter(name => name.startsWith('disk')).length).toBe(3)
    rmSync(join(path, 'first'))
    await backend.open('again', context())
    await expect(backend.open('more', context())).rejects.toMatchObject({ code: 'EDQUOT' })
    // A disk that exists is no new one.
    await backend.open('again', context())
  })
})

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
      /^The command failed: .*nosuchcommand.*not found/,
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

describe('What is in the directory, but is no disk of ours', () => {
  async function plant(path: string): Promise<string> {
    const secret = join(makeDirectory(), 'secret')
    writeFileSync(secret, 'secret')
    symlinkSync(secret, join(path, 'link'))
    symlinkSync('nowhere', join(path, 'dangling'))
    execFileSync('mkfifo', [join(path, 'fifo')])
    mkdirSync(join(path, 'directory'))
    writeFileSync(join(path, '.hidden'), 'x')
    const server = createServer().listen(join(path, 'socket'))
    await new Promise(resolve => server.on('listening', resolve))
    onTestFinished(() => {
      server.close()
    })
    return secret
  }

  test('is neither listed nor opened nor replaced', async () => {
    const { path, backend } = await setUp({ recipe: EXT4, names: 'relaxed' })
    await plant(path)
    const listing = readdirSync(path)
    const before = await countDescriptors()
    expect(await backend.listExports()).toEqual([''])
    for (const name of ['link', 'dangling', 'fifo', 'directory', 'socket']) {
      for (const readOnly of [false, true]) {
        await expect(backend.open(name, context({ readOnly }))).rejects.toMatchObject({
          name: 'NotADiskError',
          code: 'EINVAL',
        })
      }
      await expect(backend.probe(name)).rejects.toMatchObject({ code: 'EINVAL' })
    }
    for (const name of ['.hidden', '.ondemand-disk', '..', '.', 'a/b', '../x', 'a\0b', 'x'.repeat(256)]) {
      await expect(backend.open(name, context())).rejects.toMatchObject({ name: 'ExportNameError' })
    }
    expect(readdirSync(path)).toEqual(listing)
    expect(await countDescriptors()).toBe(before)
  })

  test('is not served in place of a link of ours, not even as a copy of it', async () => {
    const target = join(makeDirectory(), 'target')
    writeFileSync(target, 'target')
    const { path, backend } = await setUp({
      recipe: { command: 'ln -s "$target" "$disk"', variables: { target } },
    })
    await backend.close(await backend.open('alice', context()))
    linkSync(join(path, 'alice'), join(path, 'bob'))
    symlinkSync(target, join(path, 'carol'))
    await expect(backend.open('bob', context())).rejects.toMatchObject({ name: 'NotADiskError' })
    await expect(backend.open('carol', context())).rejects.toMatchObject({ name: 'NotADiskError' })
    renameSync(join(path, 'carol'), join(path, 'alice'))
    await expect(backend.open('alice', context())).rejects.toMatchObject({ name: 'NotADiskError' })
    expect(await backend.listExports()).toEqual([''])
  })
})

describe('A link that the command made', () => {
  test('is served and listed, also after a restart, and its record goes with it', async () => {
    const target = join(makeDirectory(), 'target')
    writeFileSync(target, 'target')
    const recipe = { command: 'ln -s "$target" "$disk"', variables: { target } }
    const { path, backend, directory } = await setUp({ recipe })
    const disk = await backend.open('alice', context())
    expect(disk.size).toBe(6)
    await backend.close(disk)
    await directory.close()

    const later = await setUp({ path, recipe: { command: 'false' } })
    expect(await later.backend.listExports()).toEqual(['', 'alice'])
    expect(await later.backend.probe('alice')).toEqual({ size: 6 })
    await later.backend.close(await later.backend.open('alice', context()))
    expect(existsSync(join(path, HIDDEN_NAME, 'links', 'alice'))).toBe(true)
    rmSync(join(path, 'alice'))
    await later.directory.close()
    await setUp({ path })
    expect(existsSync(join(path, HIDDEN_NAME, 'links', 'alice'))).toBe(false)
  })

  test('is an error when its target has gone, and never replaced', async () => {
    const target = join(makeDirectory(), 'target')
    writeFileSync(target, 'target')
    const { path, backend } = await setUp({
      recipe: { command: 'ln -s "$target" "$disk"', variables: { target } },
    })
    await backend.close(await backend.open('alice', context()))
    rmSync(target)
    await expect(backend.open('alice', context())).rejects.toThrow(/what its link points to is gone/)
    expect(lstatSync(join(path, 'alice')).isSymbolicLink()).toBe(true)
  })

  test.for(['ln -s "$loop" "$disk"', 'cp -a "$loop" "$disk"'])(
    'or a block device, by %s, is served with its size',
    async (command, { skip }) => {
      skip(cannotMount !== undefined, cannotMount)
      const backing = join(makeDirectory(), 'backing')
      truncateSync(writeNew(backing), 3 * MIB)
      const loop = execFileSync('losetup', ['-f', '--show', backing], { encoding: 'utf8' }).trim()
      onTestFinished(() => {
        execFileSync('losetup', ['-d', loop])
      })
      const { path, backend } = await setUp({ recipe: { command, variables: { loop } } })
      const disk = await backend.open('alice', context())
      expect(disk).toMatchObject({ size: 3 * MIB, blockDevice: true })
      await backend.close(disk)
      expect(await backend.listExports()).toEqual(['', 'alice'])
      // A device that somebody planted is not served.
      execFileSync('cp', ['-a', loop, join(path, 'planted')])
      await expect(backend.open('planted', context())).rejects.toThrow(/block device that no --command/)
    },
  )
})

describe('Asking', () => {
  test('creates nothing and tells the size that a disk has or would have', async () => {
    const { path, backend } = await setUp({ recipe: EXT4 })
    expect(await backend.probe('alice')).toEqual({ size: MIB })
    expect(await backend.probe('alice', 5 * MIB)).toEqual({ size: 5 * MIB })
    expect(await backend.listExports()).toEqual([''])
    expect(contents(path)).toEqual(EMPTY)
    await backend.close(await backend.open('alice', context({ requestedSize: 2 * MIB })))
    expect(await backend.probe('alice', 5 * MIB)).toEqual({ size: 2 * MIB })
  })

  test('cannot tell the size that a command will choose', async () => {
    const { backend } = await setUp()
    expect(await backend.probe('alice')).toBeUndefined()
  })

  test('lists valid names only, sorted, the default disk as the empty name', async () => {
    const { path, backend } = await setUp()
    for (const name of ['zoe', 'default', 'alice', 'with space', 'a.b', 'a:b', 'Ünal'])
      writeFileSync(join(path, name), 'x')
    writeFileSync(Buffer.concat([Buffer.from(`${path}/bad`), Buffer.from([0xff])]), 'x')
    expect(await backend.listExports()).toEqual(['', 'alice', 'with space', 'zoe', 'Ünal'])
    const relaxed = await setUp({ path, names: 'relaxed' })
    expect(await relaxed.backend.listExports()).toEqual([
      '',
      'a.b',
      'a:b',
      'alice',
      'with space',
      'zoe',
      'Ünal',
    ])
  })

  test('lists at most 10,000 names', async () => {
    const { path, backend } = await setUp()
    for (let index = 0; index < 10_050; index++) writeFileSync(join(path, `disk${index}`), '')
    expect(await backend.listExports()).toHaveLength(10_000)
  })

  test('lists nothing where names do not tell the files', async () => {
    const { path, backend } = await setUp({ fileName: name => `uid-${name}` })
    await backend.close(await backend.open('alice', context()))
    expect(readdirSync(path)).toContain('uid-alice')
    expect(await backend.listExports()).toEqual([])
    const evil = await setUp({ path, fileName: name => `../${name}` })
    await expect(evil.backend.open('alice', context())).rejects.toMatchObject({ name: 'ExportNameError' })
  })
})

describe('The wait for a disk', () => {
  const slowly = (gate: string): Recipe => ({
    command: 'echo >> "$gate.count"; until [ -e "$gate" ]; do sleep 0.02; done; truncate -s 1M "$disk"',
    variables: { gate },
  })
  const begun = (gate: string) => vi.waitFor(() => expect(existsSync(`${gate}.count`)).toBe(true))
  const count = (gate: string) => statSync(`${gate}.count`).size

  test('ends for a client that has gone, and goes on for the others', async () => {
    const gate = join(makeDirectory(), 'gate')
    const { backend } = await setUp({ recipe: slowly(gate) })
    const controller = new AbortController()
    const first = backend.open('alice', context({ signal: controller.signal }))
    const second = backend.open('alice', context())
    await begun(gate)
    controller.abort()
    await expect(first).rejects.toMatchObject({ name: 'CreationAbortedError', code: 'ECANCELED' })
    writeFileSync(gate, '')
    expect((await second).size).toBe(MIB)
    expect(count(gate)).toBe(1)
  })

  test('is not in vain if all have gone: who comes back joins it', async () => {
    const gate = join(makeDirectory(), 'gate')
    const { path, backend } = await setUp({ recipe: slowly(gate) })
    const controller = new AbortController()
    const first = backend.open('alice', context({ signal: controller.signal }))
    await begun(gate)
    controller.abort()
    await expect(first).rejects.toMatchObject({ code: 'ECANCELED' })
    const again = backend.open('alice', context())
    writeFileSync(gate, '')
    expect((await again).size).toBe(MIB)
    expect(count(gate)).toBe(1)
    expect(openFilesIn(path)).toHaveLength(2)
  })

  test('is dropped from the queue if all have gone, and begins anew for who comes back', async () => {
    const gate = join(makeDirectory(), 'gate')
    const { path, backend, problems } = await setUp({ recipe: slowly(gate), maxAtOnce: 1 })
    const blocker = backend.open('blocker', context())
    await begun(gate)
    const controller = new AbortController()
    const queued = backend.open('alice', context({ signal: controller.signal }))
    await new Promise(resolve => setTimeout(resolve, 20))
    controller.abort()
    await expect(queued).rejects.toMatchObject({ code: 'ECANCELED' })
    const again = backend.open('bob', context())
    writeFileSync(gate, '')
    await Promise.all([blocker, again])
    expect(contents(path)).toEqual({ disks: ['blocker', 'bob'], inUse: [] })
    expect(problems).toEqual([])
  })

  test('ends when the server stops, with the command, and leaves nothing', async () => {
    const gate = join(makeDirectory(), 'gate')
    const before = await countDescriptors()
    const { path, backend, directory, problems } = await setUp({ recipe: slowly(gate) })
    const waiting = backend.open('alice', context())
    const outcome = expect(waiting).rejects.toMatchObject({ code: 'ECANCELED' })
    await begun(gate)
    await directory.close()
    await outcome
    expect(contents(path)).toEqual(EMPTY)
    expect(problems).toEqual([])
    await expect(backend.open('bob', context())).rejects.toMatchObject({ code: 'ENOENT' })
    expect(await countDescriptors()).toBe(before)
  })

  test('does not begin for a client that has gone before', async () => {
    const { path, backend } = await setUp()
    await expect(backend.open('alice', context({ signal: AbortSignal.abort() }))).rejects.toMatchObject({
      code: 'ECANCELED',
    })
    expect(contents(path)).toEqual(EMPTY)
  })

  test('that nobody waited for to fail is reported as a problem', async () => {
    const gate = join(makeDirectory(), 'gate')
    const recipe = {
      command: 'echo > "$gate.count"; until [ -e "$gate" ]; do sleep 0.02; done; false',
      variables: { gate },
    }
    const { backend, problems } = await setUp({ recipe })
    const controller = new AbortController()
    const first = backend.open('alice', context({ signal: controller.signal }))
    await begun(gate)
    controller.abort()
    await expect(first).rejects.toMatchObject({ code: 'ECANCELED' })
    writeFileSync(gate, '')
    await vi.waitFor(() => expect(problems).toMatchObject([{ name: 'CreationError' }]))
  })
})

describe('A disk that is deleted', () => {
  test('while it is open is made anew for the next client, and the old one lives on for its own', async () => {
    const { path, backend } = await setUp()
    const old = await backend.open('alice', context())
    rmSync(join(path, 'alice'))
    const young = await backend.open('alice', context())
    expect(young.fd).not.toBe(old.fd)
    await backend.close(old)
    await backend.close(young)
    expect(openFilesIn(path).filter(file => !file.endsWith('.lock'))).toEqual([])
  })

  test('as soon as it is made, again and again, is given up', async () => {
    const path = makeDirectory()
    const onStep = async (step: string) => {
      if (step === 'cleared') rmSync(join(path, 'alice'))
    }
    const { backend } = await setUp({ path, onStep })
    await expect(backend.open('alice', context())).rejects.toMatchObject({ code: 'EAGAIN' })
  })
})

test('Two directories of disks can be open on the same path', async () => {
  const one = await setUp()
  const other = await setUp({ path: one.path })
  await one.backend.close(await one.backend.open('alice', context()))
  await other.backend.close(await other.backend.open('alice', context()))
  expect(contents(one.path)).toEqual({ disks: ['alice'], inUse: [] })
})

test('A directory that is closed twice is closed once', async () => {
  const { directory }: { directory: DiskDirectory } = await setUp()
  await Promise.all([directory.close(), directory.close()])
})
