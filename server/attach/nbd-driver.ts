/** The kernel's NBD driver, as linux/nbd-netlink.h and sysfs show it. */
import { spawn } from 'node:child_process'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { openDeadEnd } from '../linux/dead-end.ts'
import { ERRNO, SystemCallError } from '../linux/errno.ts'
import { type Family, GenericNetlink } from '../linux/netlink.ts'
import { type Attribute, nested, text, u32, u64 } from '../linux/netlink-message.ts'
import { AttachError, type AttachedDisk } from './attached-disk.ts'

const CMD_CONNECT = 1
const CMD_DISCONNECT = 2
const CMD_RECONFIGURE = 3
const CMD_LINK_DEAD = 4
const ATTR = {
  INDEX: 1,
  SIZE_BYTES: 2,
  BLOCK_SIZE_BYTES: 3,
  SERVER_FLAGS: 5,
  SOCKETS: 7,
  DEAD_CONN_TIMEOUT: 8,
  BACKEND_IDENTIFIER: 10,
}
const SOCK_ITEM = 1
const SOCK_FD = 1
const EVENTS = 'nbd_mc_group'

/** The kernel shows its driver in the network namespace that it started with, and in no other. */
const NO_DRIVER =
  'This kernel has no NBD driver, or does not show it in this network namespace. Load the module nbd, run this in the network of the host, or attach with --via fuse.'

/** Calls with a socket and the driver's family. @throws AttachError ENOTSUP: there is no driver */
function withDriver<Value>(work: (socket: GenericNetlink, family: Family) => Value): Value {
  using socket = new GenericNetlink()
  const family = socket.family('nbd')
  if (family === undefined) throw new AttachError('ENOTSUP', NO_DRIVER)
  return work(socket, family)
}

const isThere = (): boolean => {
  using socket = new GenericNetlink()
  return socket.family('nbd') !== undefined
}

/** Is there a driver? Loads its module if there is one. */
export async function hasNbdDriver(): Promise<boolean> {
  if (isThere()) return true
  await new Promise<void>(resolve => {
    // Without the module, or the program, there is no driver, which is an answer.
    spawn('modprobe', ['nbd'], { stdio: 'ignore' })
      .once('error', () => resolve())
      .once('close', () => resolve())
  })
  return isThere()
}

/** What the driver is to make of a connection. */
export interface DriverTerms {
  readonly descriptor: number
  readonly size: number
  readonly blockSize: number
  /** The transmission flags of the handshake. */
  readonly flags: number
  readonly deadAfterSeconds: number
  /** `identifierOf` the disk, by which it is found again. */
  readonly identifier: string
}

const sockets = (descriptor: number): Attribute =>
  nested(ATTR.SOCKETS, nested(SOCK_ITEM, u32(SOCK_FD, descriptor)))

/** Gives a connection to a device that is free, and returns the device's number. @throws SystemCallError, AttachError */
export function connectDevice(terms: DriverTerms): number {
  return withDriver((socket, family) => {
    const answer = socket.request('NBD_CMD_CONNECT', {
      family: family.id,
      command: CMD_CONNECT,
      version: 1,
      attributes: [
        u64(ATTR.SIZE_BYTES, terms.size),
        u64(ATTR.BLOCK_SIZE_BYTES, terms.blockSize),
        u64(ATTR.SERVER_FLAGS, terms.flags),
        u64(ATTR.DEAD_CONN_TIMEOUT, terms.deadAfterSeconds),
        text(ATTR.BACKEND_IDENTIFIER, terms.identifier),
        sockets(terms.descriptor),
      ],
    })
    const index = answer.get(ATTR.INDEX)
    if (index === undefined) throw new AttachError('EIO', 'The NBD driver did not say which device it took.')
    return index.readUInt32LE(0)
  })
}

