/**
 * The process behind a disk that is attached by FUSE: `daemon.ts URI ro|rw never|MS [TAG [MS]]`; TAG may
 * be empty, and the second MS is how long the server may take to open the disk. It outlives whoever started it, and is told
 * apart by its arguments. Killed, it leaves nothing behind: the file that it serves is not in
 * the tree of mounts and known to the loop device only, which lives as long as somebody has it open.
 *
 * SIGUSR2 lets it look whether the export has grown.
 *
 * On descriptor 3, a socket, it says, as one line of JSON, which device it serves, or why it cannot; if nobody listens there
 * any more, it ends. Descriptor 4 is a lock that is held until then.
 */
import { closeSync, constants, writeFileSync, writeSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { NbdClient } from '../client/client.ts'
import { connectReconnecting } from '../client/reconnecting.ts'
import type { EventDevice } from '../fuse/event-device.ts'
import { MAX_DATA } from '../fuse/exchange.ts'
import { serveNbd } from '../fuse/export.ts'
import { openDevice } from '../fuse/mount.ts'
import { CLIENT_OPTIONS } from '../fuse/nbd-disk.ts'
import { newState } from '../fuse/session.ts'
import { mountDetached } from '../linux/detached-mount.ts'
import { codeOf, toError } from '../linux/errno.ts'
import { configureLoop, freeLoopDevice, refreshLoopSize } from '../linux/loop.ts'
import { becomeIoFlusher } from '../linux/process.ts'
import { AttachError, isWithdrawn } from './attached-disk.ts'
import { bytesCutOff, inSectors } from './block-device.ts'

const REPORT = 3
const LOCK = 4
const [, , uri = '', mode = '', deadAfter = '', , openTimeout] = process.argv
const readOnly = mode === 'ro'
/** The longest that a timer can be set for; after that the device answers by errors until the server is back. */
const FOR_EVER = 2 ** 31 - 1
/** Leads to a file without having it open (fcntl.h, the same on all processors but Alpha, PA-RISC and SPARC). */
const O_PATH = 0o10000000

/** The kernel's log is where drivers of disks say what happens to them. */
function log(level: 3 | 4 | 6, message: string): void {
  try {
    writeFileSync('/dev/kmsg', `<${level}>ondemand-disk ${uri}: ${message}\n`)
  } catch {
    // There is no other place for it, and the disk works all the same.
  }
}

/** Mounts the file, in nobody's tree; only the result, an O_PATH descriptor of it, leads there. @throws SystemCallError */
const mountFile = (device: number): number =>
  mountDetached('fuse', {
    // Not the URI, which may be longer than the 255 bytes that the kernel takes. No table shows this mount.
    source: 'ondemand-disk',
    subtype: 'ondemand-disk',
    fd: `${device}`,
    rootmode: '100000',
    user_id: '0',
    group_id: '0',
    max_read: `${MAX_DATA}`,
    default_permissions: true,
  })

/** Opens the file whose bytes are those of the export, and closes `root`. */
async function openFile(root: number): Promise<FileHandle> {
  try {
    // The path is followed in the thread pool; this thread answers the kernel meanwhile.
    return await openSoon(root)
  } finally {
    closeSync(root)
  }
}

let serving: EventDevice | undefined
const openSoon = (root: number) =>
  open(`/proc/self/fd/${root}`, readOnly ? constants.O_RDONLY : constants.O_RDWR)

/** A loop device that this process has open. */
interface LoopDevice {
  readonly path: string
  readonly handle: FileHandle
  /**
   * Leads to it without having it open (O_PATH). By this the process is found to serve the device also when it has let go
   * of it. What was written may take long to reach the server even then, and a disk that is not found counts as detached.
   */
  readonly node: FileHandle
}

async function openLoopDevice(path: string): Promise<FileHandle> {
  try {
    return await open(path, readOnly ? constants.O_RDONLY : constants.O_RDWR)
  } catch (cause) {
    if (codeOf(cause) !== 'ENOENT') throw cause
    // A container's /dev is often a copy of what there was when it was started.
    const problem = `The kernel has ${path} free, and this /dev does not have it.`
    throw new AttachError('ENODEV', `${problem} Make it by mknod, or use the /dev of the machine.`, { cause })
  }
}

/** Takes a loop device that is free, and keeps it open. */
async function takeLoopDevice(): Promise<LoopDevice> {
  const control = await open('/dev/loop-control', constants.O_RDWR)
  try {
    const path = `/dev/loop${freeLoopDevice(control.fd)}`
    const handle = await openLoopDevice(path)
    return { path, handle, node: await open(path, O_PATH) }
  } finally {
    await control.close()
  }
}

/** What is served: the loop device, and the file behind it, by which its size is asked for. */
interface Served extends LoopDevice {
  readonly file: FileHandle
}

async function serve(client: NbdClient): Promise<Served> {
  if (!readOnly && client.flags.readOnly) {
    throw Object.assign(new Error('The NBD server allows reading only; attach with --read-only.'), {
      code: 'EROFS',
    })
  }
  const state = newState(!readOnly, 0, 0)
  for (let attempt = 0; ; attempt++) {
    // First, so that a kernel which ends this process closes the device last, when /dev/fuse is gone already:
    // what it still writes back then fails, and does not wait for an answer that nobody will give.
    const loop = await takeLoopDevice()
    const device = openDevice('returns')
    const file = await startFile(client, device, state)
    try {
      await configureLoop(loop.handle.fd, file.fd, readOnly, uri)
      const known = await open(`/proc/self/fd/${file.fd}`, O_PATH)
      await file.close()
      return { ...loop, file: known }
    } catch (error) {
      await file.close()
      await serving?.ended
      await Promise.all([loop.handle.close(), loop.node.close()])
      if (codeOf(error) !== 'EBUSY' || attempt === 20) throw error
    }
  }
}

function startFile(
  client: NbdClient,
  device: number,
  state: Int32Array<SharedArrayBuffer>,
): Promise<FileHandle> {
  const opening = openFile(mountFile(device))
  serving = serveNbd(device, client, { writable: !readOnly, growable: false, allowOther: true, state })
  closeSync(device)
  return opening
}

/** The kernel keeps what it knows of a file for a second. */
const KNOWN_MS = 100

/** Gives the device the size that the export has, once the server is connected anew and the kernel knows it. */
async function followSize(client: NbdClient, { handle, file }: Served): Promise<void> {
  while ((await file.stat()).size !== client.size) await sleep(KNOWN_MS)
  await refreshLoopSize(handle.fd)
  log(6, `the device has ${inSectors(client.size)} bytes`)
}

async function run(): Promise<void> {
  process.chdir('/')
  becomeIoFlusher()
  process.on('SIGHUP', () => undefined)
  // Node would open its debugger.
  process.on('SIGUSR1', () => undefined)
  // The server may take minutes, and whoever has been interrupted meanwhile wants no device. Nothing is left then.
  const starter = new Socket({ fd: REPORT, readable: true, writable: false })
  starter.on('error', () => undefined).resume()
  const giveUp = () => process.exit(1)
  starter.once('close', giveUp)
  let loop: Served | undefined
  const client = await connectReconnecting(uri, {
    retryMs: deadAfter === 'never' ? FOR_EVER : Number(deadAfter),
    ...CLIENT_OPTIONS,
    ...(openTimeout !== undefined && { openTimeout: Number(openTimeout) }),
    isFinal: isWithdrawn,
    onLost: error => log(4, `lost the server (${error.message}); waiting for it`),
    onReconnected: ms => {
      log(6, `the server is back after ${Math.round(ms)} ms`)
      if (loop !== undefined && client.size !== size) {
        size = client.size
        sizes = sizes.then(() => followSize(client, loop as Served)).catch(error => log(3, String(error)))
      }
    },
  })
  let size = client.size
  let sizes: Promise<void> = Promise.resolve()
  let cutOff: number
  try {
    cutOff = bytesCutOff(size)
    loop = await serve(client)
  } catch (error) {
    client.destroy()
    throw error
  }
  const served = loop
  let isLeaving = false
  const leave = () => {
    if (isLeaving) return
    isLeaving = true
    // In the thread pool: the kernel writes back, through this process, what has not been written yet.
    Promise.all([served.file.close(), served.handle.close()]).catch(error => log(3, String(error)))
  }
  process.on('SIGTERM', leave)
  process.on('SIGINT', leave)
  process.on('SIGUSR2', () => client.renew())
  writeSync(REPORT, `${JSON.stringify({ device: served.path, cutOff })}\n`)
  starter.off('close', giveUp).destroy()
  closeSync(LOCK)
  await serving?.ended
  await served.node.close()
  // The loop device has flushed the file by closing it.
  await client.close()
}

try {
  await run()
  process.exit(0)
} catch (error) {
  const message = toError(error).message
  log(3, message)
  try {
    writeSync(REPORT, `${JSON.stringify({ code: codeOf(error) ?? 'EIO', message })}\n`)
  } catch {
    // It was said already that all is well, or nobody listens any more.
  }
  process.exit(1)
}
