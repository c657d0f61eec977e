/** The handshake of one connection: options in, replies out, until an export is opened or the client leaves. */
import { ExportRefusal } from '../exports/export.ts'
import { OPT, REP } from '../protocol/constants.ts'
import {
  CLIENT_FLAGS_LENGTH,
  decodeClientFlags,
  decodeGo,
  decodeOptionHeader,
  encodeExportNameReply,
  encodeGreeting,
  encodeOptionError,
  encodeOptionReply,
  InvalidOption,
  OPTION_HEADER_LENGTH,
  ProtocolViolation,
} from '../protocol/handshake.ts'
import { FRAMING } from '../protocol/transmission.ts'
import { type Channel, MAX_LEFTOVER } from './channel.ts'
import type { OpenedExport } from './open-export.ts'
import { transmissionFlags } from './opened-disk.ts'
import { answerOption, type NegotiationState, type OptionContext } from './options.ts'
import { type Client, securedClient } from './peer.ts'
import type { Receiver } from './receiver.ts'
import { type TlsAcceptor, TlsError } from './tls.ts'

/** Options that one client may send; LIST counts for more, since its answer is long. */
const MAX_OPTIONS = 256
const LIST_WEIGHT = 32
/** Options more for each name of the longest list: `nbdinfo --list` and `qemu-nbd -L` ask about all of them. */
const OPTIONS_PER_NAME = 8

/** Whether and how a server speaks TLS. */
export interface TlsTerms {
  /** Clients have to go over to TLS before they do anything else. */
  readonly required: boolean
  readonly acceptor: TlsAcceptor
}

/** Where a negotiation reports to. */
export interface NegotiationEvents {
  /** TLS has been established. */
  secured(client: Client): void
  /** The server begins, or ends, to work on an option; its time is not the client's. */
  working(busy: boolean): void
  /** The transmission phase begins. */
  opened(opened: OpenedExport, state: NegotiationState): void
  /** The socket is gone, or the handshake failed. Called once unless `opened` was. */
  ended(error: Error | undefined): void
}

/** What a client may have to wait long for. */
const MAY_MAKE_A_DISK: ReadonlySet<number> = new Set([OPT.GO, OPT.INFO, OPT.EXPORT_NAME])

const leftEarly = () => new ProtocolViolation('The client left during the handshake.')

const newState = (): NegotiationState => ({ framing: FRAMING.SIMPLE, metaContext: undefined })

/** The export's name in an option that has one, for the log. */
function nameIn(option: number, payload: Buffer): Buffer {
  try {
    if (option === OPT.GO || option === OPT.INFO) return decodeGo(payload).name
  } catch (error) {
    if (!(error instanceof InvalidOption)) throw error
  }
  return Buffer.alloc(0)
}

export class Negotiation implements Receiver {
  readonly #channel: Channel
  #context: OptionContext
  readonly #tls: TlsTerms | undefined
  readonly #events: NegotiationEvents
  #state: NegotiationState = newState()
  #phase: 'flags' | 'options' | 'over' = 'flags'
  #noZeroes = false
  #fixedNewstyle = false
  #budget = MAX_OPTIONS
  #listed = 0
  #busy = false
  #asking = false
  #securing = false
  #stopping = false
  /** The client has said its last word, and has the answers to its questions still to get. */
  #finished = false
  #saidGoodbye = false
  #error: Error | undefined

  constructor(
    channel: Channel,
    context: OptionContext,
    tls: TlsTerms | undefined,
    events: NegotiationEvents,
  ) {
    this.#channel = channel
    this.#context = context
    this.#tls = tls
    this.#events = events
  }

  /** Sends the greeting. */
  start(): void {
    this.#send(encodeGreeting())
  }

  /** Answers all further options with ERR_SHUTDOWN. */
  stop(): void {
    this.#stopping = true
  }

  /** The channel is read even while an option is worked on: only so does a client's leaving show. */
  readonly blocked = false

  receive(buffer: Buffer, start: number, end: number): number {
    let at = start
    while (!this.#isWaiting) {
      const next = this.#step(buffer, at, end)
      if (next === at) break
      at = next
    }
    if (this.#isWaiting && end - at > MAX_LEFTOVER) {
      throw new ProtocolViolation('The client sent too much ahead of the answer to its option.')
    }
    return this.#phase === 'over' && !this.#busy ? end : at
  }

