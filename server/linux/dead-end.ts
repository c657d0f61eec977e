/** A connection that leads to nobody, to stand for one that has died. */
import { closeSync } from 'node:fs'
import { SystemCallError } from './errno.ts'
import { socketPair } from './mount.ts'
import { addressOf, declare, lastErrno } from './syscalls.ts'

const setsockopt = declare<[fd: number, level: number, name: number, value: number, length: number]>(
  'int setsockopt(int fd, int level, int name, int64_t value, uint32_t length)',
)
const SOL_SOCKET = 1
const SO_SNDTIMEO = 21
/** How long a send may wait for room that nobody makes, in seconds. */
const SEND_LIMIT = 1

export interface DeadEnd extends Disposable {
  /** What is sent to it is read by nobody, and fails after a second when it has no more room. */
  readonly descriptor: number
  /** From now on it is at its end, and sending fails at once. */
  hangUp(): void
}

/** @throws SystemCallError */
export function openDeadEnd(): DeadEnd {
  const [descriptor, other] = socketPair()
  let isOpen = true
  const hangUp = () => {
    if (isOpen) closeSync(other)
    isOpen = false
  }
  const deadEnd = {
    descriptor,
    hangUp,
    [Symbol.dispose]() {
      hangUp()
      closeSync(descriptor)
    },
  }
  const limit = Buffer.alloc(16)
  limit.writeBigInt64LE(BigInt(SEND_LIMIT))
  if (setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, addressOf(limit), limit.length) === 0) return deadEnd
  const errno = lastErrno()
  deadEnd[Symbol.dispose]()
  throw new SystemCallError('setsockopt(SO_SNDTIMEO)', errno)
}
