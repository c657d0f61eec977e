import { describe, expect, test } from 'vitest'
import { SlowWrites } from './slow-writes.ts'

/** A thread whose writes take so many ms, asleep or without the processor. */
function writer() {
  let [now, sleeps, asked] = [1000, 0, 0]
  const writes = new SlowWrites(() => {
    asked++
    return sleeps
  })
  const write = (ms: number, slept: boolean) => {
    const startedAt = now
    writes.begin(now)
    now += ms
    if (slept) sleeps++
    return writes.end(startedAt, now)
  }
  const pass = (ms: number) => {
    now += ms
  }
  return { write, pass, mayWrite: () => writes.mayWrite(now), asked: () => asked }
}

describe('Writes on the event loop', () => {
  test('go on, however often another program has the processor', () => {
    const { write, mayWrite } = writer()
    for (let round = 0; round < 100; round++) {
      expect(write(5, false)).toBe(true)
      expect(write(0.01, false)).toBe(false)
      expect(mayWrite()).toBe(true)
    }
  })

  test('are left to the thread pool for a second after the second one that slept', () => {
    const { write, pass, mayWrite } = writer()
    write(5, true)
    expect(mayWrite()).toBe(true)
    write(5, true)
    expect(mayWrite()).toBe(false)
    pass(999)
    expect(mayWrite()).toBe(false)
    pass(2)
    expect(mayWrite()).toBe(true)
    // Still as it was: one more is enough.
    write(5, true)
    expect(mayWrite()).toBe(false)
  })

  test('may sleep for a moment, and be slow once in a while', () => {
    const { write, pass, mayWrite } = writer()
    for (let round = 0; round < 100; round++) {
      write(5, true)
      write(1, true)
      pass(1001)
    }
    expect(mayWrite()).toBe(true)
  })

  test('are not watched while none takes long', () => {
    const { write, asked } = writer()
    for (let round = 0; round < 1000; round++) write(0.01, false)
    expect(asked()).toBe(0)
    write(5, false)
    write(0.01, false)
    expect(asked()).toBe(1)
  })
})
