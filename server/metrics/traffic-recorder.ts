/**
 * What one connection does, told to the meter of its export. A request takes from when the bytes that it came
 * with were looked at until its reply is handed over. All requests that are answered within one turn of their
 * connection share the two readings of the clock at the turn's ends, since their replies leave together: so the
 * common request costs two additions and no clock.
 */
import { CMD } from '../protocol/constants.ts'
import type { ExportMeter } from './export-meter.ts'

/** A request and how it ended. */
export interface AnsweredRequest {
  /** Number of its command on the wire. */
  readonly type: number
  /** Bytes. */
  readonly length: number
  /** What `beginTurn` returned when it came. */
  readonly startedAt: number
  /** Wire error with which it was refused; 0 if it was not. */
  readonly refusal: number
  /** How it failed, if it did. */
  readonly error: unknown
}

export class TrafficRecorder {
  readonly #meter: ExportMeter
  #turnStart = 0
  #reads = 0
  #readBytes = 0
  #writes = 0
  #writtenBytes = 0

  constructor(meter: ExportMeter) {
    this.#meter = meter
  }

  /** A turn begins; returns a reading of the clock in ms. */
  beginTurn(): number {
    this.#turnStart = performance.now()
    return this.#turnStart
  }

  /** A READ succeeded within the turn. */
  read(bytes: number): void {
    this.#reads++
    this.#readBytes += bytes
  }

  /** A WRITE succeeded within the turn. */
  wrote(bytes: number): void {
    this.#writes++
    this.#writtenBytes += bytes
  }

  /** The replies of the turn so far leave now. */
  settle(): void {
    if (this.#reads + this.#writes === 0) return
    const seconds = (performance.now() - this.#turnStart) / 1000
    const meter = this.#meter
    if (this.#reads > 0) meter.command(CMD.READ).seconds.observe(seconds, this.#reads)
    if (this.#writes > 0) meter.command(CMD.WRITE).seconds.observe(seconds, this.#writes)
    meter.readBytes += this.#readBytes
    meter.writtenBytes += this.#writtenBytes
    this.#reads = 0
    this.#readBytes = 0
    this.#writes = 0
    this.#writtenBytes = 0
  }

  /** A request that `read` and `wrote` do not cover was answered: one that failed, took longer, or is of another kind. */
  answered({ type, length, startedAt, refusal, error }: AnsweredRequest): void {
    const command = this.#meter.command(type)
    command.seconds.observe((performance.now() - startedAt) / 1000)
    if (refusal !== 0 || error !== undefined) command.errors++
    else if (type === CMD.READ) this.#meter.readBytes += length
    else if (type === CMD.WRITE) this.#meter.writtenBytes += length
  }

  /** The connection was held back for so many ms. */
  throttled(ms: number): void {
    this.#meter.throttledSeconds += ms / 1000
  }
}
