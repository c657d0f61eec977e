import { expect, test } from 'vitest'
import { errorOfAnswer, isRefusal } from './kube-error.ts'

// 500 is what the server says where an admission webhook is down: whoever waits has to hear of it.
test.for([
  [400, true],
  [403, true],
  [422, true],
  [500, true],
  [401, false],
  [404, false],
  [409, false],
  [410, false],
  [429, false],
  [503, false],
  [504, false],
] as const)('Somebody has to do something about an answer of %i: %s', ([status, expected]) => {
  expect(isRefusal(errorOfAnswer('POST /x', status, '', undefined))).toBe(expected)
})
