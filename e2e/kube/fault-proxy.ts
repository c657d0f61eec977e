/** A bad line to a server: a TCP proxy that cuts, stalls and slows what goes through it. */
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export interface FaultProxy extends AsyncDisposable {
  readonly port: number
  /** Connections that are open now. */
  readonly connections: number
  /** Cuts all connections, in the middle of whatever is on its way. */
  cut(): void
  /** Cuts each connection after so many bytes from the server, from now on; undefined: none. */
  cutAfter(bytes: number | undefined): void
  /** Passes nothing on any more, and closes nothing: as when a cable is pulled. */
  stall(): void
  /** Passes a few bytes at a time. */
  slow(): void
  /** Is a good line again, for what is open as for what comes. */
  heal(): void
}

/** Starts a proxy in front of a port of this machine. */
export async function startFaultProxy(target: number): Promise<FaultProxy> {
  const open = new Set<Socket>()
  let mode: 'good' | 'stalled' | 'slow' = 'good'
  let limit: number | undefined
  const server = createServer(client => {
    const upstream = connect(target, '127.0.0.1')
    let passed = 0
    for (const socket of [client, upstream]) {
      open.add(socket)
      socket.setNoDelay(true)
      socket.on('error', () => {})
      socket.on('close', () => {
        open.delete(socket)
        client.destroy()
        upstream.destroy()
      })
    }
    if (mode === 'stalled') client.pause()
    client.on('data', data => upstream.write(data))
    upstream.on('data', (data: Buffer) => void pass(data))
    const pass = async (data: Buffer) => {
      upstream.pause()
      const step = mode === 'slow' ? 16 : data.length
      for (let start = 0; start < data.length; start += step) {
        const part = data.subarray(start, start + step)
        passed += part.length
        if (limit !== undefined && passed > limit) {
          client.write(part.subarray(0, part.length - (passed - limit)))
          client.resetAndDestroy()
          return
        }
        client.write(part)
        if (mode === 'slow') await new Promise(resolve => setTimeout(resolve, 1))
      }
      if (mode !== 'stalled') upstream.resume()
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    get connections() {
      return open.size / 2
    },
    cut() {
      for (const socket of open) socket.resetAndDestroy()
    },
    cutAfter(bytes) {
      limit = bytes
    },
    stall() {
      mode = 'stalled'
      for (const socket of open) socket.pause()
    },
    slow() {
      mode = 'slow'
    },
    heal() {
      mode = 'good'
      limit = undefined
      for (const socket of open) socket.resume()
    },
    async [Symbol.asyncDispose]() {
      for (const socket of open) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}
