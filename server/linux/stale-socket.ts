import { stat, unlink } from 'node:fs/promises'
import { connect } from 'node:net'

/** Removes the socket file of a server that is gone: nobody answers there. Anything else at this path stays. */
export async function removeStaleSocket(path: string): Promise<void> {
  const found = await stat(path).catch(() => undefined)
  if (!found?.isSocket()) return
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
