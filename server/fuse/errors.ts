/** What can be wrong with a FUSE export before it serves. */
export class FuseError extends Error {
  override readonly name = 'FuseError'
  readonly code: string

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}