/** Changes a device that is connected. @throws SystemCallError, AttachError */
function reconfigure(index: number, identifier: string, changes: readonly Attribute[]): void {
  withDriver((socket, family) =>
    socket.request('NBD_CMD_RECONFIGURE', {
      family: family.id,
      command: CMD_RECONFIGURE,
      version: 1,
      attributes: [u32(ATTR.INDEX, index), ...changes, text(ATTR.BACKEND_IDENTIFIER, identifier)],
    }),
  )
}

/**
 * Puts a new connection in the place of one that is dead. False: none is, and the new one is not used. `changes` hold in
 * any case.
 * @throws SystemCallError, AttachError
 */
export function replaceConnection(
  index: number,
  descriptor: number,
  identifier: string,
  changes: readonly Attribute[] = [],
): boolean {
  try {
    reconfigure(index, identifier, [...changes, sockets(descriptor)])
    return true
  } catch (error) {
    if (error instanceof SystemCallError && error.errno === ERRNO.ENOSPC) return false
    throw error
  }
}

/** How long requests wait for another connection while a device is resized, at most, in seconds. */
const RESIZE_DEAD_AFTER_SECONDS = 30

/**
 * Gives a connected device another size; a kernel before 5.3 leaves it as it is. From 6.9 on the kernel first waits, with
 * the driver locked, for all requests under way. Were the server lost in that moment, nobody could bring another connection, so
 * that these must not wait for one as long as they may otherwise. `deadAfterMs`: what holds for the disk, undefined: for ever.
 * @throws SystemCallError, AttachError
 */
export function resizeDevice(disk: AttachedDisk, bytes: number, deadAfterMs: number | undefined): void {
  const [index, identifier] = [indexOf(disk.device), identifierOf(disk)]
  const deadAfter = (seconds: number) =>
    reconfigure(index, identifier, [u64(ATTR.DEAD_CONN_TIMEOUT, seconds)])
  const seconds = deadAfterSeconds(deadAfterMs)
  deadAfter(Math.min(seconds, RESIZE_DEAD_AFTER_SECONDS))
  try {
    reconfigure(index, identifier, [u64(ATTR.SIZE_BYTES, bytes)])
  } finally {
    deadAfter(seconds)
  }
}

/** Ten years: the driver has no word for ever. */
const FOR_EVER_SECONDS = 315_360_000

/** How long requests wait for another connection, as the driver has it. Undefined: for ever. */
export const deadAfterSeconds = (ms: number | undefined): number =>
  ms === undefined ? FOR_EVER_SECONDS : Math.ceil(ms / 1000)

/**
 * Ends the connection and frees the device; who uses that gets errors.
 * @throws SystemCallError, AttachError
 */
export function disconnectDevice(disk: AttachedDisk): void {
  const index = indexOf(disk.device)
  // Requests that wait for another connection are let go by the end of one that lives, and by nothing else.
  using end = openDeadEnd()
  try {
    replaceConnection(index, end.descriptor, identifierOf(disk))
  } catch (error) {
    // It has been disconnected already.
    if (!(error instanceof SystemCallError && error.errno === ERRNO.EINVAL)) throw error
  }
  withDriver((socket, family) =>
    socket.request('NBD_CMD_DISCONNECT', {
      family: family.id,
      command: CMD_DISCONNECT,
      version: 1,
      attributes: [u32(ATTR.INDEX, index)],
    }),
  )
}

/**
 * Lets the driver tell again of a connection that died when nobody listened: one takes its place that has no other end, and
 * dies at once. A connection that lives stays as it is; false then.
 */
function retellDeadLink(index: number, identifier: string): boolean {
  using end = openDeadEnd()
  end.hangUp()
  return replaceConnection(index, end.descriptor, identifier)
}

/** How long requests that wait for another connection have for being sent on one that leads to nobody, in ms. */
const WAKE_MS = 1000
/** How long the driver has to find that one dead. */
const DIE_MS = 10_000
const POLL_MS = 20

