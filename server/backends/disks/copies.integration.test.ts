/** Copies of one disk that are asked for at the same time. */
import { closeSync, openSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { settled } from '../file/test-disk.ts'
import { makeDirectory } from './test-directory.ts'
import { context, MIB, setUp } from './test-setup.ts'

const SIZE = 24 * MIB
const LAST = SIZE - 4096

test('Of several that are asked for at once, each is of one moment', async () => {
  const { path, backend } = await setUp()
  writeFileSync(join(path, 'disk'), Buffer.alloc(SIZE, 0xaa))
  const disk = await backend.open('disk', context())
  onTestFinished(() => backend.close(disk))
  const write = (round: number, offset: number) => {
    const block = Buffer.alloc(4096)
    block.writeUInt32BE(round)
    return settled(completion => backend.pwrite(disk, block, 0, block.length, offset, completion))
  }
  // Whatever moment a copy is of, the end of the disk is never ahead of its beginning.
  await write(0, 0)
  await write(0, LAST)
  const targets = [1, 2, 3, 4].map(number => join(makeDirectory(), `copy-${number}`))
  let underWay = targets.length
  const copying = targets.map(async target => {
    const fd = openSync(target, 'wx')
    onTestFinished(() => closeSync(fd))
    await backend.copy('disk', fd, new AbortController().signal).finally(() => underWay--)
    const copy = readFileSync(target)
    return [copy.readUInt32BE(0), copy.readUInt32BE(LAST)] as const
  })
  const copies = Promise.all(copying)
  // It is told below, when all have ended.
  copies.catch(() => {})
  for (let round = 1; underWay > 0; round++) {
    await write(round, 0)
    await write(round, LAST)
  }
  for (const [first = 0, last = 0] of await copies) {
    expect([0, 1]).toContain(first - last)
  }
})

test('One that has waited for others has the size that the disk has when its turn comes', async () => {
  const { path, backend } = await setUp()
  writeFileSync(join(path, 'disk'), Buffer.alloc(SIZE, 0xaa))
  const directory = makeDirectory()
  const copying = [1, 2, 3, 4].map(async number => {
    const fd = openSync(join(directory, `copy-${number}`), 'wx')
    onTestFinished(() => closeSync(fd))
    return await backend.copy('disk', fd, new AbortController().signal)
  })
  await Promise.race(copying)
  truncateSync(join(path, 'disk'), SIZE + MIB)
  const reports = await Promise.all(copying)
  expect(Math.max(...reports.map(({ size }) => size))).toBe(SIZE + MIB)
})
