/** One client from accept to close: its channel, the phase it is in, its deadline, and its end. */
import { DEFAULT_NAME } from '../../crds/export-name.ts'
import type { RateAccounts, RateLimits } from '../access/rate-limit.ts'
import type { Activity } from '../control/activity.ts'
import type { Admission, Patience } from '../exports/admission.ts'
import type { Catalog } from '../exports/catalog.ts'
import type { ServerMetrics } from '../metrics/server-metrics.ts'
import { CMD } from '../protocol/constants.ts'
import { Channel } from './channel.ts'
import { type ClientAccounts, openClientAccounts } from './client-accounts.ts'
import type { DescriptorHandle } from './handle.ts'
import { Negotiation, type NegotiationEvents, type TlsTerms } from './negotiation.ts'
import { OldstyleHandshake } from './oldstyle.ts'
import type { OpenedExport } from './open-export.ts'
import type { NegotiationState } from './options.ts'
import type { Client } from './peer.ts'
import { exportRefusalReason, HandshakeTimeout, handshakeRefusalReason } from './refusals.ts'
import { ClientGone } from './request.ts'
import { Transmission } from './transmission.ts'

type LogLine = (fields: Readonly<Record<string, unknown>>, message: string) => void

/** The part of a logger that sessions use. */
export interface SessionLog {
  readonly error: LogLine
  readonly warn: LogLine
  readonly info: LogLine
  readonly debug: LogLine
}

/** What all sessions of a server share. */
export interface SessionTerms {
  readonly catalog: Catalog
  readonly admission: Admission
  readonly patience: Patience
  readonly list: boolean
  /** The oldstyle handshake in place of the fixed newstyle. */
  readonly oldstyle: boolean
  /** TLS, if the server speaks it. */
  readonly tls: TlsTerms | undefined
  /** What the client's own part of the handshake may take, in ms. */
  readonly handshakeTimeoutMs: number
  /** What a client may use in all, which may change, and what each has used. */
  readonly limits: RateLimits
  readonly accounts: RateAccounts
  readonly metrics: ServerMetrics
  readonly activity: Activity
  readonly log: SessionLog
}

/** A client's disk is neither made nor waited for any more. */
class ServerStopping extends Error {
  override readonly name = 'ServerStopping'
  readonly code = 'ESHUTDOWN'
  override readonly message = 'The server is shutting down.'
}

/** What the log calls each FRAMING. */
const REPLIES = ['simple', 'structured', 'extended'] as const
const COMMANDS: ReadonlyMap<number, string> = new Map(Object.entries(CMD).map(([name, type]) => [type, name]))

export class Session {
  client: Client
  readonly #terms: SessionTerms
  readonly #channel: Channel
  readonly #negotiation: Negotiation | OldstyleHandshake
  readonly #onEnd: () => void
  readonly #gone = new AbortController()
  #transmission: Transmission | undefined
  #opened: OpenedExport | undefined
  #synced: Promise<void> = Promise.resolve()
  #accounts: ClientAccounts | undefined
  #clock: NodeJS.Timeout | undefined
  #clockStarted = 0
  #remainingMs: number
  #socketIsClosed = false
  #hasFinished = false
  #diskIsClosed = true

