/** One request of the kernel and the reply to it: memory that is made once and used again and again. */
import type { Completion } from '../client/operation.ts'
import { codeOf, ERRNO, errnoOf } from '../linux/errno.ts'
import { addressOf } from '../linux/syscalls.ts'
import { OUT_HEADER_SIZE } from './constants.ts'
import { WRITE_DATA } from './protocol.ts'

/**
 * The largest READ and WRITE, in bytes; the kernel cuts what is larger into several, and has them under way at once. So
 * the parts of a large one are copied side by side, and out of the processor's cache, which 1 MiB does not fit into.
 */
export const MAX_DATA = 2 ** 18
const PAGE = 4096
/** Data of a reply begins here, and the reply's header right before it. */
const DATA_START = PAGE

/**
 * Where in a page data begins. Page by page is how the kernel moves data from and to the device, and how a file has it:
 * that takes half as many steps where the data of an exchange begins a page, too.
 */
export const FOR_FILES = 0
/**
 * The same for what goes to a socket. There data comes to lie some bytes behind the beginning of a page, and processors
 * (AMD's Zen 3 and its kin) copy several times slower where the two places differ by 1 to 63 bytes modulo 4096.
 */
export const FOR_SOCKETS = 1024

/** Memory whose byte `dataAt` is so many bytes behind the beginning of a page. */
function placed(length: number, dataAt: number, inPage: number): Buffer {
  const memory = Buffer.allocUnsafeSlow(length + 2 * PAGE)
  const start = PAGE - ((addressOf(memory) + dataAt) % PAGE) + inPage
  return memory.subarray(start, start + length)
}

/** Told when an operation that is `PENDING` ends. */
export type Finish = (exchange: Exchange, result: number) => void

export class Exchange implements Completion {
  /** Where a request is put that comes from the device. */
  readonly input: Buffer
  readonly inputAddress: number
  readonly request: Uint32Array
  /** The data of a READ goes here from DATA_START on. */
  readonly output: Buffer
  readonly dataStart = DATA_START
  readonly dataAddress: number
  readonly replyAddress: number
  readonly reply: Uint32Array
  /** Its operation has not ended. */
  isPending = false
  /** Whoever asked has been answered already. */
  isAbandoned = false
  /** What `complete` without an error comes to. */
  expected = 0
  readonly #finish: Finish

  /** `inPage`: where in a page the data of a READ and of a WRITE begins, in bytes. */
  constructor(finish: Finish, inPage: number = FOR_FILES) {
    this.#finish = finish
    this.input = placed(MAX_DATA + PAGE, WRITE_DATA, inPage)
    this.inputAddress = addressOf(this.input)
    this.request = new Uint32Array(this.input.buffer, this.input.byteOffset, 64)
    this.output = placed(MAX_DATA + DATA_START, DATA_START, inPage)
    this.dataAddress = addressOf(this.output) + DATA_START
    this.replyAddress = this.dataAddress - OUT_HEADER_SIZE
    this.reply = new Uint32Array(
      this.output.buffer,
      this.output.byteOffset + DATA_START - OUT_HEADER_SIZE,
      64,
    )
  }

  /** Ends an operation that is `PENDING`, once: with its result, or a negative error number. */
  end(result: number): void {
    this.#finish(this, result)
  }

  /** The same for the NBD client: with `expected`, or the number of the error's code. */
  complete(error?: unknown): void {
    this.#finish(this, error === undefined ? this.expected : -errnoOfError(error))
  }
}

/** Error number by which a program is told of an error; EIO where the error has no code. */
export function errnoOfError(error: unknown): number {
  const code = codeOf(error)
  // The same number on Linux, and the name that the NBD protocol knows it by.
  return code === 'ENOTSUP' ? ERRNO.EOPNOTSUPP : errnoOf(code)
}
