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
