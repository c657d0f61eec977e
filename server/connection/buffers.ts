/** Buffers for data that must outlive one turn of the event loop: by size classes, reused, never filled with zeroes. */

/** Space for a reply's header in front of the data. */
export const HEADER_ROOM = 64
/** Most data bytes that one buffer holds. */
export const MAX_DATA = 2 ** 20
const SMALLEST_SHIFT = 12
/** Most bytes that lie idle for reuse. */
const MAX_IDLE_BYTES = 16 * 2 ** 20

const idle: Buffer[][] = Array.from({ length: 21 - SMALLEST_SHIFT }, () => [])
let idleBytes = 0
let lentBytes = 0

function sizeClass(length: number): number {
  return length <= 4096 ? 0 : 32 - Math.clz32(length - 1) - SMALLEST_SHIFT
}

/** A buffer with room for HEADER_ROOM bytes and then `length` bytes of data, at most MAX_DATA. */
export function takeBuffer(length: number): Buffer {
  const index = sizeClass(length)
  const reused = idle[index]?.pop()
  if (reused !== undefined) idleBytes -= reused.length
  const buffer = reused ?? Buffer.allocUnsafeSlow(HEADER_ROOM + 2 ** (SMALLEST_SHIFT + index))
  lentBytes += buffer.length
  return buffer
}

/** Gives a buffer of takeBuffer back. */
export function giveBuffer(buffer: Buffer): void {
  lentBytes -= buffer.length
  if (idleBytes + buffer.length > MAX_IDLE_BYTES) return
  idleBytes += buffer.length
  idle[sizeClass(buffer.length - HEADER_ROOM)]?.push(buffer)
}

/** Forgets a buffer of takeBuffer that somebody may still write to. */
export function forgetBuffer(buffer: Buffer): void {
  lentBytes -= buffer.length
}

/** Bytes in use by all connections together. */
export function bytesLent(): number {
  return lentBytes
}
