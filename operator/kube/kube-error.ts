/** What the API server says of a request that it refuses. */
export interface KubeStatus {
  readonly message?: string
  readonly reason?: string
  readonly code?: number
  readonly details?: {
    readonly name?: string
    readonly kind?: string
    readonly retryAfterSeconds?: number
    readonly causes?: readonly {
      readonly reason?: string
      readonly message?: string
      readonly field?: string
    }[]
  }
  readonly metadata?: { readonly continue?: string }
}

/**
 * A request that failed. `code` is the API server's reason (`NotFound`, `AlreadyExists`, `Conflict`, `Invalid`,
 * `Forbidden`, `Expired`, ...), or without an answer from it `Unreachable`, `RequestTimeout` or
 * `InvalidResponse`; a caller's own abort is not wrapped in one.
 */
export class KubeError extends Error {
  override readonly name = 'KubeError'
  readonly code: string
  /** HTTP status; 0 where no answer came. */
  readonly status: number
  /** How long the server wants to be left alone, in ms. */
  readonly retryAfterMs: number | undefined
  /** What the server said, where it said something. */
  readonly details: KubeStatus | undefined

  constructor(
    code: string,
    message: string,
    {
      status = 0,
      retryAfterMs,
      details,
      cause,
    }: { status?: number; retryAfterMs?: number | undefined; details?: KubeStatus; cause?: unknown } = {},
  ) {
    super(message, { cause })
    this.code = code
    this.status = status
    this.retryAfterMs = retryAfterMs
    this.details = details
  }
}

/** The reason that stands for a status where the server gives none, as a proxy before it would. */
const REASONS: Readonly<Record<number, string>> = {
  400: 'BadRequest',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'NotFound',
  405: 'MethodNotAllowed',
  406: 'NotAcceptable',
  409: 'Conflict',
  410: 'Gone',
  413: 'RequestEntityTooLarge',
  415: 'UnsupportedMediaType',
  422: 'Invalid',
  429: 'TooManyRequests',
  500: 'InternalError',
  503: 'ServiceUnavailable',
  504: 'Timeout',
}

const MAX_MESSAGE = 1000

/** The error for an answer with this HTTP status; `what` is the request, for the message. */
export function errorOfAnswer(
  what: string,
  status: number,
  body: string,
  retryAfterMs: number | undefined,
): KubeError {
  const details = statusOf(body)
  const code = details?.reason || REASONS[status] || `Http${status}`
  const said = details?.message ?? body.slice(0, MAX_MESSAGE).trim()
  const message = `${what} was refused with ${status} ${code}${said === '' ? '' : `: ${said.slice(0, MAX_MESSAGE)}`}`
  return new KubeError(code, message, { status, retryAfterMs, ...(details && { details }) })
}

/** The Status object that a body holds, if it holds one. */
function statusOf(body: string): KubeStatus | undefined {
  try {
    const object: unknown = JSON.parse(body)
    const status =
      object !== null && typeof object === 'object' && 'kind' in object && object.kind === 'Status'
    return status ? (object as KubeStatus) : undefined
  } catch {
    return undefined
  }
}

/** Is this the API server's refusal for this reason? */
export function hasCode(error: unknown, ...codes: readonly string[]): error is KubeError {
  return error instanceof KubeError && codes.includes(error.code)
}

/** Statuses of a client's error that another time or another state of the world would cure. */
const PASSING = new Set([401, 404, 408, 409, 410, 429])

/**
 * Would the server say the same of the same request? An object that is not valid, a right or a quota that lacks, a
 * policy, an admission webhook that does not answer (an InternalError): somebody has to do something about it.
 */
export function isRefusal(error: unknown): error is KubeError {
  if (!(error instanceof KubeError)) return false
  return (
    (error.status >= 400 && error.status < 500 && !PASSING.has(error.status)) ||
    error.code === 'InternalError'
  )
}

/** What came of a request; undefined where its object is gone. */
export async function unlessGone<T>(request: Promise<T>): Promise<T | undefined> {
  try {
    return await request
  } catch (error) {
    if (hasCode(error, 'NotFound')) return undefined
    throw error
  }
}

/** The objects that the server still has do not go back to this resourceVersion: everything is to be listed anew. */
export function isExpired(error: unknown): boolean {
  return (
    error instanceof KubeError && (error.status === 410 || error.code === 'Expired' || error.code === 'Gone')
  )
}
