import { linkSync, lstatSync, renameSync } from 'node:fs'
import { stat, unlink } from 'node:fs/promises'
import { connect } from 'node:net'

/** At the path of a socket is something else. */
export class NoSocketError extends Error {
  override readonly name = 'NoSocketError'
  readonly code = 'ENOTSOCK'

  constructor() {
    super('a file or directory that is no socket has this name; remove it, or give another path')
  }
}

/**
 * Removes the socket file of a server that is gone: nobody answers there. Anything else at this path stays.
 * @throws NoSocketError: nobody can listen there
 */
export async function removeStaleSocket(path: string): Promise<void> {
  const found = await stat(path).catch(() => undefined)
  if (found === undefined) return
  if (!found.isSocket()) throw new NoSocketError()
  const isAlive = await new Promise<boolean>(resolve => {
    const probe = connect(path)
    probe.on('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.on('error', error => resolve((error as NodeJS.ErrnoException).code !== 'ECONNREFUSED'))
  })
  if (!isAlive) await unlink(path)
}

/** Closes a listening server by `close`, which lets go of its path at once. */
export type CloseSocket = (close: () => Promise<void>) => Promise<void>

const lookUp = (path: string) => lstatSync(path, { throwIfNoEntry: false })

/** False where this user may not (fs.protected_hardlinks), or somebody is faster. */
function tryTo(move: (from: string, to: string) => void, from: string, to: string): boolean {
  try {
    move(from, to)
    return true
  } catch {
    return false
  }
}

/**
 * To be asked for when a server has begun to listen at a path. Node removes whatever stands there when it closes the server: what
 * somebody else has put there meanwhile, such as the socket of the server that takes over, is there again at once. Nothing is
 * waited for before the server is closed: a client that came meanwhile would not know that it stops.
 */
export function closesOwnSocket(path: string): CloseSocket {
  const own = lookUp(path)
  return async close => {
    const found = lookUp(path)
    const isForeign = found !== undefined && (found.ino !== own?.ino || found.dev !== own.dev)
    const aside = `${path}.${process.pid}~`
    const isKept = isForeign && tryTo(linkSync, path, aside)
    const closed = close()
    if (isKept) tryTo(renameSync, aside, path)
    await closed
  }
}
