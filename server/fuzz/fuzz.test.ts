import { expect, test } from 'vitest'
import { fuzz } from './fuzz.ts'
import { streamOf } from './streams.ts'

test('A seed always gives the same stream', () => {
  expect(streamOf(42, 2 ** 20)).toEqual(streamOf(42, 2 ** 20))
  expect(streamOf(42, 2 ** 20)).not.toEqual(streamOf(43, 2 ** 20))
})

test('The server stays well for some seconds of hostile clients', { timeout: 60_000 }, async () => {
  const { streams, honestRounds, deep } = await fuzz(4, 20_261_120)
  expect(streams).toBeGreaterThan(50)
  expect(honestRounds).toBeGreaterThan(2)
  // A fuzzer whose clients all fail in the handshake says nothing about requests.
  for (const clients of Object.values(deep)) expect(clients).toBeGreaterThan(5)
})
