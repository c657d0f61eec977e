/** Connects and negotiates: a negotiation of the protocol folder, driven over a wire, within deadlines. */
import { MAX_QUOTED_MESSAGE, quote } from '../../crds/quote.ts'
import { toError } from '../linux/errno.ts'
import { encodeOption, ServerViolation } from '../protocol/client-handshake.ts'
import { HandshakeUnsupported, type Negotiation, OptionRefused } from '../protocol/client-negotiation.ts'
import { OPT, REP } from '../protocol/constants.ts'
import { NegotiationFeed } from '../protocol/negotiation-feed.ts'
import { tlsOptions } from './credentials.ts'
import { BrokenServerError, ConnectionError, type NbdError, RefusedError, TlsError } from './errors.ts'
import { describeAddress, type NbdUri } from './uri.ts'
import { Wire, type WireReceiver } from './wire.ts'

/** How long is waited at most, in ms. */
export interface HandshakeLimits {
  readonly connectTimeout: number
  readonly handshakeTimeout: number
  /** For the answer to what opens the export. */
  readonly openTimeout: number
}

/** A wire on which a handshake has ended well. */
export interface Negotiated<Result> {
  readonly wire: Wire
  readonly value: Result
}

/** How long a server may take to hang up when we have said goodbye, in ms. */
export const GOODBYE_TIMEOUT = 1000

const REFUSALS: ReadonlyMap<number, { code: string; reason: string }> = new Map([
  [REP.ERR_UNSUP, { code: 'ENOTSUP', reason: 'it does not know the request' }],
  [REP.ERR_POLICY, { code: 'EACCES', reason: 'it does not allow that' }],
  [REP.ERR_INVALID, { code: 'EINVAL', reason: 'it finds the request wrong' }],
  [REP.ERR_PLATFORM, { code: 'ENOTSUP', reason: 'it cannot do that where it runs' }],
  [REP.ERR_TLS_REQD, { code: 'EACCES', reason: 'it requires TLS; give nbds instead of nbd' }],
  [REP.ERR_UNKNOWN, { code: 'ENOENT', reason: 'it has no such export, or does not give it away now' }],
  [REP.ERR_SHUTDOWN, { code: 'ESHUTDOWN', reason: 'it is shutting down' }],
  [REP.ERR_BLOCK_SIZE_REQD, { code: 'EINVAL', reason: 'it insists on block sizes' }],
  [REP.ERR_TOO_BIG, { code: 'EINVAL', reason: 'it finds the request too long' }],
  [REP.ERR_EXT_HEADER_REQD, { code: 'ENOTSUP', reason: 'it requires extended headers' }],
])

function refusedError(where: string, { type, text }: OptionRefused): NbdError {
  const { code, reason } = REFUSALS.get(type) ?? { code: 'EIO', reason: `error 0x${type.toString(16)}` }
  const told = text === '' ? '' : ` It says: ${quote(text, MAX_QUOTED_MESSAGE)}`
  return new RefusedError(code, `The NBD server at ${where} refused: ${reason}.${told}`)
}

const UNSUPPORTED: Readonly<Record<HandshakeUnsupported['missing'], string>> = {
  tls: 'has no TLS, which nbds requires',
  list: 'cannot list its exports',
  info: 'cannot tell of an export without opening it',
  names: 'has one export without a name; leave the name out of the URI',
}

/** What went wrong in a handshake, in the words of the client's user. */
function handshakeError(where: string, error: Error): Error {
  if (error instanceof OptionRefused) return refusedError(where, error)
  if (error instanceof HandshakeUnsupported) {
    const message = `The NBD server at ${where} ${UNSUPPORTED[error.missing]}.`
    return error.missing === 'tls' ? new TlsError('EPROTO', message) : new RefusedError('ENOTSUP', message)
  }
  if (error instanceof ServerViolation) {
    return new BrokenServerError(`The NBD server at ${where} breaks the protocol: ${error.message}`, {
      cause: error,
    })
  }
  return error
}

