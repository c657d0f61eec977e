import { execFileSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { openStaging } from './staging.ts'
import { stagingName, sweep } from './sweep.ts'
import { cannotMount, countDescriptors, makeDirectory } from './test-directory.ts'

const never = new AbortController().signal
const dead = (byte: number) => stagingName(Buffer.alloc(16, byte))

/** A directory as a dead server leaves it. */
function leave(parent: string, name: string): string {
  mkdirSync(join(parent, name, '0'), { recursive: true })
  writeFileSync(join(parent, name, '0', 'disk'), 'half')
  writeFileSync(join(parent, `${name}.lock`), '')
  return join(parent, name)
}

test('What dead servers left is removed, whatever of it is there', async () => {
  const parent = makeDirectory()
  leave(parent, dead(1))
  rmSync(`${leave(parent, dead(2))}.lock`)
  writeFileSync(join(parent, `${dead(3)}.lock`), '')
  expect(await sweep(parent)).toEqual([])
  expect(readdirSync(parent)).toEqual([])
})

test('What a live server makes is not removed, nor anything that only looks like a leftover', async () => {
  const parent = makeDirectory()
  const outside = makeDirectory()
  writeFileSync(join(outside, 'precious'), '')
  mkdirSync(join(parent, 'ondemand-disk-mine'))
  writeFileSync(join(parent, 'alice'), '')
  const staging = await openStaging(parent)
  await staging.use(never, async directory => {
    expect(await sweep(parent)).toEqual([])
    expect(existsSync(directory)).toBe(true)
  })
  symlinkSync(outside, join(leave(parent, dead(4)), '0', 'link'))
  expect(await sweep(parent)).toEqual([])
  expect(readdirSync(outside)).toEqual(['precious'])
  await staging.close()
  expect(readdirSync(parent).sort()).toEqual(['alice', 'ondemand-disk-mine'])
})

test('What a live server makes is not removed either when its lock file has been', async () => {
  const parent = makeDirectory()
  const staging = await openStaging(parent)
  for (const name of readdirSync(parent)) if (name.endsWith('.lock')) rmSync(join(parent, name))
  await staging.use(never, async directory => {
    await sweep(parent)
    expect(existsSync(directory)).toBe(true)
  })
  await staging.close()
  expect(readdirSync(parent)).toEqual([])
})

test('The lock file of a server that makes disks does not grow old', async () => {
  const parent = makeDirectory()
  const staging = await openStaging(parent)
  const lock = join(parent, readdirSync(parent).find(name => name.endsWith('.lock')) as string)
  utimesSync(lock, 1, 1)
  await staging.use(never, async () => {
    expect(statSync(lock).mtimeMs).toBeGreaterThan(Date.now() - 60_000)
  })
  await staging.close()
})

test('A link in place of a lock or a directory is not followed', async () => {
  const parent = makeDirectory()
  const outside = makeDirectory()
  mkdirSync(join(outside, 'precious'))
  symlinkSync(outside, join(parent, dead(5)))
  leave(parent, dead(6))
  rmSync(join(parent, `${dead(6)}.lock`))
  symlinkSync(join(outside, 'created'), join(parent, `${dead(6)}.lock`))
  const problems = await sweep(parent)
  expect(problems).toMatchObject([{ code: 'ELOOP' }])
  expect(readdirSync(outside)).toEqual(['precious'])
})

test('What another user left in a shared directory is not touched', async ({ skip }) => {
  skip(process.geteuid?.() !== 0 && process.env.CI !== 'true', 'needs root, to give a file away')
  const parent = makeDirectory()
  const path = leave(parent, dead(7))
  execFileSync('chown', ['-R', '65534', path, `${path}.lock`])
  expect(await sweep(parent)).toEqual([])
  expect(existsSync(join(path, '0', 'disk'))).toBe(true)
})

test('Many servers that start and stop at once neither fail nor remove each other', async () => {
  const parent = makeDirectory()
  const before = await countDescriptors()
  for (let byte = 0x10; byte < 0x18; byte++) leave(parent, dead(byte))
  const problems: Error[] = []
  await Promise.all(
    Array.from({ length: 24 }, async () => {
      const staging = await openStaging(parent, { onProblem: problem => problems.push(problem) })
      await staging.use(never, async directory => {
        writeFileSync(join(directory, 'disk'), 'content')
        await new Promise(setImmediate)
        expect(readFileSync(join(directory, 'disk'), 'utf8')).toBe('content')
      })
      await staging.close()
    }),
  )
  expect(problems).toEqual([])
  expect(readdirSync(parent)).toEqual([])
  expect(await countDescriptors()).toBe(before)
})

describe('A staging area', () => {
  test('removes what was made in it, when the work succeeds and when it fails', async () => {
    const parent = makeDirectory()
    const staging = await openStaging(parent)
    const seen: string[] = []
    const work = async (directory: string) => {
      seen.push(directory)
      mkdirSync(join(directory, 'a', 'b'), { recursive: true })
      return 7
    }
    expect(await staging.use(never, work)).toBe(7)
    const failing = staging.use(never, async directory => {
      await work(directory)
      throw new Error('no')
    })
    await expect(failing).rejects.toThrow('no')
    expect(seen.map(path => existsSync(path))).toEqual([false, false])
    await staging.close()
    expect(readdirSync(parent)).toEqual([])
  })

  test('makes itself anew when a cleaner of old files has removed it, or someone has taken its place', async () => {
    const parent = makeDirectory()
    const staging = await openStaging(parent)
    for (const disturb of [
      (path: string) => rmSync(path, { recursive: true }),
      (path: string) => {
        renameSync(path, join(parent, 'elsewhere'))
        mkdirSync(path)
      },
    ]) {
      const own = readdirSync(parent).find(
        name => /^ondemand-disk-.*[^k]$/.test(name) && !name.endsWith('.lock'),
      )
      disturb(join(parent, own ?? 'none'))
      const directory = await staging.use(never, async path => path)
      expect(directory.startsWith(join(parent, own ?? 'none'))).toBe(false)
    }
    await staging.close()
  })

  test('lets no more at it than it may, in their order', async () => {
    const staging = await openStaging(makeDirectory(), { maxAtOnce: 3 })
    let running = 0
    let most = 0
    const order: number[] = []
    await Promise.all(
      Array.from({ length: 12 }, (_, index) =>
        staging.use(never, async () => {
          order.push(index)
          most = Math.max(most, ++running)
          await new Promise(resolve => setTimeout(resolve, 2))
          running--
        }),
      ),
    )
    expect(most).toBe(3)
    expect(order.toSorted((one, other) => one - other)).toEqual(
      Array.from({ length: 12 }, (_, index) => index),
    )
    await staging.close()
  })

  test('does not remove what a command has mounted in it', async ({ skip }) => {
    skip(cannotMount !== undefined, cannotMount)
    const precious = makeDirectory()
    writeFileSync(join(precious, 'data'), '')
    const parent = makeDirectory()
    const problems: Error[] = []
    const staging = await openStaging(parent, { onProblem: problem => problems.push(problem) })
    const mountPoint = await staging.use(never, async directory => {
      const path = join(directory, 'mount point')
      mkdirSync(path)
      execFileSync('mount', ['--bind', precious, path])
      return path
    })
    onTestFinished(() => {
      execFileSync('umount', ['-q', mountPoint])
    })
    expect(problems).toMatchObject([{ code: 'EBUSY', message: expect.stringContaining('still mounted') }])
    expect(readdirSync(precious)).toEqual(['data'])
    await expect(staging.close()).rejects.toMatchObject({ code: 'EBUSY' })
    expect(readdirSync(precious)).toEqual(['data'])
  })
})
