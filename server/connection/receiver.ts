/** What listens to a channel; changes when the handshake ends. */
export interface Receiver {
  /**
   * Takes bytes from `start` on and returns the index behind what it has consumed. The rest is offered
   * again with what follows. The buffer is only valid during the call.
   */
  receive(buffer: Buffer, start: number, end: number): number
  /** How long to wait for more bytes before those that are there are offered, in microseconds. */
  readonly gathering?: { readonly micros: number }
  /**
   * `target`: where the next bytes should be put, if that is known; valid until it is filled or the connection is over.
   * `isInPlace`: large data, for which there will be a target, is likely to come.
   */
  readonly payload?: { target(): Buffer | undefined; readonly isInPlace: boolean }
  /**
   * The last request was alone and has been answered, or only its data is missing: the client's next bytes will come
   * soon, and may be worth looking for in place of going to sleep.
   */
  readonly expectsMore?: boolean
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
