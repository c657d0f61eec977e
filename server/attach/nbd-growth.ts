/**
 * Lets a device of the kernel's NBD driver grow while it is in use. Its connection stays, and nothing in the protocol tells
 * whether the server serves more on it than it said when it was made: ours does, and whether this one does is tried on the
 * device itself (docs/adr/0013-growth-in-use.md).
 */
import { spawn } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { probe } from '../client/discovery.ts'
import { NbdError, RefusedError, UriError } from '../client/errors.ts'
import type { NbdUri } from '../client/uri.ts'
import { AttachError, type AttachedDisk } from './attached-disk.ts'
import { logicalBlockOf, sizeOf } from './block-device.ts'
import { resizeDevice } from './nbd-driver.ts'

/** How a device is to grow. */
export interface Growth {
  /** Bytes that the export is waited for to have; undefined: as many as it has, and nothing is waited for. */
  readonly wanted?: number | undefined
  /** What the disk was attached with. */
  readonly deadAfterMs?: number | undefined
  /** Ends the waiting. */
  readonly signal: AbortSignal
}

const POLL_MS = 200

/** A server that is away comes back; one that says no means it. */
const isFinal = (error: unknown): boolean =>
  !(error instanceof NbdError) || error instanceof RefusedError || error instanceof UriError

/** Bytes of the export now, asked over a connection of its own, which takes no place among those that use the disk. */
async function presentSize(uri: NbdUri, { wanted, signal }: Growth): Promise<number> {
  for (;;) {
    try {
      const { size } = await probe(uri, { signal })
      if (wanted === undefined || size >= wanted) return size
    } catch (error) {
      signal.throwIfAborted()
      if (wanted === undefined || isFinal(error)) throw error
    }
    await sleep(POLL_MS, undefined, { signal }).catch(() => undefined)
    signal.throwIfAborted()
  }
}

/**
 * Reads the last block of a device that has so many bytes, past the page cache. A program of its own does, since nothing can end
 * whoever waits for a server that has gone. False: it cannot be read.
 */
async function readsEnd(device: string, bytes: number, block: number, signal: AbortSignal): Promise<boolean> {
  if (bytes < block) return true
  const child = spawn(
    'dd',
    [
      `if=${device}`,
      'of=/dev/null',
      `bs=${block}`,
      'count=1',
      `skip=${Math.floor(bytes / block) - 1}`,
      'iflag=direct',
    ],
    { stdio: 'ignore' },
  )
  return new Promise((resolve, reject) => {
    const callOff = () => {
      child.kill('SIGKILL')
      child.unref()
      reject(signal.reason)
    }
    child.once('error', cause => {
      signal.removeEventListener('abort', callOff)
      reject(new AttachError('ENOTSUP', 'A device cannot grow in use without the program dd.', { cause }))
    })
    child.once('close', status => {
      signal.removeEventListener('abort', callOff)
      resolve(status === 0)
    })
    signal.addEventListener('abort', callOff, { once: true })
    if (signal.aborted) callOff()
  })
}

/**
 * Lets a device grow to what its export has, and returns its bytes then. One that was called off has the size that it had, or the
 * one that was being tried: the next call tries that.
 * @throws AttachError ENOTSUP: the server, or this kernel, cannot do it, and the device has its old size; the errors of the NBD
 *   client; the signal's reason
 */
export async function growByNbd(disk: AttachedDisk, uri: NbdUri, growth: Growth): Promise<number> {
  const { device } = disk
  const { deadAfterMs, signal } = growth
  const [before, block] = [await sizeOf(device), await logicalBlockOf(device)]
  const present = await presentSize(uri, growth)
  // With its connection dead and requests waiting, newer kernels would wait for these with the device locked. And where an
  // earlier growth was cut short, what it has now has not been tried.
  if (!(await readsEnd(device, before, block, signal))) {
    throw new AttachError('ENOTSUP', `The end of ${device} cannot be read. Detach it, and attach it anew.`)
  }
  const size = present - (present % block)
  if (size <= before) return before
  resizeDevice(disk, size, deadAfterMs)
  if ((await sizeOf(device)) !== size) {
    const problem = `This kernel lets no NBD device grow. ${device} keeps its size until it is attached anew.`
    throw new AttachError('ENOTSUP', problem)
  }
  if (await readsEnd(device, size, block, signal)) return size
  resizeDevice(disk, before, deadAfterMs)
  throw new AttachError(
    'ENOTSUP',
    `The NBD server serves no more of the disk on the connection that ${device} has. It keeps its size until it is attached anew.`,
  )
}
