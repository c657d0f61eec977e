/**
 * Copies a file as it is at one moment while others go on writing it. A cluster that is to be changed before its turn
 * has come is copied first, and the change waits for that; all else passes. So no write waits longer than a cluster
 * or two take, however large the file is, and what comes later is not in the copy.
 */
import { ERRNO, SystemCallError } from '../../linux/errno.ts'
import { addressOf, fdatasync, lseek, pread, pwrite, SEEK_DATA, SEEK_HOLE } from '../../linux/syscalls.ts'
import { inTurn, Lane } from './disk-queue.ts'

/** Bytes that are copied in one piece. */
export const CLUSTER = 2 ** 18
/** Clusters that are copied at once for writes that wait. */
const MAX_AT_ONCE = 8
/** Bytes after which the copy is synced, so that it does not fill the memory that other disks write to. */
const SYNC_EVERY = 2 ** 26

/** What is copied: descriptors of the file and of the copy. */
export interface CopyTerms {
  readonly from: number
  readonly to: number
  /** Bytes. */
  readonly size: number
}

export class CopyBeforeWrite {
  readonly #terms: CopyTerms
  /** Of its own, so that it has one client's share of the threads beside the disk's. */
  readonly #lane = new Lane()
  /** The first cluster whose turn has not come. */
  #next = 0
  /** Clusters behind that which have been copied already. */
  readonly #early = new Set<number>()
  readonly #underWay = new Map<number, Promise<void>>()
  readonly #idleBuffers: Buffer[] = []
  #buffers = 0
  readonly #waiting: ((buffer: Buffer) => void)[] = []
  /** It is over, well or not: nothing has to be kept any more. */
  #ended = false
  #failure: unknown
  #unsynced = 0

  constructor(terms: CopyTerms) {
    this.#terms = terms
  }

  /** May this range be changed, as nothing of it is to be read any more? */
  passes(offset: number, length: number): boolean {
    if (this.#ended) return true
    const last = Math.floor((offset + length - 1) / CLUSTER)
    for (let cluster = Math.floor(offset / CLUSTER); cluster <= last; cluster++) {
      if (!this.#isCopied(cluster)) return false
    }
    return true
  }

  /** Copies what of the range has not been, before its turn. A copy that fails is over: the change goes on. */
  async ahead(offset: number, length: number): Promise<void> {
    const last = Math.floor((offset + length - 1) / CLUSTER)
    for (let cluster = Math.floor(offset / CLUSTER); cluster <= last && !this.#ended; cluster++) {
      if (this.#isCopied(cluster)) continue
      try {
        await this.#copyOnce(cluster)
      } catch (error) {
        this.#fail(error)
      }
    }
  }

  /** Copies everything in its turn. @throws SystemCallError, also where copying ahead failed; the signal's reason */
  async run(signal: AbortSignal): Promise<void> {
    try {
      const { size } = this.#terms
      while (this.#next * CLUSTER < size) {
        const data = await this.#seek(this.#next * CLUSTER, SEEK_DATA)
        if (this.#failure !== undefined) throw this.#failure
        signal.throwIfAborted()
        // Of the hole nothing is to be read; what has been written into it since then came later.
        this.#passTo(data === undefined ? Math.ceil(size / CLUSTER) : Math.floor(data / CLUSTER))
        if (data === undefined) break
        await this.#copyOnce(this.#next)
        this.#passTo(this.#next + 1)
        await this.#syncSometimes()
      }
    } finally {
      this.#ended = true
      // Until then the descriptors are in use.
      await Promise.allSettled(this.#underWay.values())
    }
    if (this.#failure !== undefined) throw this.#failure
  }

  /** What lies behind the end came later, when the file grew. */
  #isCopied(cluster: number): boolean {
    if (cluster * CLUSTER >= this.#terms.size) return true
    return !this.#underWay.has(cluster) && (cluster < this.#next || this.#early.has(cluster))
  }

  #passTo(next: number): void {
    const passed = next - this.#next
    if (passed <= this.#early.size) {
      for (let cluster = this.#next; cluster < next; cluster++) this.#early.delete(cluster)
    } else {
      for (const cluster of this.#early) if (cluster < next) this.#early.delete(cluster)
    }
    this.#next = next
  }

  #fail(error: unknown): void {
    this.#failure ??= error
    this.#ended = true
  }

  #copyOnce(cluster: number): Promise<void> {
    if (this.#early.has(cluster)) return Promise.resolve()
    const known = this.#underWay.get(cluster)
    if (known !== undefined) return known
    const copying = this.#copy(cluster).finally(() => {
      this.#underWay.delete(cluster)
      this.#early.add(cluster)
    })
    this.#underWay.set(cluster, copying)
    return copying
  }

  async #copy(cluster: number): Promise<void> {
    const buffer = await this.#takeBuffer()
    try {
      const end = Math.min((cluster + 1) * CLUSTER, this.#terms.size)
      let position = cluster * CLUSTER
      while (position < end) {
        const data = await this.#seek(position, SEEK_DATA)
        if (data === undefined || data >= end) return
        const hole = await this.#seek(data, SEEK_HOLE)
        const stop = Math.min(end, hole ?? end)
        if (stop > data) await this.#transfer(addressOf(buffer), data, stop)
        position = stop
      }
    } finally {
      this.#giveBuffer(buffer)
    }
  }

  async #transfer(address: number, start: number, end: number): Promise<void> {
    const { from, to } = this.#terms
    let position = start
    while (position < end) {
      const length = end - position
      const read = await this.#call('pread', done => pread.async(from, address, length, position, done))
      if (read === 0) throw new SystemCallError('pread', ERRNO.EIO)
      let written = 0
      while (written < read) {
        const [begin, at, rest] = [address + written, position + written, read - written]
        written += await this.#call('pwrite', done => pwrite.async(to, begin, rest, at, done))
      }
      position += read
      this.#unsynced += read
    }
  }

  async #syncSometimes(): Promise<void> {
    if (this.#unsynced < SYNC_EVERY) return
    this.#unsynced = 0
    await this.#call('fdatasync', done => fdatasync.async(this.#terms.to, done))
  }

  /** Undefined: there is none until the end. A file system that knows no holes has data everywhere. */
  async #seek(position: number, whence: number): Promise<number | undefined> {
    const found = await inTurn(this.#lane, done => lseek.async(this.#terms.from, position, whence, done))
    if (found >= 0) return found < this.#terms.size ? found : undefined
    if (found === -ERRNO.ENXIO) return undefined
    if (found !== -ERRNO.EINVAL && found !== -ERRNO.EOPNOTSUPP) throw new SystemCallError('lseek', -found)
    return whence === SEEK_DATA ? position : undefined
  }

  async #call(name: string, start: Parameters<typeof inTurn>[1]): Promise<number> {
    for (;;) {
      const result = await inTurn(this.#lane, start)
      if (result >= 0) return result
      if (result !== -ERRNO.EINTR) throw new SystemCallError(name, -result)
    }
  }

  #takeBuffer(): Buffer | Promise<Buffer> {
    const buffer = this.#idleBuffers.pop()
    if (buffer !== undefined) return buffer
    if (this.#buffers < MAX_AT_ONCE) {
      this.#buffers++
      return Buffer.allocUnsafeSlow(CLUSTER)
    }
    return new Promise(resolve => this.#waiting.push(resolve))
  }

  #giveBuffer(buffer: Buffer): void {
    const next = this.#waiting.shift()
    if (next !== undefined) next(buffer)
    else this.#idleBuffers.push(buffer)
  }
}
