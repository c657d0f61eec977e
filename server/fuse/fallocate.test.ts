import { expect, test } from 'vitest'
import { ERRNO } from '../linux/errno.ts'
import { planFallocate } from './fallocate.ts'

const KEEP = 1
const PUNCH = 2
const ZERO = 16
const SIZE = 1000

const refused = (errno: number) => ({ kind: 'refuse', errno })
const nothing = { kind: 'nothing' }

test.each([
  // mode, offset, length, plan for a file of 1000 bytes
  [0, 0, 10, refused(ERRNO.EOPNOTSUPP)],
  [0, 999, 10, refused(ERRNO.EOPNOTSUPP)],
  [0, 1000, 10, { kind: 'allocate', offset: 1000, length: 10 }],
  [0, 1500, 10, { kind: 'allocate', offset: 1500, length: 10 }],
  [KEEP, 1000, 10, refused(ERRNO.EOPNOTSUPP)],
  [PUNCH, 0, 10, refused(ERRNO.EINVAL)],
  [PUNCH | KEEP, 5, 10, { kind: 'zero', offset: 5, length: 10, punch: true }],
  [PUNCH | KEEP, 995, 10, { kind: 'zero', offset: 995, length: 5, punch: true }],
  [PUNCH | KEEP, 1000, 10, nothing],
  [PUNCH | KEEP, 5000, 10, nothing],
  [ZERO | KEEP, 995, 10, { kind: 'zero', offset: 995, length: 5, punch: false }],
  [ZERO | KEEP, 2000, 10, nothing],
  [ZERO, 5, 10, { kind: 'zero', offset: 5, length: 10, punch: false }],
  [ZERO, 995, 10, { kind: 'zero', offset: 995, length: 10, punch: false, grownTo: 1005 }],
  [ZERO, 2000, 10, { kind: 'zero', offset: 2000, length: 10, punch: false, grownTo: 2010 }],
  [8, 0, 10, refused(ERRNO.EOPNOTSUPP)],
  [PUNCH | ZERO | KEEP, 0, 10, refused(ERRNO.EOPNOTSUPP)],
  [PUNCH | KEEP, 2 ** 53, 10, refused(ERRNO.EFBIG)],
])('mode %i at %i for %i bytes', (mode, offset, length, plan) => {
  expect(planFallocate(mode, offset, length, SIZE)).toEqual(plan)
})
