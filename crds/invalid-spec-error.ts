/** An object that is not valid. The message names the first bad field and says what is wanted. */
export class InvalidSpecError extends Error {
  override readonly name = 'InvalidSpecError'
  readonly code = 'InvalidSpec'
  /** Path of the field: `spec.access.allow[0]`; empty where the object as a whole is wrong. */
  readonly field: string
  /** What is wrong with it, without its path. */
  readonly reason: string

  constructor(field: string, reason: string, options?: ErrorOptions) {
    super(field === '' ? reason : `${field}: ${reason}`, options)
    this.field = field
    this.reason = reason
  }
}

/** What `check` returns, or what it finds wrong. Other errors are thrown. */
export function orInvalid<T>(check: () => T): T | InvalidSpecError {
  try {
    return check()
  } catch (error) {
    if (error instanceof InvalidSpecError) return error
    throw error
  }
}
