/**
 * Trims that are answered before they have ended. The protocol calls a trim advice, and what is in its range undefined
 * until that is written again, so that a client need not wait until a gigabyte of blocks has been given back. But what it
 * writes after the answer must stay: a change takes its range out of what is pending, and waits while just that is punched.
 * What it reads waits for all of its range, so that nobody sees data come and go that the protocol would let him see.
 */
import type { Completion } from '../backend.ts'
import { PendingTrims, PIECE } from './pending-trims.ts'

/** A trim is answered after this time, in ms, if it has not ended before. */
export const ANSWER_MS = 20
/**
 * Bytes that may be pending when a trim is answered: a flush and the end of the last connection wait for them. What goes
 * beyond that is answered later.
 */
export const MAX_LATE = 2 ** 31

/** Punches a hole; calls `done` once, also before it returns. */
export type Punch = (offset: number, length: number, done: Completion) => void

/** What trims need to know of their disk. */
export interface TrimmedDisk {
  readonly punch: Punch
  /** Is nothing to be punched now, as a copy of the disk is made? */
  isHeld(): boolean
  /** Told when the first trim comes and when the last one has ended: in between no change may go past `mayChange`. */
  becameBusy(isBusy: boolean): void
}

interface LateTrim {
  readonly completion: Completion
  timer: NodeJS.Timeout | undefined
  isDue: boolean
  isAnswered: boolean
  /** Who waits until it is done. */
  waiters: (() => void)[]
}

/** Is this a trim that is punched in pieces? Others take no longer than a piece. */
export const isLong = (length: number) => length > PIECE

const isInputOutputError = (error: unknown) => (error as { code?: unknown } | undefined)?.code === 'EIO'

export class LateTrims implements Completion {
  readonly #disk: TrimmedDisk
  readonly #pending = new PendingTrims<LateTrim>()
  /** Changes and reads that wait until the piece under way has been punched. */
  #held: (() => void)[] = []
  #startedAt = 0
  /** Pieces may end before `punch` returns, and who is answered may trim again at once: one loop sees to all of it. */
  #isAdvancing = false
  #failure: unknown

  constructor(disk: TrimmedDisk) {
    this.#disk = disk
  }

  /** Is anything pending or being punched? */
  get isBusy(): boolean {
    return this.#pending.count > 0
  }

  /** Takes a long trim and ends it in its time. False: it has to be done in one piece, at once. */
  add(offset: number, length: number, completion: Completion): boolean {
    if (this.#disk.isHeld()) return false
    const trim: LateTrim = { completion, timer: undefined, isDue: false, isAnswered: false, waiters: [] }
    if (!this.#pending.add(offset, length, trim)) return false
    trim.timer = setTimeout(() => {
      trim.isDue = true
      this.#answerDue()
    }, ANSWER_MS)
    if (this.#pending.count === 1) this.#disk.becameBusy(true)
    this.#advance()
    return true
  }

  /**
   * This range is about to be changed: nothing of it will be punched. False: part of it is being punched at this moment,
   * and the change has to `wait`, and to ask again.
   */
  mayChange(offset: number, length: number): boolean {
    return this.#pending.exclude(offset, length)
  }

  /** Is part of this range to be punched still? Then who reads it has to `wait`, and to ask again. */
  hides(offset: number, length: number): boolean {
    return this.#pending.touches(offset, length)
  }

  /** When nothing of this range is to be punched any more. */
  async punched(offset: number, length: number): Promise<void> {
    while (this.hides(offset, length)) await new Promise<void>(resolve => this.wait(resolve))
  }

  /** Calls `go` when the piece under way has been punched, before the next one is begun. */
  wait(go: () => void): void {
    this.#held.push(go)
  }

  /** Calls `go` when the trims that have been answered until now are done. False: they are, and it is not called. */
  afterAnswered(go: () => void): boolean {
    let last: LateTrim | undefined
    for (const [trim] of this.#pending.backlog()) if (trim.isAnswered) last = trim
    // They are done in the order in which they came.
    last?.waiters.push(go)
    return last !== undefined
  }

  /** The same as a promise. */
  async answeredDone(): Promise<void> {
    await new Promise<void>(resolve => {
      if (!this.afterAnswered(resolve)) resolve()
    })
  }

  /** When all trims of this moment are done. Until then the descriptor must not be closed: its number is used again. */
  async settled(): Promise<void> {
    const last = [...this.#pending.backlog()].at(-1)?.[0]
    if (last !== undefined) await new Promise<void>(resolve => last.waiters.push(resolve))
  }

  /** Forgets what is pending, as it is of no use any more. The piece under way has to be waited for. */
  drop(): void {
    this.#pending.dropAll()
  }

  /** An EIO of a trim that had been answered before: for the next flush, which it is told to once. */
  takeFailure(): unknown {
    const failure = this.#failure
    this.#failure = undefined
    return failure
  }

  /** Called when a piece has been punched. */
  complete(error?: unknown): void {
    this.#pending.ended(performance.now() - this.#startedAt)
    const wasAdvancing = this.#isAdvancing
    this.#isAdvancing = true
    if (error !== undefined) this.#failed(error)
    // A copy holds all changes; it must neither wait for gigabytes of holes nor find them made while it reads.
    if (this.#disk.isHeld()) this.#pending.dropAll()
    const held = this.#held
    this.#held = []
    for (const go of held) go()
    this.#isAdvancing = wasAdvancing
    this.#advance()
  }

  /** What is left of a trim whose piece failed stays as it is. */
  #failed(error: unknown): void {
    const [first] = this.#pending.backlog()
    this.#pending.dropFirst()
    if (first === undefined) return
    const [trim] = first
    if (!trim.isAnswered) this.#answer(trim, error)
    else if (isInputOutputError(error)) this.#failure ??= error
  }

  #advance(): void {
    if (this.#isAdvancing) return
    this.#isAdvancing = true
    for (;;) {
      this.#endDone()
      const piece = this.#pending.begin()
      if (piece === undefined) break
      this.#startedAt = performance.now()
      this.#disk.punch(piece.start, piece.end - piece.start, this)
    }
    this.#isAdvancing = false
    this.#answerDue()
  }

  #endDone(): void {
    for (let trim = this.#pending.takeDone(); trim !== undefined; trim = this.#pending.takeDone()) {
      clearTimeout(trim.timer)
      if (this.#pending.count === 0) this.#disk.becameBusy(false)
      this.#answer(trim, undefined)
      for (const go of trim.waiters) go()
    }
  }

  #answerDue(): void {
    for (const [trim, bytes] of [...this.#pending.backlog()]) {
      if (bytes > MAX_LATE) return
      if (trim.isDue) this.#answer(trim, undefined)
    }
  }

  #answer(trim: LateTrim, error: unknown): void {
    if (trim.isAnswered) return
    trim.isAnswered = true
    trim.completion.complete(error)
  }
}
