/** A client that behaves, and checks that it gets what it is owed. Written from the protocol's text, without the server's codecs. */
import { connect } from 'node:net'
import { seededRandom } from './random.ts'

const NAME = Buffer.from('honest')

/** GO for the disk `honest`, after client flags that want no zeroes. */
function hello(): Buffer {
  const bytes = Buffer.alloc(4 + 16 + 4 + NAME.length + 2)
  bytes.writeUInt32BE(3, 0)
  bytes.write('IHAVEOPT', 4, 'latin1')
  bytes.writeUInt32BE(7, 12)
  bytes.writeUInt32BE(NAME.length + 6, 16)
  bytes.writeUInt32BE(NAME.length, 20)
  NAME.copy(bytes, 24)
  return bytes
}

function request(type: number, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(28)
  bytes.writeUInt32BE(0x25609513, 0)
  bytes.writeUInt16BE(type, 6)
  bytes.writeUInt32BE(type + 1, 12)
  bytes.writeBigUInt64BE(BigInt(offset), 16)
  bytes.writeUInt32BE(length, 24)
  return bytes
}

/** Takes exactly so many bytes at a time from a socket. */
function reader(port: number, limitMs: number) {
  const socket = connect(port, '127.0.0.1')
  let received = Buffer.alloc(0)
  let failure: Error | undefined
  let wake = () => {}
  const fail = (error: Error) => {
    failure ??= error
    wake()
  }
  socket.setTimeout(limitMs, () => fail(new Error('An honest client was kept waiting.')))
  socket.on('error', fail)
  socket.on('close', () => fail(new Error('The server hung up on an honest client.')))
  socket.on('data', (chunk: Buffer) => {
    received = Buffer.concat([received, chunk])
    wake()
  })
  const take = async (length: number): Promise<Buffer> => {
    while (received.length < length) {
      if (failure !== undefined) throw failure
      await new Promise<void>(resolve => {
        wake = resolve
      })
    }
    const taken = received.subarray(0, length)
    received = received.subarray(length)
    return taken
  }
  return { socket, take }
}

/**
 * Connects, writes something random somewhere, flushes, reads it back, and leaves.
 * @throws if anything comes back that should not, or takes longer than `limitMs`
 */
export async function honestRound(
  port: number,
  diskSize: number,
  seed: number,
  limitMs: number,
): Promise<void> {
  const random = seededRandom(seed)
  const length = 1 + random.below(100_000)
  const offset = random.below(diskSize - length)
  const data = random.bytes(length)
  const { socket, take } = reader(port, limitMs)
  try {
    await take(18)
    socket.write(hello())
    for (let type = 0; type !== 1; ) {
      const head = await take(20)
      type = head.readUInt32BE(12)
      const payload = await take(head.readUInt32BE(16))
      if (type > 3) throw new Error(`An honest client was refused: ${payload.toString()}`)
    }
    const succeed = async (...parts: Buffer[]) => {
      socket.write(Buffer.concat(parts))
      const reply = await take(16)
      if (reply.readUInt32BE(0) !== 0x67446698 || reply.readUInt32BE(4) !== 0) {
        throw new Error('An honest request failed.')
      }
    }
    await succeed(request(1, offset, length), data)
    await succeed(request(3, 0, 0))
    await succeed(request(0, offset, length))
    if (!(await take(length)).equals(data))
      throw new Error('An honest client read something else than it wrote.')
    socket.write(request(2, 0, 0))
  } finally {
    socket.destroy()
  }
}
