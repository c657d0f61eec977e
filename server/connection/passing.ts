/** Replies that are sent out of the kernel's own memory, one at a time, as the client's socket takes them. */
import type { Socket } from 'node:net'
import { ERRNO, SystemCallError } from '../linux/errno.ts'
import type { Passage } from '../linux/passage.ts'

/** Bytes that are written to learn when a socket has room again. */
const PROBE = 4096

/** A reply on its way. `buffer` is the passage's; `owner` gets both back when they are not needed any more. */
export interface PassingReply {
  readonly passage: Passage
  readonly buffer: Buffer
  readonly owner: { release(): void }
}

export class Passing {
  readonly #fd: number
  readonly #onWritten: () => void
  #reply: PassingReply | undefined

  /** `onWritten`: the socket has taken what it had not taken at once. */
  constructor(fd: number, onWritten: () => void) {
    this.#fd = fd
    this.#onWritten = onWritten
  }

  /** The socket has still to take some of a reply: nothing should be added until then. */
  get isUnderWay(): boolean {
    return this.#reply !== undefined
  }

  /** Sends a reply. There must be none under way. */
  send(socket: Socket, reply: PassingReply): void {
    this.#reply = reply
    this.#goOn(socket)
  }

  #goOn(socket: Socket): void {
    if (this.#reply === undefined) return
    const { passage, owner } = this.#reply
    if (!socket.destroyed) {
      const errno = socket.writableLength > 0 ? ERRNO.EAGAIN : passage.send(this.#fd)
      if (errno === ERRNO.EAGAIN || errno === ERRNO.EINTR) {
        this.#probe(socket, this.#reply)
        return
      }
      if (errno !== 0 && passage.isRefused) {
        this.end(socket)
        return
      }
      if (errno !== 0) socket.destroy(new SystemCallError('splice', errno))
    }
    this.#reply = undefined
    owner.release()
  }

  /** Has the event loop write a small part of what is in the passage, so that it tells when there is room for the rest. */
  #probe(socket: Socket, { passage, buffer }: PassingReply): void {
    const [from, to] = passage.take(PROBE)
    socket.write(buffer.subarray(from, to), () => {
      this.#goOn(socket)
      if (!this.isUnderWay) this.#onWritten()
    })
  }

  /** Something has to come behind the reply: takes the rest of it into memory, from where it goes on by itself. */
  end(socket: Socket): void {
    if (this.#reply === undefined) return
    const { passage, buffer, owner } = this.#reply
    this.#reply = undefined
    socket.write(buffer.subarray(passage.toMemory(), passage.end), () => {
      owner.release()
      this.#onWritten()
    })
  }
}
