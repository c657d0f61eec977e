/** `ondemand-disk attach`, `detach` and `attached`. */
import {
  AttachError,
  type AttachedDisk,
  attach as attachDisk,
  attached as attachedDisks,
  detach as detachDisk,
  findAttached,
  growDevice,
  watch,
} from '../attach/attach.ts'
import { OPEN_TIMEOUT_MS } from '../client/options.ts'
import { reasonOf } from '../connection/session.ts'
import { ATTACH_OPTIONS, ATTACHED_OPTIONS, DETACH_OPTIONS, GROW_OPTIONS } from './disk-option-tables.ts'
import { createLog } from './log.ts'
import { parseOptions, REST } from './options.ts'
import { printable } from './printable.ts'

/** Prints the path of the device. @throws UsageError, AttachError, UriError, and the errors of the NBD client */
export async function attach(argv: readonly string[]): Promise<void> {
  const options = parseOptions(ATTACH_OPTIONS, argv, ['URI'])
  const [uri = ''] = options[REST]
  const disk = await attachDisk(uri, {
    via: options.via,
    readOnly: options['read-only'],
    deadAfterMs: options['dead-after'],
    openTimeoutMs: OPEN_TIMEOUT_MS,
  })
  process.stdout.write(`${disk.device}\n`)
  if (disk.cutOff) {
    const lack = `${disk.device} lacks the last ${disk.cutOff} bytes of the export`
    process.stderr.write(`ondemand-disk: ${lack}: a block device has whole sectors of 512 bytes.\n`)
  }
  if (options.watch) await watchOver(disk)
}

/** Until SIGTERM or SIGINT. */
async function watchOver(disk: AttachedDisk): Promise<void> {
  const log = createLog('info', 2, process.stderr.isTTY)
  const stop = new AbortController()
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => stop.abort())
  const { device } = disk
  const events = {
    onLost: () => log.warn({ device }, 'Lost the NBD server; waiting for it'),
    onReconnected: () => log.info({ device }, 'The NBD server is back'),
    onFailure: (error: Error) => log.debug({ device, ...reasonOf(error) }, 'Cannot connect'),
  }
  log.info({ device }, 'Watching')
  await watch(disk, events, stop.signal)
}

/** @throws UsageError, AttachError, UriError */
export async function detach(argv: readonly string[]): Promise<void> {
  const options = parseOptions(DETACH_OPTIONS, argv, ['URI or DEVICE'])
  const [what = ''] = options[REST]
  await detachDisk(what, { lazy: options.lazy })
}

/** A device answers within that, in ms, or has lost its connection with nobody there to make it again. */
const GROW_LIMIT_MS = 120_000

/**
 * Prints the bytes of the device.
 * @throws UsageError, AttachError (ETIMEDOUT: it does not answer), UriError, and the errors of the NBD client
 */
export async function grow(argv: readonly string[]): Promise<void> {
  const options = parseOptions(GROW_OPTIONS, argv, ['URI or DEVICE'])
  const [what = ''] = options[REST]
  const disk = await findAttached(what)
  if (disk === undefined) throw new AttachError('ENODEV', 'No such disk is attached.')
  const signal = AbortSignal.timeout(GROW_LIMIT_MS)
  try {
    const bytes = await growDevice(disk, { deadAfterMs: options['dead-after'], signal })
    process.stdout.write(`${bytes}\n`)
  } catch (error) {
    if (!signal.aborted || error !== signal.reason) throw error
    const problem = `${disk.device} has not answered for ${GROW_LIMIT_MS / 1000} s`
    const remedy = `If its server was lost, say ondemand-disk attach ${disk.uri}, and then grow again.`
    throw new AttachError('ETIMEDOUT', `${problem}. ${remedy}`, { cause: error })
  }
}

/** Prints a line for each disk: device, way, mode, URI. @throws UsageError */
export async function attached(argv: readonly string[]): Promise<void> {
  parseOptions(ATTACHED_OPTIONS, argv)
  for (const { device, via, readOnly, uri } of await attachedDisks()) {
    process.stdout.write(
      `${device.padEnd(12)} ${via.padEnd(4)} ${readOnly ? 'ro' : 'rw'} ${printable(uri)}\n`,
    )
  }
}
