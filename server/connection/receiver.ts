/** What listens to a channel; changes when the handshake ends. */
export interface Receiver {
  /**
   * Takes bytes from `start` on and returns the index behind what it has consumed. The rest is offered
   * again with what follows. The buffer is only valid during the call.
   */
  receive(buffer: Buffer, start: number, end: number): number
  /** How long more bytes may be waited for before those that are there are offered, in microseconds. */
  readonly gathering?: { readonly micros: number }
  /**
   * `target`: where the next bytes should be put, if that is known; valid until it is filled or the connection is over.
   * `isInPlace`: large data is likely to come, for which there will be a target.
   */
  readonly payload?: { target(): Buffer | undefined; readonly isInPlace: boolean }
  /**
   * The last request was alone and has been answered, or only its data is missing: more will come soon, and it is worth
   * not to sleep until then.
   */
  readonly isDone?: boolean
  /** So many bytes have been put where `payload.target` said. */
  filled?(length: number): void
  /** True while no more bytes should be read; the receiver calls `channel.proceed()` when that ends. */
  readonly blocked: boolean
  /** The client has sent its last byte. */
  ended(): void
  /** The socket has taken what was kept back. */
  drained(): void
  /** The connection is over; `error` if it broke. Called once. */
  closed(error: Error | undefined): void
}
