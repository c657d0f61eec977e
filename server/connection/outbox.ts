/**
 * The reply buffer. Replies of one turn are gathered here and sent by one system call. One buffer serves
 * all connections, because each empties it before its turn ends.
 */
import { addressOf } from '../linux/syscalls.ts'
import { MAX_DATA } from './buffers.ts'
import type { Channel } from './channel.ts'

/** Gathered bytes from which on they are sent without waiting for more; what a client that does not read can cost. */
const ENOUGH = 256 * 2 ** 10
/** Largest piece that is ever reserved: the data of one buffer and any header. */
const MAX_PIECE = MAX_DATA + 8192

/** Where replies are written: `buffer` from index `used` on. */
export const outbox = {
  buffer: Buffer.allocUnsafeSlow(ENOUGH + MAX_PIECE),
  used: 0,
}
const address = addressOf(outbox.buffer)

/** Sends what has been gathered. */
export function sendOutbox(channel: Channel): void {
  if (outbox.used === 0) return
  const end = outbox.used
  outbox.used = 0
  channel.send(outbox.buffer, 0, end, address)
}

/** Enough has been gathered to be sent. */
export function outboxIsFull(): boolean {
  return outbox.used >= ENOUGH
}
