/** An NBD export as the disk of a FUSE file. Operations end when the server has answered, or given up. */
import type { NbdClient } from '../client/client.ts'
import { ERRNO } from '../linux/errno.ts'
import { type FuseDisk, PENDING } from './disk.ts'
import { type Exchange, errnoOfError } from './exchange.ts'

const ZEROES = Buffer.alloc(2 ** 20)
/** How the client of an export that becomes a file has to be: programs write as they like, and much at a time. */
export const CLIENT_OPTIONS = { unaligned: 'read-modify-write', partSize: 2 ** 18 } as const
/** Extents that are asked for at once while a hole is looked for. */
const EXTENTS = 1024

/** Runs an operation that tells of its end by a promise. */
function later(exchange: Exchange, work: () => Promise<number>): typeof PENDING {
  work().then(
    result => exchange.end(result),
    error => exchange.end(-errnoOfError(error)),
  )
  return PENDING
}

/** The disk of an open export. */
export function nbdDisk(client: NbdClient): FuseDisk {
  // The size may grow.
  const { flags } = client
  let changedAt = Date.now() / 1000

  /** Starts an operation of the client; one that cannot begin has failed already. */
  const started = (exchange: Exchange, expected: number, start: () => void): number => {
    exchange.expected = expected
    try {
      start()
      return PENDING
    } catch (error) {
      return -errnoOfError(error)
    }
  }

  async function writeZeroes(length: number, offset: number): Promise<number> {
    for (let at = 0; at < length; at += ZEROES.length) {
      await client.pwrite(ZEROES, 0, Math.min(ZEROES.length, length - at), offset + at)
    }
    return 0
  }

  async function seek(offset: number, kind: 'data' | 'hole'): Promise<number> {
    const { size } = client
    for (let at = offset; at < size; ) {
      const extents = await client.extents(size - at, at, EXTENTS)
      for (const { length, hole, zero } of extents) {
        // What only reads as zeroes takes space all the same, and what is a hole may read as anything.
        if ((hole && zero) === (kind === 'hole')) return at
        at += length
      }
    }
    return kind === 'hole' ? size : -ERRNO.ENXIO
  }

  return {
    canWrite: !flags.readOnly,
    blockSize: Math.min(Math.max(client.blockSizes.preferred, 512), 2 ** 16),
    endBatch: () => client.endBatch(),
    size: () => client.size,
    usage: () => ({ allocated: client.size, changedAt }),
    read(exchange, length, offset) {
      const wanted = Math.min(length, client.size - offset)
      if (wanted <= 0) return 0
      exchange.expected = wanted
      try {
        client.startPread(exchange.output, exchange.dataStart, wanted, offset, exchange)
        return PENDING
      } catch (error) {
        return -errnoOfError(error)
      }
    },
    write(exchange, start, length, offset, durable) {
      changedAt = Date.now() / 1000
      exchange.expected = length
      try {
        if (durable && !flags.canFua) {
          return later(exchange, async () => {
            await client.pwrite(exchange.input, start, length, offset)
            if (flags.canFlush) await client.flush()
            return length
          })
        }
        client.startPwrite(exchange.input, start, length, offset, durable, exchange)
        return PENDING
      } catch (error) {
        return -errnoOfError(error)
      }
    },
    flush: exchange => (flags.canFlush ? started(exchange, 0, () => client.startFlush(exchange)) : 0),
    zero(exchange, length, offset, punch) {
      changedAt = Date.now() / 1000
      if (flags.canZero) {
        const terms = { mayPunch: punch }
        return started(exchange, 0, () => client.startZero(length, offset, terms, exchange))
      }
      return punch ? -ERRNO.EOPNOTSUPP : later(exchange, () => writeZeroes(length, offset))
    },
    truncate: () => -ERRNO.EOPNOTSUPP,
    allocate: () => -ERRNO.EOPNOTSUPP,
    seek(exchange, offset, kind) {
      if (!flags.canExtents) return kind === 'data' ? offset : client.size
      return later(exchange, () => seek(offset, kind))
    },
  }
}
