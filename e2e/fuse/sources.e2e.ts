/** What can stand behind a mounted file beside a regular one, and who may have it. */
import { randomBytes } from 'node:crypto'
import { chmod, readFile, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeEach, expect, test } from 'vitest'
import { check, checkout, type Ended, needPrograms, run, scratch } from '../harness.ts'
import { fuse, loop, mountAt, needRoot, sum, sumOf } from './mounts.ts'

const MiB = 1024 * 1024

beforeEach(needRoot)

/** Runs a program as somebody else. */
const asNobody = (...command: readonly string[]): Promise<Ended> =>
  run('setpriv', ['--reuid=65534', '--regid=65534', '--clear-groups', '--inh-caps=-all', ...command])

test('A block device is read, written, zeroed and locked like an image, and cannot grow', async () => {
  await using folder = await scratch()
  const [backing, data, point] = ['backing', 'data', 'point'].map(name => join(folder.path, name)) as [
    string,
    string,
    string,
  ]
  const content = randomBytes(4 * MiB)
  await writeFile(backing, content)
  await using source = await loop(backing)
  {
    await using file = await fuse(source.device, folder.path)
    expect((await stat(file.path)).size).toBe(content.length)
    expect(await sumOf(file.path)).toBe(sum(content))
    expect((await run('dd', ['if=/dev/zero', `of=${file.path}`, 'bs=4k', 'count=1'])).status).toBe(1)
    expect(await file.stop()).toBe(0)
  }
  await using file = await fuse(source.device, folder.path, ['--writable'])

  const written = randomBytes(300_000)
  await writeFile(data, written)
  await check('dd', [
    ...[`if=${data}`, `of=${file.path}`, 'oflag=seek_bytes', 'seek=12345'],
    ...['bs=1M', 'conv=notrunc,fsync', 'status=none'],
  ])
  written.copy(content, 12345)
  await check('fallocate', ['--zero-range', '-o', `${MiB}`, '-l', `${MiB}`, file.path])
  content.fill(0, MiB, 2 * MiB)
  await check('fallocate', ['--punch-hole', '-o', `${2 * MiB}`, '-l', '65536', file.path])
  content.fill(0, 2 * MiB, 2 * MiB + 65_536)
  // Also what does not keep to the blocks of the device.
  await check('fallocate', ['--zero-range', '-o', '100', '-l', '20000', file.path])
  content.fill(0, 100, 20_100)
  await check('fallocate', ['--punch-hole', '-o', '30001', '-l', '50000', file.path])
  content.fill(0, 30_001, 80_001)
  await check('fallocate', ['--zero-range', '-o', '90001', '-l', '5', file.path])
  content.fill(0, 90_001, 90_006)
  expect(await sumOf(file.path)).toBe(sum(content))

  // Behind the end there is nothing, and a write over it is cut short.
  const past = await run('dd', [
    ...[`if=${data}`, `of=${file.path}`, 'oflag=seek_bytes', `seek=${content.length - 4096}`],
    ...['bs=64k', 'count=1', 'conv=notrunc'],
  ])
  expect(past.status).toBe(1)
  written.copy(content, content.length - 4096, 0, 4096)
  // What Node calls EOPNOTSUPP.
  await expect(truncate(file.path, 8 * MiB)).rejects.toMatchObject({ code: 'ENOTSUP' })
  expect((await stat(file.path)).size).toBe(content.length)

  await writeFile(point, '')
  const second = await run(join(checkout, 'hack/ondemand-disk'), ['fuse', source.device, point])
  expect(second.stderr).toMatch(/in use by .*process \d+/)
  expect(await file.stop()).toBe(0)
  const growing = await run(join(checkout, 'hack/ondemand-disk'), [
    ...['fuse', source.device, point, '--writable', '--growable'],
  ])
  expect(growing.stderr).toContain('cannot grow')
  expect(await mountAt(point)).toBeUndefined()
  await check('blockdev', ['--flushbufs', source.device])
  expect(sum(await readFile(backing))).toBe(sum(content))
})

test('Another user has the file with --allow-other only, and as far as its mode says', async context => {
  await needPrograms(context, 'setpriv')
  await using folder = await scratch()
  await chmod(folder.path, 0o755)
  const image = join(folder.path, 'image')
  const content = randomBytes(MiB)
  await writeFile(image, content)
  {
    await using file = await fuse(image, folder.path, ['--writable'])
    expect((await asNobody('cat', file.path)).stderr).toContain('Permission denied')
    // Bits that nobody could use would only pretend.
    await expect(chmod(file.path, 0o644)).rejects.toMatchObject({ code: 'EPERM' })
    expect(await file.stop()).toBe(0)
  }
  for (const option of ['--allow-other', '--allow-other=auto']) {
    await using file = await fuse(image, folder.path, ['--writable', option])
    expect((await asNobody('cat', file.path)).stderr).toContain('Permission denied')
    await chmod(file.path, 0o644)
    expect((await asNobody('cmp', image, file.path)).stderr).toBe('')
    const write = ['dd', 'if=/dev/zero', `of=${file.path}`, 'bs=4k', 'count=1', 'conv=notrunc']
    expect((await asNobody(...write)).stderr).toContain('Permission denied')
    await check('chown', ['65534:65534', file.path])
    expect((await asNobody(...write)).status).toBe(0)
    content.fill(0, 0, 4096)
    expect(await sumOf(file.path)).toBe(sum(content))
    // Not even root, once it is another's and root's capabilities are gone.
    const plainRoot = ['--bounding-set=-all', '--inh-caps=-all', 'cat', file.path]
    await chmod(file.path, 0o600)
    expect((await run('setpriv', plainRoot)).status).toBe(1)
    expect(await file.stop()).toBe(0)
  }
})
