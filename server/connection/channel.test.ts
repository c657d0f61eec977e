import { closeSync, readlinkSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import koffi from 'koffi'
import { expect, onTestFinished, test } from 'vitest'
import { Channel } from './channel.ts'
import { takeHandle } from './handle.ts'
import type { Receiver } from './receiver.ts'
import { connectRaw, type RawClient } from './test-client.ts'

/** A channel and the client at its other end. */
async function pair(receiver: Partial<Receiver> = {}): Promise<{ channel: Channel; client: RawClient }> {
  const server = createServer({ pauseOnConnect: true, allowHalfOpen: true })
  onTestFinished(() => {
    server.close()
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const accepted = new Promise<Channel>((resolve, reject) => {
    server.once('connection', socket => {
      const handle = takeHandle(socket)
      socket.destroy()
      if (handle === undefined) reject(new Error('The socket has no handle.'))
      else resolve(new Channel(handle, () => {}))
    })
  })
  const client = await connectRaw((server.address() as AddressInfo).port)
  const channel = await accepted
  onTestFinished(() => channel.destroy())
  channel.start({
    receive: (_buffer, _start, end) => end,
    blocked: false,
    ended: () => {},
    drained: () => {},
    closed: () => {},
    ...receiver,
  })
  return { channel, client }
}

const soon = () => new Promise(resolve => setImmediate(resolve))

function isOpen(fd: number): boolean {
  try {
    readlinkSync(`/proc/self/fd/${fd}`)
    return true
  } catch {
    return false
  }
}

const dup2 = koffi.load(null).func('int dup2(int from, int to)') as unknown as (
  from: number,
  to: number,
) => number

test('A channel whose client reset the connection does not write to the next one with its descriptor', async () => {
  const { channel, client } = await pair()
  const other = await pair()
  client.reset()
  // Node closes the descriptor at once, and says so at the end of this round of the event loop.
  while (isOpen(channel.fd)) await soon()
  expect(channel.closed).toBe(false)
  dup2(other.channel.fd, channel.fd)
  channel.send(Buffer.from('for the first'), 0, 13)
  closeSync(channel.fd)
  other.channel.send(Buffer.from('for the other'), 0, 13)
  expect((await other.client.take(13)).toString()).toBe('for the other')
})
