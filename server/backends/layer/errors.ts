/** What goes wrong between the server and a backend, and what a backend's own failures are made into. */
import { quote } from '../../../crds/quote.ts'

/** A failure with an errno name as its `code`. The message is meant for the client as much as for the log. */
export class BackendError extends Error {
  readonly code: string

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = new.target.name
    this.code = code
  }
}

/**
 * The client has gone and nobody waits any longer for this operation, which may still be under way: memory
 * that was lent to it may still be written to.
 */
export class AbandonedError extends BackendError {
  constructor(callback: string) {
    super('ETIMEDOUT', `The backend's ${callback} had not ended long after the client left`)
  }
}

/** A disk could not be closed, because the backend is still at work on it. */
export class UnfinishedError extends BackendError {
  /** Resolves when the backend has let go of the disk, which may be never. Never rejects. */
  readonly settled: Promise<void>

  constructor(message: string, settled: Promise<void>) {
    super('ETIMEDOUT', message)
    this.settled = settled
  }
}

/** An error with a `code`, as `failureOf` makes it. */
export type Failure = Error & { readonly code: string }

const hasCode = (thrown: object): thrown is { code: string; message?: unknown } =>
  'code' in thrown && typeof thrown.code === 'string' && thrown.code !== ''

/** What a callback threw, or rejected with, as an error with a `code`: its own, or EIO. */
export function failureOf(callback: string, thrown: unknown): Failure {
  if (thrown instanceof Error) {
    if (hasCode(thrown)) return thrown
    return new BackendError('EIO', `The backend's ${callback} failed: ${thrown.message || thrown.name}`, {
      cause: thrown,
    })
  }
  if (typeof thrown === 'object' && thrown !== null && hasCode(thrown)) {
    const reason = typeof thrown.message === 'string' ? thrown.message : thrown.code
    return new BackendError(thrown.code, `The backend's ${callback} failed: ${reason}`, { cause: thrown })
  }
  return new BackendError('EIO', `The backend's ${callback} failed ${withoutError(thrown)}`, {
    cause: thrown,
  })
}

function withoutError(thrown: unknown): string {
  return thrown === undefined || thrown === null
    ? 'without a reason'
    : `with ${describe(thrown)} in place of an error`
}

/** A value that a backend gave, for a message. */
export function describe(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return quote(value)
    case 'number':
    case 'boolean':
      return String(value)
    case 'bigint':
      return `${value}n`
    case 'undefined':
      return 'nothing'
    case 'object':
      if (value === null) return 'null'
      if (isThenable(value)) return 'a promise'
      return Array.isArray(value) ? 'an array' : 'an object'
    default:
      return `a ${typeof value}`
  }
}

/** A promise, whoever made it. */
export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function'
}
