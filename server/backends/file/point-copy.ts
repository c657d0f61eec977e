/**
 * Copies a file as it is at one moment, so that a filesystem on it finds what it would find after a power failure.
 * Writes are held until those that had begun have ended. Then the copy shares the blocks of the file, where the file
 * system can do that (reflink), or is made while writing goes on (see copy-before-write.ts).
 */
import { futimes } from 'node:fs'
import { promisify } from 'node:util'
import { ERRNO, SystemCallError } from '../../linux/errno.ts'
import { deviceControl, FICLONE, fdatasync, fsync, ftruncate } from '../../linux/syscalls.ts'
import { CopyBeforeWrite } from './copy-before-write.ts'
import { inTurn, Lane } from './disk-queue.ts'
import type { WriteBarrier } from './file-disk.ts'

/** A file that is to be copied, and those who write it. */
export interface CopySource {
  /** To read it by. */
  readonly fd: number
  /** Bytes. It is asked for when all changes are held, as the disk may have grown by then. */
  readonly size: number
  /** Puts a barrier before all who write the file, or will; undefined takes it away. */
  setBarrier(barrier: WriteBarrier | undefined): void
  /** When the trims are done that have been answered until now (see late-trims.ts). What comes later is dropped. Default: none are. */
  answeredTrims?(): Promise<void>
  /** Changes that have begun and not ended. */
  changes(): number
}

/** How a copy was made. */
export interface PointCopy {
  /** Bytes. */
  readonly size: number
  readonly method: 'reflink' | 'copy'
  /** The moment of which it is. */
  readonly at: Date
  /** How long all writes were held for it, in ms. */
  readonly heldMs: number
}

/** Writes under way did not end in time. */
export class CopyTimeoutError extends Error {
  override readonly name = 'CopyTimeoutError'
  readonly code = 'EAGAIN'
}

/** Longest time for which all writes are held, in ms, until those that had begun have ended. */
const MAX_HOLD_MS = 5000

/** What a file system without reflinks says, or one that has none between these two files. */
const NO_REFLINK: readonly number[] = [
  ERRNO.EOPNOTSUPP,
  ERRNO.EXDEV,
  ERRNO.EINVAL,
  ERRNO.ENOTTY,
  ERRNO.ENOSYS,
]

const setTimes = promisify(futimes)

/** Holds all changes, then lets pass what a copy does not need any more. */
class Hold implements WriteBarrier {
  readonly #held: (() => void)[] = []
  #copying: CopyBeforeWrite | undefined
  #isLifted = false
  onIdle: () => void = () => {}

  passes(offset: number, length: number): boolean {
    return this.#isLifted || (this.#copying?.passes(offset, length) ?? false)
  }

  wait(offset: number, length: number, go: () => void): void {
    // It never fails: what goes wrong ends the copy, not the change.
    if (this.#copying !== undefined) void this.#copying.ahead(offset, length).then(go)
    else this.#held.push(go)
  }

  idle(): void {
    this.onIdle()
  }

  /** From now on the copy says what has to wait. */
  handOver(copying: CopyBeforeWrite): void {
    this.#copying = copying
    this.#go()
  }

  lift(): void {
    this.#isLifted = true
    this.#go()
  }

  #go(): void {
    for (const go of this.#held.splice(0)) go()
  }
}

/**
 * Copies the file into another one, which is empty. When it returns the copy is durable, and has the moment of which it
 * is as its time of modification. What a copy that failed or was called off has written is left to the caller.
 * @throws SystemCallError, CopyTimeoutError, or the signal's reason
 */
export async function copyOfNow(source: CopySource, to: number, signal: AbortSignal): Promise<PointCopy> {
  const { fd: from } = source
  const lane = new Lane()
  const call = async (name: string, start: Parameters<typeof inTurn>[1]) => {
    const result = await inTurn(lane, start)
    if (result < 0) throw new SystemCallError(name, -result)
  }
  await source.answeredTrims?.()
  signal.throwIfAborted()
  // What is to be written out before blocks can be shared is written before anybody has to wait for it.
  await call('fdatasync', done => fdatasync.async(from, done))
  const hold = new Hold()
  const heldSince = performance.now()
  source.setBarrier(hold)
  let report: PointCopy
  try {
    await quiet(source, hold, signal)
    const { size } = source
    const at = new Date()
    const cloned = await inTurn(lane, done => deviceControl.async(to, FICLONE, from, done))
    const isCloned = cloned >= 0
    if (!isCloned && !NO_REFLINK.includes(-cloned)) throw new SystemCallError('ioctl(FICLONE)', -cloned)
    report = { size, method: isCloned ? 'reflink' : 'copy', at, heldMs: performance.now() - heldSince }
    if (!isCloned) {
      const copying = new CopyBeforeWrite({ from, to, size })
      hold.handOver(copying)
      await copying.run(signal)
    }
  } finally {
    source.setBarrier(undefined)
    hold.lift()
  }
  signal.throwIfAborted()
  await call('ftruncate', done => ftruncate.async(to, report.size, done))
  await setTimes(to, report.at, report.at)
  await call('fsync', done => fsync.async(to, done))
  signal.throwIfAborted()
  return report
}

/** Waits until no change is under way. */
async function quiet(source: CopySource, hold: Hold, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  if (source.changes() === 0) return
  let timer: NodeJS.Timeout | undefined
  let leave = () => {}
  try {
    await new Promise<void>((resolve, reject) => {
      hold.onIdle = () => {
        if (source.changes() === 0) resolve()
      }
      timer = setTimeout(() => {
        const problem = `Writes that were under way have not ended within ${MAX_HOLD_MS / 1000} s. Try again.`
        reject(new CopyTimeoutError(problem))
      }, MAX_HOLD_MS)
      leave = () => reject(signal.reason)
      signal.addEventListener('abort', leave, { once: true })
    })
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', leave)
  }
}
