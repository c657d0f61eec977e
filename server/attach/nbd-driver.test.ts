import { expect, test } from 'vitest'
import { keepsIdentifiers } from './nbd-driver.ts'

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
