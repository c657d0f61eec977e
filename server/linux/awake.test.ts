import { setImmediate } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { isStayingAwake, stayAwake } from './awake.ts'

/** Rounds of the event loop until it may sleep again, and what time it is then. */
async function roundsAwake(): Promise<[rounds: number, end: number]> {
  let rounds = 0
  while (isStayingAwake()) {
    rounds++
    await setImmediate()
  }
  return [rounds, performance.now()]
}

test('The loop goes round until the last moment that was asked for, and no longer', async () => {
  expect(isStayingAwake()).toBe(false)
  const last = performance.now() + 20
  stayAwake(last)
  stayAwake(last - 15)
  expect(isStayingAwake()).toBe(true)
  const [rounds, end] = await roundsAwake()
  expect(rounds).toBeGreaterThan(1)
  expect(end).toBeGreaterThanOrEqual(last)
  expect(isStayingAwake()).toBe(false)
  stayAwake(performance.now() + 5)
  expect((await roundsAwake())[0]).toBeGreaterThan(0)
})

test('A timer has its turn meanwhile', async () => {
  let fired = 0
  setTimeout(() => {
    fired = performance.now()
  }, 5)
  const last = performance.now() + 100
  stayAwake(last)
  await roundsAwake()
  expect(fired).toBeGreaterThan(0)
  expect(fired).toBeLessThan(last)
})
