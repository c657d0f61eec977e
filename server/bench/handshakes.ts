/**
 * A client that does nothing but come and go: handshake, GO, disconnect; or stay idle. Its bytes are made once, so
 * that it costs less than any server.
 */
import { connect, type Socket } from 'node:net'
import {
  CMD,
  FLAG_FIXED_NEWSTYLE,
  FLAG_NO_ZEROES,
  IHAVEOPT,
  OPT,
  REP,
  REQUEST_MAGIC,
} from '../protocol/constants.ts'

/** Bytes of the server's greeting: two magics and the handshake flags. */
const GREETING_LENGTH = 18
/** Bytes of an option reply's header: magic, option, type, length. */
const REPLY_LENGTH = 20
const DISCONNECT = Buffer.alloc(28)
DISCONNECT.writeUInt32BE(REQUEST_MAGIC, 0)
DISCONNECT.writeUInt16BE(CMD.DISC, 6)

/** Client flags and NBD_OPT_GO for a disk. */
function wishFor(disk: string): Buffer {
  const name = Buffer.from(disk)
  const wish = Buffer.alloc(4 + 16 + 4 + name.length + 2)
  wish.writeUInt32BE(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES, 0)
  wish.writeBigUInt64BE(IHAVEOPT, 4)
  wish.writeUInt32BE(OPT.GO, 12)
  wish.writeUInt32BE(name.length + 6, 16)
  wish.writeUInt32BE(name.length, 20)
  name.copy(wish, 24)
  return wish
}

/** Does the answer to GO, which may have several replies, end here in an ACK? */
function isGranted(received: Buffer): boolean {
  let at = GREETING_LENGTH
  while (received.length >= at + REPLY_LENGTH) {
    const type = received.readUInt32BE(at + 12)
    if (type === REP.ACK) return true
    if (type >= REP.ERR_UNSUP) throw new Error(`The server refused the disk with reply ${type}.`)
    at += REPLY_LENGTH + received.readUInt32BE(at + 16)
  }
  return false
}

/** Connects to a disk and returns once the server has granted it. */
export function openDisk(port: number, disk: string): Promise<Socket> {
  const wish = wishFor(disk)
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true })
    let received: Buffer = Buffer.alloc(0)
    socket
      .once('error', reject)
      .once('close', () => reject(new Error('The server hung up in the handshake.')))
    socket.on('data', (bytes: Buffer) => {
      const before = received.length
      received = before === 0 ? bytes : Buffer.concat([received, bytes])
      if (before < GREETING_LENGTH && received.length >= GREETING_LENGTH) socket.write(wish)
      try {
        if (!isGranted(received)) return
      } catch (error) {
        reject(error)
        socket.destroy()
        return
      }
      socket.removeAllListeners('data')
      resolve(socket)
    })
  })
}

/** Says goodbye and waits until the server has hung up. */
export function leaveDisk(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.removeAllListeners('close').removeAllListeners('error')
    socket.once('close', () => resolve()).once('error', reject)
    socket.resume()
    socket.end(DISCONNECT)
  })
}

/** Comes and goes for so many seconds, `atOnce` at a time; returns how often that was. */
export async function comeAndGo(
  port: number,
  disk: string,
  seconds: number,
  atOnce: number,
): Promise<{ count: number; seconds: number }> {
  const startedAt = performance.now()
  const until = startedAt + seconds * 1000
  let count = 0
  const visitor = async () => {
    while (performance.now() < until) {
      await leaveDisk(await openDisk(port, disk))
      count++
    }
  }
  await Promise.all(Array.from({ length: atOnce }, visitor))
  return { count, seconds: (performance.now() - startedAt) / 1000 }
}
