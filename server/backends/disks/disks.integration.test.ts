import { execFileSync } from 'node:child_process'
import { lstatSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import type { DiskDirectory } from './directory.ts'
import { prepareRecipe } from './recipe.ts'
import { countDescriptors, makeDirectory, openFilesIn } from './test-directory.ts'
import { contents, context, EMPTY, EXT4, MIB, setUp } from './test-setup.ts'

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

test('every creation is told to who wants to know, with its time and how it failed', async () => {
  const told: { ms: number; error: unknown }[] = []
  const onCreation = (ms: number, error: unknown) => told.push({ ms, error })
  const { backend, directory } = await setUp({
    onCreation,
    recipe: { command: 'sleep 0.1; truncate -s 1M "$disk"' },
  })
  await backend.close(await backend.open('alice', context()))
  await backend.close(await backend.open('alice', context()))
  expect(told).toEqual([{ ms: expect.any(Number), error: undefined }])
  expect(told[0]?.ms).toBeGreaterThanOrEqual(100)
  const failing = { recipe: await prepareRecipe({ command: 'false' }), size: MIB, timeoutMs: 1000 }
  await expect(directory.create('bob', failing, new AbortController().signal)).rejects.toThrow('command')
  expect(told[1]?.error).toMatchObject({ name: 'CreationError' })
})
