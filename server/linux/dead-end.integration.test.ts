import { readSync, writeSync } from 'node:fs'
import { expect, test } from 'vitest'
import { openDeadEnd } from './dead-end.ts'

test('What is sent to a dead end waits for nobody', () => {
  using end = openDeadEnd()
  const more = Buffer.alloc(2 ** 24)
  expect(writeSync(end.descriptor, more)).toBeLessThan(more.length)
})

test('A dead end that has hung up is at its end, and cannot be sent to', () => {
  using end = openDeadEnd()
  end.hangUp()
  expect(readSync(end.descriptor, Buffer.alloc(1))).toBe(0)
  expect(() => writeSync(end.descriptor, Buffer.alloc(1))).toThrow('EPIPE')
})