/** Runs a negotiation on a wire that is connected. */
function run<Result>(
  wire: Wire,
  negotiation: Negotiation<Result>,
  startTls: (started: () => void) => void,
  opening: () => void,
): Promise<Result> {
  const { promise, resolve, reject } = Promise.withResolvers<Result>()
  const feed = new NegotiationFeed(negotiation, {
    send: (bytes, opens) => {
      if (opens) opening()
      wire.write(bytes)
    },
    startTls: () => startTls(() => feed.tlsStarted()),
  })
  const receiver: WireReceiver = {
    most: Number.POSITIVE_INFINITY,
    target: () => undefined,
    filled: () => undefined,
    receive: (bytes, start, end) => {
      let next: number
      try {
        next = feed.receive(bytes, start, end)
      } catch (error) {
        if (!(error instanceof OptionRefused)) throw error
        // The server did no wrong, so it is left in the way that the protocol asks for.
        reject(error)
        wire.write(encodeOption(OPT.ABORT))
        wire.end(GOODBYE_TIMEOUT)
        return
      }
      if (feed.outcome === undefined) return
      // Nothing was asked yet that these bytes could answer.
      if (next < end) throw new ServerViolation('The server sent bytes that nobody asked for.')
      resolve(feed.outcome.value)
    },
    closed: reject,
  }
  wire.listen(receiver)
  feed.start()
  return promise
}

/** Calls `late` after so many ms, unless the returned function is called before. */
function deadline(ms: number, late: () => void): () => void {
  const timer = setTimeout(late, ms)
  return () => clearTimeout(timer)
}

const seconds = (ms: number): string => `${ms / 1000} s`

async function connectWire(uri: NbdUri, timeout: number, signal: AbortSignal | undefined): Promise<Wire> {
  const where = describeAddress(uri.address)
  const late = new AbortController()
  const stop = deadline(timeout, () => {
    late.abort(new ConnectionError('ETIMEDOUT', `No connection to ${where} within ${seconds(timeout)}.`))
  })
  try {
    return await Wire.connect(
      uri.address,
      signal === undefined ? late.signal : AbortSignal.any([signal, late.signal]),
    )
  } finally {
    stop()
  }
}

/**
 * Connects to the server of `uri`, with TLS where the URI asks for it, and runs a negotiation.
 * @throws ConnectionError, TlsError, RefusedError, BrokenServerError; the reason of `signal` where that is aborted
 */
export async function negotiate<Result>(
  uri: NbdUri,
  negotiation: Negotiation<Result>,
  limits: HandshakeLimits,
  signal?: AbortSignal,
): Promise<Negotiated<Result>> {
  const where = describeAddress(uri.address)
  const host = uri.address.kind === 'tcp' ? uri.address.host : 'localhost'
  const tls = uri.tls === undefined ? undefined : await tlsOptions(uri.tls, host)
  const wire = await connectWire(uri, limits.connectTimeout, signal)
  const within = (ms: number, what: string) =>
    deadline(ms, () => {
      const problem = `The NBD server at ${where} did not ${what} within ${seconds(ms)}.`
      wire.destroy(new ConnectionError('ETIMEDOUT', problem))
    })
  let stop = within(limits.handshakeTimeout, 'finish its handshake')
  const opening = () => {
    stop()
    stop = within(limits.openTimeout, 'open the export')
  }
  const abort = () => wire.destroy(toError(signal?.reason))
  signal?.addEventListener('abort', abort)
  if (signal?.aborted) abort()
  try {
    const value = await run(
      wire,
      negotiation,
      started => {
        if (tls === undefined) throw new Error('The negotiation asked for TLS, which was not wanted.')
        wire.startTls(tls, started)
      },
      opening,
    )
    return { wire, value }
  } catch (thrown) {
    const error = handshakeError(where, toError(thrown))
    if (!(thrown instanceof OptionRefused)) wire.destroy(error)
    throw error
  } finally {
    stop()
    signal?.removeEventListener('abort', abort)
  }
}
