import { expect, test } from 'vitest'
import { Trial } from './trial.ts'

test('What pays is kept on, and judged more seldom', () => {
  const trial = new Trial(64)
  expect(trial.isOn).toBe(false)
  expect(trial.begin()).toBe(16)
  expect(trial.isOn).toBe(true)
  expect([trial.judge(true), trial.judge(true)]).toEqual([256, 256])
  expect(trial.isOn).toBe(true)
})

test('What does not pay is tried after pauses that double, up to the longest', () => {
  const trial = new Trial(64)
  const pauses = Array.from({ length: 10 }, () => {
    trial.begin()
    return trial.judge(false)
  })
  expect(trial.isOn).toBe(false)
  expect(pauses).toEqual([64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 16_384])
})

test('One success makes the next pause the first one again', () => {
  const trial = new Trial(32)
  for (const hasPaid of [false, false, false, true]) {
    trial.begin()
    trial.judge(hasPaid)
  }
  expect([trial.judge(false), trial.isOn]).toEqual([32, false])
})