  /** `onEnd` is called once, when the socket is closed and the disk given back. */
  constructor(handle: DescriptorHandle, client: Client, terms: SessionTerms, onEnd: () => void) {
    this.client = client
    this.#terms = terms
    this.#onEnd = onEnd
    this.#remainingMs = terms.handshakeTimeoutMs
    this.#channel = new Channel(handle, () => this.#socketClosed())
    const { catalog, admission, patience, list, tls, log, metrics, activity } = terms
    const refused = (name: Buffer, error: unknown) => {
      const reason = exportRefusalReason(error)
      metrics.refusals[reason]++
      const exportName = name.toString('utf8')
      const told = reasonOf(error)
      const client = this.client.shown
      activity.refused(exportName || DEFAULT_NAME, { client, reason, message: told.reason })
      log.warn({ client, export: exportName, ...told }, 'Export refused')
    }
    const context = { catalog, admission, client, patience, list, signal: this.#gone.signal, refused }
    const events: NegotiationEvents = {
      working: busy => (busy ? this.#stopClock() : this.#startClock()),
      secured: secured => {
        this.client = secured
        metrics.tlsHandshakes.done++
        log.debug({ client: secured.shown, subject: secured.peer.distinguishedName }, 'TLS established')
      },
      opened: (opened, state) => this.#begin(opened, state),
      ended: error => this.#negotiationEnded(error),
    }
    this.#negotiation = terms.oldstyle
      ? new OldstyleHandshake(this.#channel, context, events)
      : new Negotiation(this.#channel, context, tls, events)
  }

  /** Greets the client. */
  start(): void {
    this.#terms.log.debug({ client: this.client.shown }, 'Client connected')
    this.#startClock()
    this.#channel.start(this.#negotiation)
    this.#negotiation.start()
  }

  /** Name of the open export. */
  get exportName(): string | undefined {
    return this.#opened?.served.name
  }

  /** Why the client may not keep its disk any more; undefined if it may, or has none. */
  revocation(): string | undefined {
    return this.#opened && this.#terms.catalog.revocation(this.#opened.served, this.client.peer)
  }

  /** Takes over the limits that its disk has now. */
  followLimits(): void {
    if (this.#opened === undefined || this.#accounts === undefined) return
    const { catalog, limits } = this.#terms
    if (this.#accounts.follow(limits, catalog.limits(this.#opened.served))) {
      this.#transmission?.limitsChanged()
    }
  }

  /** The server is going down: what is under way finishes, what comes is refused. */
  stop(): void {
    this.#negotiation.stop()
    if (this.#transmission === undefined) this.#gone.abort(new ServerStopping())
    else this.#transmission.stop()
  }

  /** Requests are being worked on, or a disk is being made. */
  get isBusy(): boolean {
    return this.#transmission?.isBusy ?? false
  }

  /** Makes what the client has written durable; its disk stays open until then. */
  sync(): Promise<void> {
    this.#synced = this.#flush()
    return this.#synced
  }

  async #flush(): Promise<void> {
    const opened = this.#opened
    if (opened === undefined || opened.readOnly) return
    await new Promise<void>((resolve, reject) => {
      const complete = (error?: unknown) => (error === undefined ? resolve() : reject(error))
      Promise.resolve(opened.backend.flush(opened.handle, { complete })).then(
        outcome => typeof outcome !== 'symbol' && resolve(),
        reject,
      )
    })
  }

  /**
   * Looks whether a client that is not being read has gone, which no event tells. To be called now and then: one
   * that has only said its last word still gets the answers to what it asked.
   */
  look(): void {
    if (!this.#transmission?.blocked) {
      this.#hasFinished = false
      return
    }
    const { peerState } = this.#channel
    if (peerState === 'gone') this.#channel.destroy()
    else if (peerState === 'finished' && this.#hasFinished) this.#transmission.hangUp()
    this.#hasFinished = peerState === 'finished'
  }

  /** Ends the connection after the requests under way. */
  end(): void {
    if (this.#transmission === undefined) this.#channel.close()
    else this.#transmission.hangUp()
  }

  /** Ends the connection at once. */
  cut(error?: Error): void {
    this.#channel.destroy(error)
  }

  #begin(opened: OpenedExport, state: NegotiationState): void {
    this.#stopClock()
    this.#opened = opened
    this.#diskIsClosed = false
    const { log, metrics, activity, accounts, limits } = this.#terms
    const { name } = opened.served
    const fields = { client: this.client.shown, export: name }
    const { readOnly, size } = opened
    log.info({ ...fields, size, readOnly, replies: REPLIES[state.framing] }, 'Disk opened')
    const { identity } = this.client
    const diskLimits = this.#terms.catalog.limits(opened.served)
    this.#accounts = openClientAccounts(accounts, { identity, limits }, { name, limits: diskLimits })
    const meter = metrics.exports.of(name)
    metrics.handshakes.opened++
    meter.connections++
    const left = activity.opened(name, this.client.shown)
    const terms = {
      framing: state.framing,
      baseAllocation: state.metaContext?.baseAllocation ?? false,
      meter,
      accounts: this.#accounts.all,
    }
    this.#transmission = new Transmission(this.#channel, opened, terms, {
      failed: (type, error) =>
        log.error({ ...fields, command: COMMANDS.get(type), ...reasonOf(error) }, 'Request failed'),
      ended: error => {
        meter.connections--
        this.#accounts?.close()
        void this.#closeDisk(opened, error).finally(left)
      },
    })
    this.#channel.handOver(this.#transmission)
  }

  async #closeDisk(opened: OpenedExport, reason: Error | undefined): Promise<void> {
    const { log } = this.#terms
    const fields = { client: this.client.shown, export: opened.served.name }
    this.#opened = undefined
    // Whoever asked for the sync is told of its failure.
    await this.#synced.catch(() => {})
    try {
      await opened.close()
      log.info({ ...fields, ...(reason && reasonOf(reason)) }, 'Disk closed')
    } catch (error) {
      log.error({ ...fields, ...reasonOf(error) }, 'Disk could not be closed')
    }
    this.#diskIsClosed = true
    this.#endWhenDone()
  }

  #negotiationEnded(error: Error | undefined): void {
    this.#stopClock()
    const { metrics } = this.#terms
    metrics.handshakes[error === undefined ? 'left' : 'failed']++
    if (error !== undefined) {
      const reason = handshakeRefusalReason(error)
      if (reason !== undefined) metrics.refusals[reason]++
      if (reason === 'tls') metrics.tlsHandshakes.failed++
      this.#terms.log.warn({ client: this.client.shown, ...reasonOf(error) }, 'Handshake failed')
    }
  }

  #socketClosed(): void {
    this.#stopClock()
    this.#gone.abort(new ClientGone('The client has gone.'))
    this.#socketIsClosed = true
    this.#endWhenDone()
  }

  #endWhenDone(): void {
    if (this.#socketIsClosed && this.#diskIsClosed) this.#onEnd()
  }

  #startClock(): void {
    this.#clockStarted = performance.now()
    this.#clock = setTimeout(
      () => this.#channel.destroy(new HandshakeTimeout('The client did not finish its handshake in time.')),
      Math.max(0, this.#remainingMs),
    )
  }

  #stopClock(): void {
    if (this.#clock === undefined) return
    clearTimeout(this.#clock)
    this.#clock = undefined
    this.#remainingMs -= performance.now() - this.#clockStarted
  }
}

/** What a log line says of an error that a client or a disk caused: no stack. */
export function reasonOf(error: unknown): { reason: string; code?: string } {
  if (!(error instanceof Error)) return { reason: String(error) }
  const code = (error as { code?: unknown }).code
  return { reason: error.message, ...(typeof code === 'string' && { code }) }
}
