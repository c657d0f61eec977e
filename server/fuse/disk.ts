/** What stands behind the file: the bytes of a disk, as the session asks for them. */
import type { Exchange } from './exchange.ts'

/** The operation ends later, by `exchange.end()`. No other result is so small. */
export const PENDING = -65_536

/**
 * A disk. Offsets and lengths are bytes, as numbers below 2^53. Operations return what they did (bytes, or 0),
 * a negative error number, or `PENDING`; they do not throw. No two of those that change the size run at once.
 */
export interface FuseDisk {
  readonly canWrite: boolean
  /** Bytes of a block that a program had better keep to. */
  readonly blockSize: number
  size(): number
  /** Bytes that it takes up, and when it was last changed, in seconds since 1970. */
  usage(): { readonly allocated: number; readonly changedAt: number }
  /** Reads to `exchange.output` from `exchange.dataStart` on; fewer bytes where the disk ends. */
  read(exchange: Exchange, length: number, offset: number): number
  /** Writes from `start` of `exchange.input`. `durable`: also to the medium. */
  write(exchange: Exchange, start: number, length: number, offset: number, durable: boolean): number
  flush(exchange: Exchange): number
  /** Makes the range read as zeroes; `punch`: and gives its space back, or fails with EOPNOTSUPP. */
  zero(exchange: Exchange, length: number, offset: number, punch: boolean): number
  truncate(exchange: Exchange, size: number): number
  /** Makes the disk end with this range, and takes up its space; the disk does not reach to its end now. */
  allocate(exchange: Exchange, length: number, offset: number): number
  /** All requests that came together have been handed over. */
  endBatch?(): void
  /** Offset of the next data or hole at or behind `offset`. */
  seek(exchange: Exchange, offset: number, kind: 'data' | 'hole'): number
}