/**
 * Lets a disk whose connection is dead answer by errors from now on, after some seconds. The device stays what it is: one
 * that is disconnected is given to the next disk, also while a file of it still stands for this one somewhere.
 * @throws SystemCallError, AttachError
 */
export async function failRequests(disk: AttachedDisk): Promise<void> {
  const [index, identifier] = [indexOf(disk.device), identifierOf(disk)]
  {
    using end = openDeadEnd()
    replaceConnection(index, end.descriptor, identifier, [u64(ATTR.DEAD_CONN_TIMEOUT, 0)])
    // Who has waited for a connection goes by how long was to be waited then, and has to see this one.
    await sleep(WAKE_MS)
  }
  // What was sent on it is taken back, and fails, when there has been another.
  const deadline = performance.now() + DIE_MS
  while (!retellDeadLink(index, identifier) && performance.now() < deadline) await sleep(POLL_MS)
}

/**
 * Calls back for each connection of this disk that the driver finds dead, or has found dead before, until `signal` is
 * aborted.
 */
export async function watchDeadLinks(
  disk: AttachedDisk,
  onDead: () => void,
  signal: AbortSignal,
): Promise<void> {
  const index = indexOf(disk.device)
  using socket = new GenericNetlink()
  const group = socket.family('nbd')?.groups.get(EVENTS)
  if (group === undefined) throw new AttachError('ENOTSUP', NO_DRIVER)
  socket.join(group)
  retellDeadLink(index, identifierOf(disk))
  while (!signal.aborted) {
    for (const { command, attributes } of await socket.events(1000)) {
      const isOurs = attributes.get(ATTR.INDEX)?.readUInt32LE(0) === index
      if (command === CMD_LINK_DEAD && isOurs) onDead()
    }
  }
}

const orNothing = (path: string): Promise<string> => readFile(path, 'utf8').catch(() => '')

/** Number of the device: 7 for `/dev/nbd7`. */
export const indexOf = (device: string): number => Number(/^\/dev\/nbd(\d+)$/.exec(device)?.[1] ?? -1)

/** What the driver keeps with a device: the URI and, behind a blank, the tag. */
export const identifierOf = ({ uri, tag }: Pick<AttachedDisk, 'uri' | 'tag'>): string =>
  tag === undefined ? uri : `${uri} ${tag}`

/**
 * Does a kernel of this release (`uname -r`) keep an identifier? One before 5.14 ignores it, and has devices that are not
 * found again.
 */
export function keepsIdentifiers(release: string): boolean {
  const [major = 0, minor = 0] = release.split('.').map(part => Number.parseInt(part, 10))
  return major > 5 || (major === 5 && minor >= 14)
}

/** The devices that are connected and say to what: those of other programs usually do not. */
export async function findNbdDevices(): Promise<AttachedDisk[]> {
  const found: AttachedDisk[] = []
  for (const name of await readdir('/sys/block').catch(() => [])) {
    if (!/^nbd\d+$/.test(name)) continue
    const [uri = '', tag] = (await orNothing(`/sys/block/${name}/backend`)).trim().split(' ')
    if (!/^nbd/.test(uri) || (await orNothing(`/sys/block/${name}/pid`)) === '') continue
    const readOnly = (await orNothing(`/sys/block/${name}/ro`)).trim() === '1'
    found.push({ device: `/dev/${name}`, via: 'nbd', uri, readOnly, ...(tag !== undefined && { tag }) })
  }
  return found
}

/**
 * How soon the driver looks after requests that are stuck, in ms: those that a lost connection has swallowed are
 * sent to the new one then. It does not end a connection whose server is slow.
 */
const STUCK_AFTER_MS = 5000

/** Sets that, where the kernel lets us. */
export async function lookAfterStuckRequests(index: number): Promise<void> {
  await writeFile(`/sys/block/nbd${index}/queue/io_timeout`, `${STUCK_AFTER_MS}`).catch(() => undefined)
}
