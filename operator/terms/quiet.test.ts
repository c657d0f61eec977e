import { expect, test } from 'vitest'
import { restOfQuiet } from './quiet.ts'

test.each([
  [0, 3000],
  [100, 2900],
  [2999, 1],
  [3000, undefined],
  [60_000, undefined],
  [-100, 3000],
  [-3000, undefined],
  [Number.NaN, undefined],
])('%s ms after it happened the rest of 3000 ms is %s', (since, rest) => {
  expect(restOfQuiet(since, 3000)).toBe(rest)
})
