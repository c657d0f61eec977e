import { execFileSync } from 'node:child_process'
import { lstatSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { cachedLookIn, lookBy, openCachedName } from './cached-look.ts'
import { ERRNO } from './errno.ts'

function makeDirectory() {
  const path = mkdtempSync(join(tmpdir(), 'cached-look-'))
  onTestFinished(() => rmSync(path, { recursive: true }))
  const { dev } = lstatSync(path, { bigint: true })
  return { path, dev }
}

const descriptors = () => readdirSync('/proc/self/fd').length

describe('A look at a name', () => {
  test('tells what a file is that the kernel knows', () => {
    const { path, dev } = makeDirectory()
    const file = join(path, 'Schüler')
    writeFileSync(file, 'content')
    const before = descriptors()
    expect(lookBy(openCachedName, dev)(file)).toMatchObject({
      dev,
      ino: lstatSync(file, { bigint: true }).ino,
      size: 7n,
    })
    expect(descriptors()).toBe(before)
  })

  test('tells nothing of what is missing or no file, and waits for none of it', () => {
    const { path, dev } = makeDirectory()
    writeFileSync(join(path, 'file'), '')
    symlinkSync(join(path, 'file'), join(path, 'link'))
    mkdirSync(join(path, 'directory'))
    execFileSync('mkfifo', [join(path, 'fifo')])
    const look = lookBy(openCachedName, dev)
    const before = descriptors()
    for (const name of ['missing', 'link', 'directory', 'fifo', 'file/below']) {
      expect(look(join(path, name)), name).toBeUndefined()
    }
    expect(lookBy(openCachedName, lstatSync('/dev', { bigint: true }).dev)('/dev/null')).toBeUndefined()
    expect(descriptors()).toBe(before)
    expect(look(join(path, 'file'))).toBeDefined()
  })

  test('tells nothing of another file system', () => {
    const { path, dev } = makeDirectory()
    const file = join(path, 'file')
    writeFileSync(file, '')
    expect(lookBy(openCachedName, dev + 1n)(file)).toBeUndefined()
  })

  test.for([
    ['a disk would have to be waited for', 'EAGAIN', 2],
    ['there are too many descriptors', 'EMFILE', 2],
    ['the kernel does not know the call', 'ENOSYS', 1],
    ['the kernel does not know its flag', 'EINVAL', 1],
    ['a seccomp profile forbids the call', 'EPERM', 1],
  ] as const)('tells nothing where %s (%s)', ([, code, calls]) => {
    const asked: string[] = []
    const look = lookBy(path => {
      asked.push(path)
      return -ERRNO[code]
    }, 1n)
    expect([look('/a'), look('/b')]).toEqual([undefined, undefined])
    expect(asked).toEqual(['/a', '/b'].slice(0, calls))
  })
})

test('In a directory whose file system is not known to answer by itself, nothing is looked at', async () => {
  const look = await cachedLookIn('/proc/self')
  expect(look('/proc/self/status')).toBeUndefined()
  expect(await cachedLookIn('/does/not/exist')).toBe(look)
})