  /** The next option has its turn when the one before is answered and the answer is on its way. */
  get #isWaiting(): boolean {
    return this.#busy || this.#channel.congested
  }

  /** Who waits for a disk and closes has gone; who has only asked (`printf ... | nc -N`) may still read. */
  ended(): void {
    if (this.#asking && !this.#stopping) this.#finished = true
    else this.#fail(leftEarly())
  }

  drained(): void {
    if (!this.#isWaiting) this.#channel.proceed()
  }

  closed(error: Error | undefined): void {
    this.#phase = 'over'
    // It need not wait for the answer to that (proto.md, "NBD_OPT_ABORT"), and libnbd does not.
    if (this.#saidGoodbye) {
      this.#events.ended(undefined)
      return
    }
    const left = this.#securing ? new TlsError('The client left during the TLS handshake.') : undefined
    this.#events.ended(this.#error ?? error ?? left)
  }

  /** Takes one message; returns `at` if it has not arrived in full. */
  #step(buffer: Buffer, at: number, end: number): number {
    if (this.#phase === 'flags') {
      if (end - at < CLIENT_FLAGS_LENGTH) return at
      const { fixedNewstyle, noZeroes } = decodeClientFlags(buffer, at)
      this.#fixedNewstyle = fixedNewstyle
      this.#noZeroes = noZeroes
      this.#phase = 'options'
      return at + CLIENT_FLAGS_LENGTH
    }
    if (this.#phase === 'over' || end - at < OPTION_HEADER_LENGTH) return at
    const { option, length } = decodeOptionHeader(buffer, at)
    const payload = at + OPTION_HEADER_LENGTH
    if (end - payload < length) return at
    this.#budget -= option === OPT.LIST ? LIST_WEIGHT : 1
    if (this.#budget < 0) throw new ProtocolViolation('The client sent too many options.')
    if (!this.#fixedNewstyle && option !== OPT.EXPORT_NAME) {
      throw new ProtocolViolation(
        `Option ${option} needs the fixed newstyle handshake, which the client did not agree to.`,
      )
    }
    const goesOver = option === OPT.STARTTLS && length === 0 && this.#tls && !this.#context.client.secured
    if (goesOver && end > payload + length) {
      throw new ProtocolViolation('The client sent more behind STARTTLS than TLS can be trusted after.')
    }
    this.#answer(option, Buffer.from(buffer.subarray(payload, payload + length)))
    return payload + length
  }

  #answer(option: number, payload: Buffer): void {
    if (option === OPT.ABORT) {
      this.#saidGoodbye = true
      this.#send(encodeOptionReply(option, REP.ACK))
      this.#end()
    } else if (this.#stopping) {
      this.#shutDown(option)
    } else if (option === OPT.STARTTLS) {
      this.#startTls(payload)
    } else if (this.#tls?.required && !this.#context.client.secured) {
      this.#demandTls(option, payload)
    } else {
      void this.#work(option, payload)
    }
  }

  #demandTls(option: number, payload: Buffer): void {
    if (option === OPT.EXPORT_NAME) {
      this.#fail(new ProtocolViolation('The client did not use TLS, which is required.'))
      return
    }
    const refusal = new ExportRefusal('tls', 'This server requires TLS.')
    this.#send(encodeOptionError(option, REP.ERR_TLS_REQD, refusal.message))
    this.#context.refused(nameIn(option, payload), refusal)
  }

  #startTls(payload: Buffer): void {
    const refuse = (type: number, message: string) =>
      this.#send(encodeOptionError(OPT.STARTTLS, type, message))
    if (payload.length > 0) refuse(REP.ERR_INVALID, 'STARTTLS takes no data.')
    else if (this.#context.client.secured) refuse(REP.ERR_INVALID, 'This connection uses TLS already.')
    else if (this.#tls === undefined) refuse(REP.ERR_POLICY, 'This server does not offer TLS.')
    else void this.#secure(this.#tls.acceptor)
  }

  async #secure(acceptor: TlsAcceptor): Promise<void> {
    this.#busy = true
    this.#securing = true
    try {
      const subject = await this.#channel.secure(acceptor, encodeOptionReply(OPT.STARTTLS, REP.ACK))
      const client = securedClient(this.#context.client, subject)
      this.#context = { ...this.#context, client }
      // Whatever was agreed on in plain text may have been the work of somebody in the middle (CVE-2021-3716).
      this.#state = newState()
      this.#events.secured(client)
    } catch (error) {
      this.#fail(error instanceof Error ? error : new Error('TLS failed.', { cause: error }))
    }
    this.#securing = false
    this.#busy = false
    this.#channel.proceed()
  }

  async #work(option: number, payload: Buffer): Promise<void> {
    this.#busy = true
    this.#asking = !MAY_MAKE_A_DISK.has(option)
    this.#events.working(true)
    try {
      const answer = await answerOption(option, payload, this.#state, this.#context)
      this.#allowFor(answer.listed ?? 0)
      await this.#conclude(option, answer)
    } catch (error) {
      if (this.#stopping) this.#shutDown(option)
      else this.#fail(error instanceof Error ? error : new Error('The handshake failed.', { cause: error }))
    }
    this.#busy = false
    this.#asking = false
    if (this.#phase === 'over') return
    this.#events.working(false)
    this.#channel.proceed()
    if (!this.#finished || this.#asking || this.#phase !== 'options') return
    this.#error ??= leftEarly()
    this.#end()
  }

  /** More lists of the same names allow no more. */
  #allowFor(listed: number): void {
    if (listed <= this.#listed) return
    this.#budget += (listed - this.#listed) * OPTIONS_PER_NAME
    this.#listed = listed
  }

  async #conclude(
    option: number,
    { replies, opened }: Awaited<ReturnType<typeof answerOption>>,
  ): Promise<void> {
    if (opened === undefined) {
      this.#send(Buffer.concat(replies))
      // EXPORT_NAME knows no error reply: the only answer left is to hang up.
      if (option === OPT.EXPORT_NAME) this.#end()
      return
    }
    if (this.#channel.closed || this.#channel.ended || this.#stopping) {
      await opened.close()
      if (this.#stopping) this.#shutDown(option)
      return
    }
    this.#send(Buffer.concat(replies))
    if (option === OPT.EXPORT_NAME) {
      const flags = transmissionFlags(opened.capabilities, opened.multiConn, this.#state.framing)
      this.#send(encodeExportNameReply(opened.size, flags, this.#noZeroes))
    }
    this.#phase = 'over'
    this.#events.opened(opened, this.#state)
    this.#channel.proceed()
  }

  #shutDown(option: number): void {
    // EXPORT_NAME knows no error reply.
    if (option !== OPT.EXPORT_NAME) {
      this.#send(encodeOptionError(option, REP.ERR_SHUTDOWN, 'The server is shutting down.'))
    }
    this.#end()
  }

  #send(bytes: Buffer): void {
    this.#channel.send(bytes, 0, bytes.length)
  }

  #end(): void {
    this.#phase = 'over'
    this.#channel.close()
  }

  #fail(error: Error): void {
    this.#error ??= error
    this.#phase = 'over'
    this.#channel.destroy(error)
  }
}
