/**
 * What one connection does, told to the meter of its export. A request takes from when the bytes that it came
 * with were looked at until its reply is handed over. All requests that are answered within one turn of their
 * connection share the two readings of the clock at the turn's ends, since their replies leave together: so the
 * common request costs two additions and no clock.
 */
import { CMD } from '../protocol/constants.ts'
import type { ExportMeter } from './export-meter.ts'

const MS = 1000

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

  /** A turn begins; returns the clock's reading in ms, which a request that is answered later remembers. */
  beginTurn(): number {
    this.#turnStart = performance.now()
    return this.#turnStart
  }

  /** A READ was answered within the turn. */
  read(bytes: number): void {
    this.#reads++
    this.#readBytes += bytes
  }

  /** A WRITE was answered within the turn. */
  wrote(bytes: number): void {
    this.#writes++
    this.#writtenBytes += bytes
  }

  /** The replies of the turn so far leave now. */
  settle(): void {
    if (this.#reads + this.#writes === 0) return
    const seconds = (performance.now() - this.#turnStart) / MS
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

  /** A request of this command and length was answered. `since` and `now` are readings of the clock in ms. */
  answered(type: number, bytes: number, failed: boolean, since: number, now: number): void {
    const command = this.#meter.command(type)
    command.seconds.observe((now - since) / MS)
    if (failed) command.errors++
    else if (type === CMD.READ) this.#meter.readBytes += bytes
    else if (type === CMD.WRITE) this.#meter.writtenBytes += bytes
  }

  /** The connection was held back for so many ms. */
  throttled(ms: number): void {
    this.#meter.throttledSeconds += ms / MS
  }
}
