/** Options of a client, and their checks. */
import type { ConnectionLimits } from './connection.ts'
import { InvalidRequestError } from './errors.ts'

/** Options of `connect`, `probe` and `listExports`. Times are ms. */
export interface ConnectOptions {
  /** Until the socket stands. Default 10,000. */
  readonly connectTimeout?: number
  /** From then until the export is open, TLS included. Default 10,000. */
  readonly handshakeTimeout?: number
  /** The same from the question that opens the export on: see OPEN_TIMEOUT_MS. Default: `handshakeTimeout`. */
  readonly openTimeout?: number
  /** A server that leaves requests unanswered and moves hardly any data for so long counts as gone. Default 120,000. */
  readonly requestTimeout?: number
  /** Requests in flight at once. Default 128. */
  readonly maxInFlight?: number
  /**
   * READs and WRITEs of more bytes than this are sent as several requests, of which some are under way at once: the
   * server works on one while the data of another is on its way. Default: what the server allows.
   */
  readonly partSize?: number
  /** Requests that may wait for their turn; more are refused by EAGAIN. Default 65,536. */
  readonly maxWaiting?: number
  /**
   * What becomes of requests that do not keep to the server's minimum block size: `refuse` (default) or
   * `read-modify-write`, by which a crash can tear a block, and other clients of the export are not kept out.
   */
  readonly unaligned?: 'refuse' | 'read-modify-write'
  /** Ends the client, whatever it is doing. */
  readonly signal?: AbortSignal
}

/** For whoever may open a disk that has to be made first, for which our own server takes up to 10 minutes by default. */
export const OPEN_TIMEOUT_MS = 660_000

const DEFAULTS = {
  connectTimeout: 10_000,
  handshakeTimeout: 10_000,
  requestTimeout: 120_000,
  maxInFlight: 128,
  maxWaiting: 65_536,
}
/** Timers and tables end there. */
const MOST = {
  connectTimeout: 2 ** 31 - 1,
  handshakeTimeout: 2 ** 31 - 1,
  requestTimeout: 2 ** 31 - 1,
  maxInFlight: 65_536,
  maxWaiting: 2 ** 24,
}

const MOST_PART = 2 ** 32

/** The option's value, or its default. @throws InvalidRequestError where it is no whole number in range */
export function boundedOption(
  name: string,
  value: number | undefined,
  byDefault: number,
  most: number,
): number {
  if (value === undefined) return byDefault
  if (!Number.isInteger(value) || value < 1 || value > most) {
    throw new InvalidRequestError(
      'EINVAL',
      `The option ${name} is ${value}; give a whole number from 1 to ${most}.`,
    )
  }
  return value
}

/** @throws InvalidRequestError */
export function limitsOf(options: ConnectOptions): ConnectionLimits {
  const of = (name: keyof typeof DEFAULTS) => boundedOption(name, options[name], DEFAULTS[name], MOST[name])
  // Used by the client itself, and wrong before anything is connected.
  boundedOption('partSize', options.partSize, MOST_PART, MOST_PART)
  return {
    connectTimeout: of('connectTimeout'),
    handshakeTimeout: of('handshakeTimeout'),
    openTimeout: boundedOption(
      'openTimeout',
      options.openTimeout,
      of('handshakeTimeout'),
      MOST.handshakeTimeout,
    ),
    requestTimeout: of('requestTimeout'),
    maxInFlight: of('maxInFlight'),
    maxWaiting: of('maxWaiting'),
  }
}
