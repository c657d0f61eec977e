/** Attaches by the kernel's NBD driver: the handshake is ours, and then the socket is the kernel's. */
import { access } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { formatNbdUri } from '../client/canonical-uri.ts'
import { connectRaw } from '../client/raw-connection.ts'
import { backoff } from '../client/reconnecting.ts'
import type { NbdUri } from '../client/uri.ts'
import { TRANSMISSION_FLAG } from '../protocol/constants.ts'
import { AttachError, type AttachedDisk, type AttachTerms, isWithdrawn } from './attached-disk.ts'
import { bytesCutOff } from './block-device.ts'
import {
  connectDevice,
  deadAfterSeconds,
  disconnectDevice,
  failRequests,
  identifierOf,
  indexOf,
  lookAfterStuckRequests,
  replaceConnection,
  watchDeadLinks,
} from './nbd-driver.ts'

export { findNbdDevices, hasNbdDriver as hasNbd, keepsIdentifiers } from './nbd-driver.ts'

/** The smallest block that the driver knows, in bytes. */
const SECTOR = 512
const POLL_MS = 20
const DEVICE_LIMIT_MS = 10_000

/** @throws AttachError, SystemCallError, and the errors of the NBD client */
export async function attachByNbd(uri: NbdUri, terms: AttachTerms): Promise<AttachedDisk> {
  if (uri.tls !== undefined) {
    throw new AttachError('ENOTSUP', "The kernel's NBD driver has no TLS. Attach with --via fuse.")
  }
  const identifier = formatNbdUri(uri)
  const named = terms.tag === undefined ? {} : { tag: terms.tag }
  const { openTimeoutMs } = terms
  const connection = await connectRaw(uri, openTimeoutMs === undefined ? {} : { openTimeout: openTimeoutMs })
  try {
    const { info, transmissionFlags, descriptor } = connection
    if (info.flags.readOnly && !terms.readOnly) {
      throw new AttachError('EROFS', 'The NBD server allows reading only; attach with --read-only.')
    }
    const cutOff = bytesCutOff(info.size)
    const index = connectDevice({
      descriptor,
      identifier: identifierOf({ uri: identifier, ...named }),
      size: info.size,
      blockSize: Math.max(SECTOR, info.blockSizes.minimum),
      flags: transmissionFlags | (terms.readOnly ? TRANSMISSION_FLAG.READ_ONLY : 0),
      deadAfterSeconds: deadAfterSeconds(terms.deadAfterMs),
    })
    await lookAfterStuckRequests(index)
    const device = `/dev/nbd${index}`
    await untilThere(device)
    return { device, via: 'nbd', uri: identifier, readOnly: terms.readOnly, cutOff, ...named }
  } finally {
    connection.release()
  }
}

/** A device may have been made just now. */
async function untilThere(device: string): Promise<void> {
  const deadline = performance.now() + DEVICE_LIMIT_MS
  for (;;) {
    try {
      await access(device)
      return
    } catch (cause) {
      if (performance.now() > deadline) {
        throw new AttachError('ENODEV', `The kernel made ${device}, and /dev does not have it.`, { cause })
      }
      await sleep(POLL_MS)
    }
  }
}

/**
 * Makes the connection of an attached disk again, if that is dead. Returns whether it was. A server that refuses,
 * because the connection of before still holds the disk, or that cannot be reached, is the caller's to try again.
 * @throws the errors of the NBD client; SystemCallError
 */
export async function healNbd(disk: AttachedDisk, parsed: NbdUri): Promise<boolean> {
  const connection = await connectRaw(parsed)
  try {
    return replaceConnection(indexOf(disk.device), connection.descriptor, identifierOf(disk))
  } finally {
    connection.release()
  }
}

/**
 * Ends the connection, and waits until the driver has let go of the device; `lazy`: does not wait.
 * @throws SystemCallError, AttachError EBUSY
 */
export async function detachByNbd(disk: AttachedDisk, lazy: boolean): Promise<void> {
  const { device } = disk
  disconnectDevice(disk)
  // Whoever has it open keeps it, and gets errors from it.
  if (lazy) return
  const deadline = performance.now() + DEVICE_LIMIT_MS
  const pid = `/sys/block/nbd${indexOf(device)}/pid`
  while (
    await access(pid).then(
      () => true,
      () => false,
    )
  ) {
    if (performance.now() > deadline) {
      throw new AttachError('EBUSY', `${device} is still open. It goes when its last user closes it.`)
    }
    await sleep(POLL_MS)
  }
}

/** What happens while a disk is watched over. */
export interface WatchEvents {
  readonly onLost: () => void
  readonly onReconnected: () => void
  readonly onFailure: (error: Error) => void
}

/**
 * Watches over an attached disk until `signal` is aborted: whenever its connection is dead, also from before, a new one
 * is made. No data goes this way, and the disk stays when this ends. One that has been given to somebody else
 * answers by errors from then on.
 */
export async function watchNbd(
  disk: AttachedDisk,
  parsed: NbdUri,
  events: WatchEvents,
  signal: AbortSignal,
): Promise<void> {
  let healing: Promise<void> | undefined
  let isLost = false
  const heal = async () => {
    for (let attempt = 0; !signal.aborted && !isLost; attempt++) {
      try {
        if (await healNbd(disk, parsed)) events.onReconnected()
        return
      } catch (error) {
        events.onFailure(error as Error)
        isLost = isWithdrawn(error)
        if (isLost) return await failRequests(disk).catch(events.onFailure)
        await sleep(backoff(attempt, Math.random()), undefined, { signal }).catch(() => undefined)
      }
    }
  }
  await watchDeadLinks(
    disk,
    () => {
      events.onLost()
      // A connection that dies while it is made again is told of anew.
      healing = (healing ?? Promise.resolve()).then(heal)
    },
    signal,
  )
  await healing
}
