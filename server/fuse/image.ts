/** An image file, or a block device, as the disk of a FUSE file: each call does its work at once and waits for it. */
import { fstatSync } from 'node:fs'
import { ERRNO } from '../linux/errno.ts'
import {
  addressOf,
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  FALLOC_FL_ZERO_RANGE,
  fallocate,
  fdatasync,
  ftruncate,
  lastErrno,
  lseek,
  pread,
  pwrite,
  SEEK_DATA,
  SEEK_END,
  SEEK_HOLE,
} from '../linux/syscalls.ts'
import type { FuseDisk } from './disk.ts'

/** What a reader of the device needs to know of an image that is open. */
export interface OpenImage {
  readonly fd: number
  readonly writable: boolean
  readonly isBlockDevice: boolean
}

/** Calls until no signal is in the way; the result, or the negative error number. */
function retried(call: () => number): number {
  for (;;) {
    const result = call()
    if (result >= 0) return result
    const errno = lastErrno()
    if (errno !== ERRNO.EINTR) return -errno
  }
}

const zeroes = Buffer.alloc(2 ** 20)
const zeroesAddress = addressOf(zeroes)
/** Bytes of the largest blocks that devices have. */
const BLOCK = 4096

/** The disk. It may be used by several threads at once, each with an object of its own. */
export function imageDisk({ fd, writable, isBlockDevice }: OpenImage): FuseDisk {
  const size = () => lseek(fd, 0, SEEK_END)

  function writeZeroes(length: number, offset: number): number {
    for (let at = 0; at < length; ) {
      const written = pwrite(fd, zeroesAddress, Math.min(length - at, zeroes.length), offset + at)
      if (written < 0 && lastErrno() !== ERRNO.EINTR) return -lastErrno()
      at += Math.max(0, written)
    }
    return 0
  }

  function zeroWhole(length: number, offset: number, punch: boolean): number {
    const mode = FALLOC_FL_KEEP_SIZE | (punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE)
    const result = retried(() => fallocate(fd, mode, offset, length))
    return result === -ERRNO.EOPNOTSUPP && !punch ? writeZeroes(length, offset) : result
  }

  return {
    canWrite: writable,
    blockSize: 4096,
    size,
    usage() {
      const { blocks, mtimeMs } = fstatSync(fd)
      return { allocated: isBlockDevice ? size() : blocks * 512, changedAt: mtimeMs / 1000 }
    },
    read(exchange, length, offset) {
      for (;;) {
        const result = pread(fd, exchange.dataAddress, length, offset)
        if (result >= 0) return result
        if (lastErrno() !== ERRNO.EINTR) return -lastErrno()
      }
    },
    write(exchange, start, length, offset, durable) {
      for (;;) {
        const result = pwrite(fd, exchange.inputAddress + start, length, offset)
        if (result >= 0) {
          if (!durable) return result
          const synced = retried(() => fdatasync(fd))
          return synced < 0 ? synced : result
        }
        if (lastErrno() !== ERRNO.EINTR) return -lastErrno()
      }
    },
    flush: () => retried(() => fdatasync(fd)),
    zero(_exchange, length, offset, punch) {
      if (!isBlockDevice) return zeroWhole(length, offset, punch)
      // A device refuses what does not keep to its blocks; a file zeroes the parts of blocks by itself.
      const end = offset + length
      const first = Math.min(Math.ceil(offset / BLOCK) * BLOCK, end)
      const last = Math.max(first, Math.floor(end / BLOCK) * BLOCK)
      // The blocks come first, so that where a hole cannot be had nothing is changed.
      const whole = first === last ? 0 : zeroWhole(last - first, first, punch)
      return whole || writeZeroes(first - offset, offset) || writeZeroes(end - last, last)
    },
    truncate(_exchange, length) {
      return isBlockDevice ? -ERRNO.EOPNOTSUPP : retried(() => ftruncate(fd, length))
    },
    allocate(_exchange, length, offset) {
      return isBlockDevice ? -ERRNO.EOPNOTSUPP : retried(() => fallocate(fd, 0, offset, length))
    },
    seek: (_exchange, offset, kind) =>
      isBlockDevice
        ? // A block device does not tell its holes.
          kind === 'data'
          ? offset
          : size()
        : retried(() => lseek(fd, offset, kind === 'data' ? SEEK_DATA : SEEK_HOLE)),
  }
}
