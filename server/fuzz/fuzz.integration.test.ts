import { expect, test } from 'vitest'
import { fuzz } from './fuzz.ts'
import { streamOf } from './streams.ts'

test('A seed always gives the same stream', () => {
  expect(streamOf(42, 2 ** 20)).toEqual(streamOf(42, 2 ** 20))
  expect(streamOf(42, 2 ** 20)).not.toEqual(streamOf(43, 2 ** 20))
})

test('The server stays well for some seconds of hostile clients', { timeout: 120_000 }, async () => {
  let [played, honest] = [0, 0]
  const answered = { simple: 0, structured: 0, extended: 0 }
  // On a busy machine few clients come far in so many seconds.
  for (let round = 0; round === 0 || (round < 10 && Math.min(...Object.values(answered)) <= 5); round++) {
    const { streams, honestRounds, deep } = await fuzz(4, 20_261_120 + 10_000 * round)
    played += streams
    honest += honestRounds
    for (const kind of ['simple', 'structured', 'extended'] as const) answered[kind] += deep[kind]
  }
  expect(played).toBeGreaterThan(50)
  expect(honest).toBeGreaterThan(2)
  // A fuzzer whose clients all fail in the handshake says nothing about requests.
  for (const clients of Object.values(answered)) expect(clients).toBeGreaterThan(5)
})
