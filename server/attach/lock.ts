/** Lets one process at a time attach or detach the disk of a URI. The kernel holds the lock, and no file is left. */
import { createHash } from 'node:crypto'
import { constants } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { lockByte } from '../linux/syscalls.ts'
import { AttachError } from './attached-disk.ts'

/** Devices that only administrators may open, and so lock. Their bytes are never touched. */
const CARRIERS = ['/dev/loop-control', '/dev/kmsg']
const POLL_MS = 50
const LIMIT_MS = 60_000

async function openCarrier(): Promise<FileHandle> {
  let cause: unknown
  for (const path of CARRIERS) {
    try {
      return await open(path, constants.O_RDWR)
    } catch (error) {
      cause ??= error
    }
  }
  const message = `Cannot open ${CARRIERS.join(' or ')}. Run this as root, where /dev has one of them.`
  throw new AttachError('EACCES', message, { cause })
}

/**
 * Waits for its turn, a minute and `patienceMs` longer, since who has it may wait for a server so long. Closing the handle, in
 * all processes that have inherited it, ends that.
 * @throws AttachError
 */
export async function lockUri(uri: string, patienceMs = 0): Promise<FileHandle> {
  const carrier = await openCarrier()
  try {
    const offset = createHash('sha256').update(uri).digest().readUIntBE(0, 6)
    const limit = LIMIT_MS + patienceMs
    const deadline = performance.now() + limit
    while (!lockByte(carrier.fd, offset)) {
      if (performance.now() > deadline) {
        const problem = `Another process has been attaching or detaching ${uri}`
        throw new AttachError('EBUSY', `${problem} for ${limit / 1000} s.`)
      }
      await sleep(POLL_MS)
    }
    return carrier
  } catch (error) {
    await carrier.close()
    throw error
  }
}
