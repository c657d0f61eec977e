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

/** What a thrown object says of itself, as far as that is text. */
interface Told {
  readonly isError: boolean
  readonly code: string | undefined
  readonly message: string | undefined
  readonly name: string | undefined
}

const textOf = (value: unknown) => (typeof value === 'string' ? value : undefined)

function told(thrown: object): Told {
  try {
    const { code, message, name } = thrown as { code?: unknown; message?: unknown; name?: unknown }
    const isError = thrown instanceof Error
    return { isError, code: textOf(code) || undefined, message: textOf(message), name: textOf(name) }
  } catch {
    // It throws when it is looked at.
    return { isError: false, code: undefined, message: undefined, name: undefined }
  }
}

/**
 * What a callback threw, or rejected with, as an error with a `code`: its own, or EIO. Whoever tells a client or the log
 * of it relies on code and message being texts.
 */
export function failureOf(callback: string, thrown: unknown): Failure {
  if (typeof thrown !== 'object' || thrown === null)
    return failure(callback, 'EIO', withoutError(thrown), thrown)
  const { isError, code, message, name } = told(thrown)
  if (isError && code !== undefined && message !== undefined) return thrown as Failure
  const reason = message || code || name
  if (reason === undefined || !(isError || code !== undefined)) {
    return failure(callback, 'EIO', withoutError(thrown), thrown)
  }
  return failure(callback, code ?? 'EIO', `: ${reason}`, thrown)
}

function failure(callback: string, code: string, how: string, cause: unknown): BackendError {
  return new BackendError(code, `The backend's ${callback} failed${how}`, { cause })
}

function withoutError(thrown: unknown): string {
  return thrown === undefined || thrown === null
    ? ' without a reason'
    : ` with ${describe(thrown)} in place of an error`
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
  if (typeof value !== 'object' || value === null) return false
  try {
    return 'then' in value && typeof value.then === 'function'
  } catch {
    return false
  }
}

/** Takes a promise where none is awaited, which would end the process by rejecting. */
export function disown(value: unknown): void {
  if (isThenable(value)) Promise.resolve(value).then(undefined, () => undefined)
}
