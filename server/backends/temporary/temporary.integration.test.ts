import { execFileSync } from 'node:child_process'
import { fstatSync, readdirSync, readSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import type { OpenContext } from '../backend.ts'
import { prepareRecipe, type Recipe } from '../disks/recipe.ts'
import {
  cannotMount,
  countDescriptors,
  makeDirectory,
  openFilesIn,
  runProcess,
} from '../disks/test-directory.ts'
import {
  createTemporaryBackend,
  openTemporaryArea,
  type TemporaryConfig,
  temporaryDirectory,
} from './temporary.ts'

const MIB = 2 ** 20

const context = (options: Partial<OpenContext> = {}): OpenContext => ({
  readOnly: false,
  client: 'test',
  signal: new AbortController().signal,
  ...options,
})

async function setUp(recipe: Recipe, config: Partial<Omit<TemporaryConfig, 'recipe' | 'area'>> = {}) {
  const path = makeDirectory()
  const problems: Error[] = []
  const area = await openTemporaryArea(path, { onProblem: problem => problems.push(problem) })
  onTestFinished(() => area.close())
  const backend = createTemporaryBackend({ area, recipe: await prepareRecipe(recipe), size: MIB, ...config })
  return { path, area, backend, problems }
}

/** Everything below the place for temporary disks, but the server's own directory and lock. */
function leftIn(path: string): string[] {
  return (readdirSync(path, { recursive: true }) as string[]).filter(name => name.includes('/'))
}

describe('Every connection', () => {
  test('gets a fresh disk, whatever name it asks for, that has no name itself', async () => {
    const { path, backend } = await setUp({ type: 'ext4', label: 'scratch' }, { size: 16 * MIB })
    const before = await countDescriptors()
    const disks = await Promise.all(
      ['', 'alice', 'alice', '../etc', 'a\0b'].map(name => backend.open(name, context())),
    )
    expect(new Set(disks.map(disk => fstatSync(disk.fd).ino)).size).toBe(disks.length)
    for (const disk of disks) {
      expect(disk).toMatchObject({ size: 16 * MIB, durable: false, readOnly: false })
      expect(fstatSync(disk.fd).nlink).toBe(0)
      expect(
        execFileSync('/sbin/blkid', [
          '-p',
          '-s',
          'LABEL',
          '-o',
          'value',
          `/proc/${process.pid}/fd/${disk.fd}`,
        ]).toString(),
      ).toBe('scratch\n')
    }
    expect(leftIn(path)).toEqual([])
    for (const disk of disks) await backend.close(disk)
    expect(await countDescriptors()).toBe(before)
    expect(backend.listExports()).toEqual([''])
  })

  test('is not made to wait for a sync', async () => {
    const { backend } = await setUp({ type: 'ext4' })
    const disk = await backend.open('', context())
    const complete = vi.fn()
    expect(backend.flush(disk, { complete })).toBeUndefined()
    expect(complete).not.toHaveBeenCalled()
  })

  test('can get a copy of a template, whose size counts', async () => {
    const template = join(makeDirectory(), 'template')
    writeFileSync(template, 'precious')
    const { backend } = await setUp(
      { command: 'cp "$base" "$disk"', variables: { base: template } },
      { size: 0 },
    )
    const [one, other] = [
      await backend.open('', context()),
      await backend.open('', context({ readOnly: true })),
    ]
    expect([one.size, other.size, backend.canWrite(one), backend.canWrite(other)]).toEqual([
      8,
      8,
      true,
      false,
    ])
    const found = Buffer.alloc(8)
    readSync(other.fd, found, 0, 8, 0)
    expect(found.toString()).toBe('precious')
    expect(backend.probe('', undefined)).toBeUndefined()
  })

  test('can choose a size', async () => {
    const { backend } = await setUp({ type: 'ext4' })
    expect((await backend.open('', context({ requestedSize: 3 * MIB }))).size).toBe(3 * MIB)
    expect(backend.probe('', 3 * MIB)).toEqual({ size: 3 * MIB })
    expect(backend.probe('', undefined)).toEqual({ size: MIB })
  })

  test('can get a link, also a relative one to a file beside the disk', async () => {
    const { path, backend } = await setUp({ command: 'echo content > real; ln -s real "$disk"' })
    expect((await backend.open('', context())).size).toBe(8)
    expect(leftIn(path)).toEqual([])
  })

  test.for(['ln -s "$loop" "$disk"', 'cp -a "$loop" "$disk"'])(
    'can get a block device, by %s',
    async (command, { skip }) => {
      skip(cannotMount !== undefined, cannotMount)
      const backing = join(makeDirectory(), 'backing')
      writeFileSync(backing, '')
      truncateSync(backing, 3 * MIB)
      const loop = execFileSync('losetup', ['-f', '--show', backing], { encoding: 'utf8' }).trim()
      onTestFinished(() => {
        execFileSync('losetup', ['-d', loop])
      })
      const { path, backend } = await setUp({ command, variables: { loop } })
      const disk = await backend.open('', context())
      expect(disk).toMatchObject({ size: 3 * MIB, blockDevice: true, durable: false })
      expect(leftIn(path)).toEqual([])
      await backend.close(disk)
    },
  )
})

describe('A temporary disk that cannot be made leaves nothing', () => {
  test.for<[string, Recipe, RegExp]>([
    ['because mkfs fails', { type: 'btrfs' }, /^mkfs\.btrfs failed/],
    [
      'because the command fails when the disk is there',
      { command: 'echo > "$disk"; echo why >&2; false' },
      /^The command failed: why$/,
    ],
    ['because the command makes nothing', { command: 'true' }, /made nothing/],
    ['because the command makes a directory', { command: 'mkdir "$disk"' }, /made a directory/],
    ['because the command makes an empty disk', { command: ': > "$disk"' }, /empty disk/],
    ['because the command hangs', { command: 'echo > "$disk"; sleep 60' }, /--command-timeout/],
  ])('%s', async ([, recipe, message]) => {
    // What does not hang has time also on a busy machine.
    const commandTimeoutMs = message.source.includes('timeout') ? 300 : 60_000
    const { path, backend, problems } = await setUp(recipe, { commandTimeoutMs })
    const before = await countDescriptors()
    await expect(backend.open('', context())).rejects.toThrow(message)
    expect(leftIn(path)).toEqual([])
    expect(problems).toEqual([])
    expect(await countDescriptors()).toBe(before)
  })

  test('because its client has gone, whose command is stopped', async () => {
    const { path, backend } = await setUp({ command: 'echo > "$disk"; sleep 60' })
    const controller = new AbortController()
    const waiting = backend.open('', context({ signal: controller.signal }))
    const outcome = expect(waiting).rejects.toMatchObject({ code: 'ECANCELED' })
    await vi.waitFor(() => expect(leftIn(path).some(name => name.endsWith('/disk'))).toBe(true))
    controller.abort()
    await outcome
    expect(leftIn(path)).toEqual([])
  })

  test('because the server stops, which ends the command', async () => {
    const { path, area, backend } = await setUp({ command: 'echo > "$disk"; sleep 60' })
    const outcome = expect(backend.open('', context())).rejects.toMatchObject({ code: 'ECANCELED' })
    await vi.waitFor(() => expect(leftIn(path).some(name => name.endsWith('/disk'))).toBe(true))
    await area.close()
    await outcome
    expect(readdirSync(path)).toEqual([])
    await expect(backend.open('', context())).rejects.toMatchObject({ code: 'ECANCELED' })
  })

  test('because the server is killed in the middle: the next one sweeps', async () => {
    const path = makeDirectory()
    const order = { path, command: 'echo > "$disk"; kill -9 $PPID; sleep 0.2' }
    expect((await runProcess('../temporary/opening-process.ts', order)).signal).toBe('SIGKILL')
    expect(readdirSync(path).length).toBe(2)
    const area = await openTemporaryArea(path)
    expect(readdirSync(path).length, 'its own directory and lock').toBe(2)
    expect(leftIn(path)).toEqual([])
    await area.close()
    expect(readdirSync(path)).toEqual([])
  })

  test('for all of many at once', async () => {
    const { path, backend } = await setUp({ command: 'echo > "$disk"; exit 1' })
    const before = await countDescriptors()
    const results = await Promise.allSettled(Array.from({ length: 40 }, () => backend.open('', context())))
    expect(results.every(result => result.status === 'rejected')).toBe(true)
    expect(leftIn(path)).toEqual([])
    expect(await countDescriptors()).toBe(before)
  })
})

test('A server killed while temporary disks are open leaves none of their space taken', async () => {
  const path = makeDirectory()
  const order = { path, command: 'truncate -s 1M "$disk"', thenDie: true }
  expect((await runProcess('../temporary/opening-process.ts', order)).signal).toBe('SIGKILL')
  expect(leftIn(path)).toEqual([])
})

test('The place for temporary disks is private and refuses a bad directory with a hint', async () => {
  const { path } = await setUp({ type: 'ext4' })
  const modes = execFileSync('stat', [
    '-c',
    '%a %F',
    ...readdirSync(path).map(name => join(path, name)),
  ]).toString()
  expect(modes.trim().split('\n').sort()).toEqual(['600 regular empty file', '700 directory'])
  await expect(openTemporaryArea(join(path, 'gone'))).rejects.toThrow(/set TMPDIR/)
  expect(openFilesIn(join(path, 'gone'))).toEqual([])
})

test('A directory of someone else in its place is not used', async () => {
  const { path, backend } = await setUp({ command: 'echo > "$disk"' })
  const own = readdirSync(path).find(name => !name.endsWith('.lock')) ?? expect.fail()
  execFileSync('rmdir', [join(path, own)])
  const foreign = makeDirectory()
  symlinkSync(foreign, join(path, own))
  await backend.open('', context())
  expect(readdirSync(foreign)).toEqual([])
})

test('Temporary disks are made in $TMPDIR, else in /var/tmp', () => {
  vi.stubEnv('TMPDIR', '/somewhere')
  expect(temporaryDirectory()).toBe('/somewhere')
  vi.stubEnv('TMPDIR', '')
  expect(temporaryDirectory()).toBe('/var/tmp')
  vi.unstubAllEnvs()
})

test('No size is possible without a command', async () => {
  const area = await openTemporaryArea(makeDirectory())
  const recipe = await prepareRecipe({ type: 'ext4' })
  expect(() => createTemporaryBackend({ area, recipe, size: 0 })).toThrow(/^--size: 0 bytes/)
  await area.close()
})
