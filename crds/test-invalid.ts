import { expect } from 'vitest'
import { InvalidSpecError } from './invalid-spec-error.ts'

/** For tests: the error of something that must fail as an invalid spec. */
export function invalid(run: () => unknown): InvalidSpecError {
  try {
    run()
  } catch (error) {
    expect(error).toBeInstanceOf(InvalidSpecError)
    return error as InvalidSpecError
  }
  expect.unreachable('nothing was refused')
}
