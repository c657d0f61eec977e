import { expect, test } from 'vitest'
import { deadAfterSeconds, keepsIdentifiers } from './nbd-driver.ts'

test.for([
  ['4.18.0-553.el8_10.x86_64', false],
  ['5.4.0-216-generic', false],
  ['5.13.19-2-pve', false],
  ['5.14.0-570.el9.x86_64', true],
  ['5.15.0', true],
  ['6.1.0-41-amd64', true],
  ['7.0-rc1', true],
] as const)('A kernel from 5.14 on keeps what its devices are connected to: %s', ([release, keeps]) => {
  expect(keepsIdentifiers(release)).toBe(keeps)
})

test('How long requests wait is rounded up to what the driver counts, and for ever is ten years', () => {
  expect([1, 999, 1000, 1001].map(deadAfterSeconds)).toEqual([1, 1, 1, 2])
  expect(deadAfterSeconds(undefined)).toBe(10 * 365 * 86_400)
})
