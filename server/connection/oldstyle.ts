/**
 * The oldstyle handshake, for clients that know no other: the server says at once what the default disk is like,
 * and there is nothing to choose. It was given up in 2011, is without TLS and is only spoken when asked for.
 */
import { encodeOldstyle } from '../protocol/handshake.ts'
import { FRAMING } from '../protocol/transmission.ts'
import type { Channel } from './channel.ts'
import type { NegotiationEvents } from './negotiation.ts'
import { type OpenedExport, openByName } from './open-export.ts'
import { transmissionFlags } from './opened-disk.ts'
import type { NegotiationState, OptionContext } from './options.ts'
import type { Receiver } from './receiver.ts'

/** The name that oldstyle clients get: they cannot say any. */
const NO_NAME = Buffer.alloc(0)
const STATE: NegotiationState = { framing: FRAMING.SIMPLE, metaContext: undefined }

export class OldstyleHandshake implements Receiver {
  readonly #channel: Channel
  readonly #context: OptionContext
  readonly #events: NegotiationEvents
  #stopping = false
  #error: Error | undefined

  constructor(channel: Channel, context: OptionContext, events: NegotiationEvents) {
    this.#channel = channel
    this.#context = context
    this.#events = events
  }

  /** Opens the disk and, when it is there, describes it. */
  start(): void {
    void this.#open()
  }

  /** Hangs up instead of beginning the transmission: there is no other way to say no. */
  stop(): void {
    this.#stopping = true
  }

  readonly blocked = false

  /** Requests that come before the disk is there wait for it. */
  receive(_buffer: Buffer, start: number): number {
    return start
  }

  ended(): void {
    this.#channel.destroy()
  }

  drained(): void {
    // Nothing waits for the one message of this handshake.
  }

  closed(error: Error | undefined): void {
    this.#events.ended(this.#error ?? error)
  }

  async #open(): Promise<void> {
    this.#events.working(true)
    try {
      const opened = await openByName(NO_NAME, this.#context)
      if (this.#stopping || this.#channel.closed || this.#channel.ended) await opened.close()
      else this.#begin(opened)
    } catch (error) {
      this.#error =
        error instanceof Error ? error : new Error('The disk could not be opened.', { cause: error })
    }
    if (this.#error !== undefined || this.#stopping) this.#channel.destroy(this.#error)
  }

  #begin(opened: OpenedExport): void {
    const flags = transmissionFlags(opened.capabilities, opened.multiConn, FRAMING.SIMPLE)
    const greeting = encodeOldstyle(opened.size, flags)
    this.#channel.send(greeting, 0, greeting.length)
    this.#events.opened(opened, STATE)
    this.#channel.proceed()
  }
}
