import { spawn } from 'node:child_process'
import {
  closeSync,
  linkSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { lockFile } from '../../linux/syscalls.ts'
import { openDiskDirectory } from './directory.ts'
import { createDisksBackend } from './disks.ts'
import { findLockHolder } from './lock-holder.ts'
import { prepareRecipe } from './recipe.ts'
import { countDescriptors, makeDirectory, openFilesIn } from './test-directory.ts'

const signal = new AbortController().signal
const WRITE = { readOnly: false, client: 'test', signal }
const READ = { readOnly: true, client: 'test', signal }

async function setUp(path = makeDirectory()) {
  const directory = await openDiskDirectory({ path, create: true })
  onTestFinished(() => directory.close())
  const recipe = await prepareRecipe({ command: 'truncate -s "$size" "$disk"' })
  return { path, backend: createDisksBackend({ directory, recipe, size: 4096 }) }
}

/** Another server, in a process of its own, that holds the disk until it is told to let go. */
async function holdElsewhere(path: string, name: string) {
  const until = join(makeDirectory(), 'until')
  const recipe = { command: 'truncate -s "$size" "$disk"' }
  const order = { path, name, recipe, size: 4096, holdUntil: until }
  const child = spawn(
    process.execPath,
    [join(import.meta.dirname, 'creating-process.ts'), JSON.stringify(order)],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  )
  const ended = new Promise(resolve => child.on('exit', resolve))
  onTestFinished(async () => {
    writeFileSync(until, '')
    await ended
  })
  await new Promise(resolve => child.stdout.once('data', resolve))
  return {
    pid: child.pid,
    async release() {
      writeFileSync(until, '')
      await ended
    },
  }
}

test('A disk that another server holds is refused, and the message names its process', async () => {
  const { path, backend } = await setUp()
  const holder = await holdElsewhere(path, 'alice')
  const before = await countDescriptors()
  for (const context of [WRITE, READ]) {
    // On a busy machine it is not found within the time that is spent on looking for it.
    await expect
      .poll(() => backend.open('alice', context).catch(error => error))
      .toMatchObject({
        name: 'DiskInUseError',
        code: 'EBUSY',
        holder: { pid: holder.pid },
        message: expect.stringContaining(`process ${holder.pid} (`),
      })
  }
  expect(await countDescriptors()).toBe(before)
  await holder.release()
  await backend.close(await backend.open('alice', WRITE))
})

test('A disk that is held here is refused elsewhere until its last user has closed it', async () => {
  const { path, backend } = await setUp()
  const [one, other] = [await backend.open('alice', WRITE), await backend.open('alice', WRITE)]
  const elsewhere = (await setUp(path)).backend
  await expect(elsewhere.open('alice', WRITE)).rejects.toMatchObject({ code: 'EBUSY' })
  await backend.close(one)
  await expect(elsewhere.open('alice', WRITE)).rejects.toMatchObject({ code: 'EBUSY' })
  const closing = backend.close(other)
  await elsewhere.close(await elsewhere.open('alice', WRITE))
  await closing
})

test('The lock is free as soon as the last user begins to close', async () => {
  const { path, backend } = await setUp()
  const disk = await backend.open('alice', WRITE)
  const fd = openSync(join(path, 'alice'), 'r+')
  onTestFinished(() => closeSync(fd))
  expect(lockFile(fd, 'write')).toBe(false)
  const closing = backend.close(disk)
  expect(lockFile(fd, 'write')).toBe(true)
  await closing
})

test('Many may read, but nobody beside a writer', async () => {
  const { path, backend } = await setUp()
  const elsewhere = (await setUp(path)).backend
  const writer = await backend.open('alice', WRITE)
  await expect(backend.open('alice', READ)).rejects.toThrow(/another client of this server/)
  await backend.close(writer)

  const readers = [
    await backend.open('alice', READ),
    await backend.open('alice', READ),
    await elsewhere.open('alice', READ),
  ]
  expect(readers.map(disk => [disk.readOnly, backend.canWrite(disk)])).toEqual(Array(3).fill([true, false]))
  await expect(backend.open('alice', WRITE)).rejects.toMatchObject({
    code: 'EBUSY',
    holder: { pid: process.pid },
  })
  await elsewhere.close(readers[2] ?? expect.fail())
  await backend.close(readers[0] ?? expect.fail())
  await backend.close(readers[1] ?? expect.fail())
  await backend.close(await backend.open('alice', WRITE))
})

test('A disk under a second name, a hard link, is the same disk: it has one writer', async () => {
  const { path, backend } = await setUp()
  await backend.open('alice', WRITE)
  linkSync(join(path, 'alice'), join(path, 'bob'))
  await expect(backend.open('bob', WRITE)).rejects.toMatchObject({ code: 'EBUSY' })
})

test('Two hundred opens and closes in disorder leave no lock and no descriptor', async () => {
  const { path, backend } = await setUp()
  const before = await countDescriptors()
  await Promise.all(
    Array.from({ length: 200 }, async (_, index) => {
      const disk = await backend.open(`disk${index % 5}`, WRITE)
      if (index % 3 === 0) await new Promise(setImmediate)
      await backend.close(disk)
    }),
  )
  expect(openFilesIn(path).filter(file => !file.endsWith('.lock'))).toEqual([])
  expect(await countDescriptors()).toBe(before)
  const elsewhere = (await setUp(path)).backend
  for (let index = 0; index < 5; index++) await elsewhere.close(await elsewhere.open(`disk${index}`, WRITE))
})

test('A close that comes twice closes once', async () => {
  const { backend } = await setUp()
  const [one, other] = [await backend.open('alice', WRITE), await backend.open('bob', WRITE)]
  await backend.close(one)
  await backend.close(one)
  expect(backend.getSize(other)).toBe(4096)
})

test('The holder of a classic record lock is found, and nobody where nobody is', async () => {
  const { path } = await setUp()
  const file = join(path, 'classic')
  writeFileSync(file, '')
  truncateSync(file, 4096)
  const stats = statSync(file, { bigint: true })
  expect(await findLockHolder(stats)).toBeUndefined()
  const script = `import fcntl, sys, time
f = open(sys.argv[1], 'r+')
fcntl.lockf(f, fcntl.LOCK_EX)
print('locked', flush=True)
sys.stdin.read()`
  const child = spawn('python3', ['-c', script, file], { stdio: ['pipe', 'pipe', 'inherit'] })
  onTestFinished(() => {
    child.kill()
    rmSync(file)
  })
  await new Promise(resolve => child.stdout.once('data', resolve))
  expect(await findLockHolder(stats)).toMatchObject({
    pid: child.pid,
    program: expect.stringMatching(/python/),
  })
})

test('A disk that was renamed while a client has it open is held by this server, not by another program', async () => {
  const { path, backend } = await setUp()
  const disk = await backend.open('alice', WRITE)
  renameSync(join(path, 'alice'), join(path, 'bob'))
  await expect(backend.open('bob', WRITE)).rejects.toThrow(/another client of this server/)
  await backend.close(disk)
})
