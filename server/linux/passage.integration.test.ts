/** Data on its way from socket to socket, and into memory where that way is closed. */
import { randomBytes } from 'node:crypto'
import { closeSync, openSync, readdirSync, readSync, unlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { ERRNO } from './errno.ts'
import { Passage, passages } from './passage.ts'

const [HEAD_START, DATA_START] = [50, 64]
const countDescriptors = () => readdirSync('/proc/self/fd').length

/** A passage for so much data, with a header in its buffer. */
function passageOf(length: number) {
  const buffer = Buffer.alloc(DATA_START + length)
  const head = randomBytes(DATA_START - HEAD_START)
  head.copy(buffer, HEAD_START)
  return { buffer, head, passage: new Passage(buffer, HEAD_START, DATA_START, length) }
}

describe('A passage', () => {
  test('has its header and data go out as they came in', () => {
    const data = randomBytes(200_000)
    const { head, passage } = passageOf(data.length)
    expect(passage.open()).toBe(true)
    expect(passage.append(data, 0, 70_000)).toBe(true)
    expect(passage.isWhole).toBe(false)
    expect(passage.append(data, 70_000, data.length)).toBe(true)
    expect(passage.isWhole).toBe(true)
    const path = join(tmpdir(), `passage-${process.pid}`)
    const file = openSync(path, 'w+')
    unlinkSync(path)
    const before = passages.sent
    expect(passage.send(file)).toBe(0)
    expect(passages.sent).toBe(before + 1)
    const sent = Buffer.alloc(head.length + data.length + 1)
    expect(readSync(file, sent, 0, sent.length, 0)).toBe(sent.length - 1)
    closeSync(file)
    expect(sent.subarray(0, -1).equals(Buffer.concat([head, data]))).toBe(true)
  })

  test('that is full leaves what it has in memory, where the rest can follow', () => {
    const data = randomBytes(3 * 2 ** 20)
    const { buffer, head, passage } = passageOf(data.length)
    passage.open()
    let at = 0
    while (passage.append(data, at, at + 65_536)) at += 65_536
    expect(passage.isOpen).toBe(false)
    data.copy(buffer, DATA_START + at, at)
    expect(at).toBeGreaterThan(0)
    expect(buffer.subarray(DATA_START).equals(data)).toBe(true)
    expect(buffer.subarray(HEAD_START, DATA_START).equals(head)).toBe(true)
  })

  test('gives what has not been sent to memory, at any place', () => {
    const data = randomBytes(20_000)
    const { buffer, passage } = passageOf(data.length)
    passage.open()
    passage.append(data, 0, data.length)
    expect(passage.take(10)).toEqual([HEAD_START, HEAD_START + 10])
    expect(passage.take(5000)).toEqual([HEAD_START + 10, HEAD_START + 5010])
    expect(passage.toMemory()).toBe(HEAD_START + 5010)
    expect(buffer.subarray(DATA_START).equals(data)).toBe(true)
  })

  test('that is discarded can begin anew, and one that is closed cannot', () => {
    const data = randomBytes(10_000)
    const { buffer, passage } = passageOf(data.length)
    passage.open()
    passage.append(randomBytes(5000), 0, 5000)
    passage.discard()
    expect(passage.isOpen).toBe(false)
    expect(passage.open()).toBe(true)
    passage.append(data, 0, data.length)
    expect(passage.isWhole).toBe(true)
    passage.toMemory()
    expect(buffer.subarray(DATA_START).equals(data)).toBe(true)
    passage.close()
    expect(passage.open()).toBe(false)
  })

  test('is not to be had for ever more, and leaves no descriptors behind', () => {
    const before = countDescriptors()
    for (let round = 0; round < 3; round++) {
      const all = Array.from({ length: 40 }, () => passageOf(1000).passage)
      const opened = all.filter(passage => passage.open())
      expect(opened).toHaveLength(16)
      for (const passage of all) passage.close()
    }
    expect(countDescriptors()).toBeLessThanOrEqual(before)
  })

  // The last one, since it ends passages for the process.
  test('is given up for good where the system refuses it, and what is in one goes on from memory', () => {
    const data = randomBytes(10_000)
    const { buffer, head, passage } = passageOf(data.length)
    passage.open()
    passage.append(data, 0, data.length)
    const path = join(tmpdir(), `passage-${process.pid}`)
    // splice(2) does not append to files.
    const file = openSync(path, 'a')
    unlinkSync(path)
    expect(passage.send(file)).toBe(ERRNO.EINVAL)
    closeSync(file)
    expect(passage.isRefused).toBe(true)
    expect(passage.toMemory()).toBe(HEAD_START)
    expect(buffer.subarray(HEAD_START).equals(Buffer.concat([head, data]))).toBe(true)
    expect(passage.open()).toBe(false)
  })
})
