/** A port of this machine that lets go of the thin client when it is told to. */
import { createServer } from 'node:net'

/** Who connects to `port` reads the end of the stream once this is closed, and cannot connect from then on. */
export interface SignalPost extends Disposable {
  readonly port: number
  close(): void
}

export async function signalPost(): Promise<SignalPost> {
  // The thin client's nc ends its own side at once, and would be let go by a server that answers that.
  const server = createServer({ allowHalfOpen: true }, socket => {
    socket.on('error', () => undefined)
    sockets.add(socket)
  })
  const sockets = new Set<{ destroy(): unknown }>()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const close = () => {
    server.close()
    for (const socket of sockets) socket.destroy()
  }
  return { port: (server.address() as { port: number }).port, close, [Symbol.dispose]: close }
}
