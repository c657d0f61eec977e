/** /dev/fuse: requests are read from it and replies written to it, one by one system call each. */
import { ERRNO, SystemCallError } from '../linux/errno.ts'
import { readInto, writeFrom } from '../linux/mount.ts'
import { lastErrno } from '../linux/syscalls.ts'
import { PENDING } from './disk.ts'
import { Exchange } from './exchange.ts'
import { NO_REPLY, type Session } from './session.ts'

/** What became of a read. */
type ReadOutcome = 'again' | 'over'

/** What an error of the device means: once more, or the end of the connection. @throws SystemCallError */
function meaningOf(errno: number): ReadOutcome {
  switch (errno) {
    // ENOENT: the request was interrupted before it was read.
    case ERRNO.EINTR:
    case ERRNO.EAGAIN:
    case ERRNO.ENOENT:
      return 'again'
    // Unmounted, or aborted.
    case ERRNO.ENODEV:
    case ERRNO.ECONNABORTED:
      return 'over'
    default:
      throw new SystemCallError('read', errno, '/dev/fuse')
  }
}

/** Sends the reply of `length` bytes that stands in `exchange`. @throws SystemCallError */
export function sendReply(fd: number, exchange: Exchange, length: number): void {
  if (writeFrom(fd, exchange.replyAddress, length) >= 0) return
  const errno = lastErrno()
  // ENOENT: whoever asked has been killed meanwhile. ENODEV: the next read will say the same.
  if (errno === ERRNO.ENOENT || errno === ERRNO.ENODEV || errno === ERRNO.ECONNABORTED) return
  throw new SystemCallError('write', errno, '/dev/fuse')
}

/**
 * Answers request after request until the file is unmounted, and blocks the thread meanwhile. The disk of the
 * session must never leave an operation pending.
 * @throws FuseProtocolError, SystemCallError
 */
export function serveBlocking(fd: number, session: Session): void {
  const exchange = new Exchange(() => {
    throw new Error('A disk that is served by blocking ended an operation later.')
  })
  const { inputAddress, input } = exchange
  for (;;) {
    const length = readInto(fd, inputAddress, input.length)
    if (length < 0) {
      if (meaningOf(lastErrno()) === 'over') return
      continue
    }
    const reply = session.handle(exchange, length)
    if (reply !== NO_REPLY && reply !== PENDING) sendReply(fd, exchange, reply)
  }
}

/** Reads and answers the first request, which is INIT and is there already. @throws as `serveBlocking` */
export function serveInit(fd: number, session: Session): void {
  const exchange = new Exchange(() => undefined)
  for (;;) {
    const length = readInto(fd, exchange.inputAddress, exchange.input.length)
    if (length >= 0) {
      sendReply(fd, exchange, session.handle(exchange, length))
      return
    }
    if (meaningOf(lastErrno()) === 'over') throw new SystemCallError('read', lastErrno(), '/dev/fuse')
  }
}
