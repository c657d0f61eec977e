/** Which large reads are left to threads. */
import { expect, test } from 'vitest'
import { forgetReader, isLeftToThreads } from './large-read.ts'

const [KIB, MIB] = [2 ** 10, 2 ** 20]

test('A large read is left to threads where others are behind it or under way, up to 2 MiB of them', () => {
  const reader = {}
  expect(isLeftToThreads(reader, 128 * KIB, true, 0, 0)).toBe(true)
  expect(isLeftToThreads(reader, 128 * KIB, false, 1, 0)).toBe(true)
  expect(isLeftToThreads(reader, 128 * KIB, false, 0, 0)).toBe(false)
  expect(isLeftToThreads(reader, 128 * KIB - 1, true, 0, 0)).toBe(false)
  expect(isLeftToThreads(reader, MIB, true, 2 * MIB - 1, 0)).toBe(true)
  expect(isLeftToThreads(reader, MIB, true, 2 * MIB, 0)).toBe(false)
  forgetReader(reader)
})

test('Where two connections have large reads neither leaves them to threads, and 100 ms after that it does', () => {
  const [one, two] = [{}, {}]
  const isLeft = (reader: object, now: number) => isLeftToThreads(reader, 256 * KIB, true, 0, now)
  expect(isLeft(one, 1000)).toBe(true)
  expect(isLeft(two, 1001)).toBe(false)
  expect(isLeft(one, 1050)).toBe(false)
  expect(isLeft(one, 1149)).toBe(false)
  expect(isLeft(one, 1150)).toBe(true)
  // Small reads of another do not count.
  expect(isLeftToThreads(two, 4 * KIB, true, 0, 1160)).toBe(false)
  expect(isLeft(one, 1161)).toBe(true)
  forgetReader(two)
  expect(isLeft(one, 1162)).toBe(true)
  forgetReader(one)
  // The connection before has ended: the next is alone.
  expect(isLeft(two, 1163)).toBe(true)
  forgetReader(two)
})
