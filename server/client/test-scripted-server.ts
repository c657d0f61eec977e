/** For tests: servers that do as they are told, to the byte, also what no honest server does. */
import { createServer, type Server, type Socket } from 'node:net'
import { onTestFinished } from 'vitest'
import { CMD, CMD_FLAG, OPT, REP, TRANSMISSION_FLAG } from '../protocol/constants.ts'
import {
  encodeBlockSizeInfo,
  encodeExportInfo,
  encodeGreeting,
  encodeMetaContext,
  encodeOptionReply,
} from '../protocol/handshake.ts'

export const hex = (text: string): Buffer => Buffer.from(text.replaceAll(/[\s|]/g, ''), 'hex')

/** A server whose connections are played by a function; `index` counts them. */
export interface ScriptedServer {
  readonly port: number
  readonly uri: string
  readonly connections: readonly Socket[]
  stop(): Promise<void>
}

/** Listens and hands each connection to `play`. */
export async function scripted(
  play: (socket: Socket, index: number) => void,
  port = 0,
): Promise<ScriptedServer> {
  const connections: Socket[] = []
  const server: Server = createServer({ allowHalfOpen: true, noDelay: true }, socket => {
    // A client that hangs up in the middle is what is tested.
    socket.on('error', () => undefined)
    connections.push(socket)
    play(socket, connections.length - 1)
  })
  await new Promise<void>(resolve => server.listen(port, '127.0.0.1', resolve))
  const stop = async () => {
    const closed = new Promise(resolve => server.close(resolve))
    for (const socket of connections) socket.destroy()
    await closed
  }
  onTestFinished(stop)
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('The server has no port.')
  return { port: address.port, uri: `nbd://127.0.0.1:${address.port}/disk`, connections, stop }
}

/** Gives `length` bytes at a time, as they are asked for. */
class Reader {
  #pieces: Buffer[] = []
  #length = 0
  #wanted: { length: number; take: (bytes: Buffer) => void } | undefined

  constructor(socket: Socket) {
    socket.on('data', (bytes: Buffer) => {
      this.#pieces.push(bytes)
      this.#length += bytes.length
      this.#serve()
    })
  }

  read(length: number): Promise<Buffer> {
    return new Promise(take => {
      this.#wanted = { length, take }
      this.#serve()
    })
  }

  #serve(): void {
    const wanted = this.#wanted
    if (wanted === undefined || this.#length < wanted.length) return
    this.#wanted = undefined
    const bytes = Buffer.concat(this.#pieces)
    this.#pieces = [bytes.subarray(wanted.length)]
    this.#length -= wanted.length
    wanted.take(bytes.subarray(0, wanted.length))
  }
}

/** A request as it came. */
export interface Asked {
  readonly flags: number
  readonly type: number
  readonly cookie: string
  readonly offset: number
  readonly length: number
  readonly data: Buffer
}

/** What a scripted NBD server offers. */
export interface Offer {
  readonly size?: number
  readonly flags?: number
  readonly replies?: 'simple' | 'structured' | 'extended'
  readonly blockSizes?: readonly [minimum: number, preferred: number, maximum: number]
}

const F = TRANSMISSION_FLAG
/** Everything but read-only. */
export const ALL_FLAGS =
  F.HAS_FLAGS |
  F.SEND_FLUSH |
  F.SEND_FUA |
  F.SEND_TRIM |
  F.SEND_WRITE_ZEROES |
  F.SEND_CACHE |
  F.SEND_FAST_ZERO

/** Plays a correct handshake, and hands over each request, from DISC on nothing more. */
export async function negotiateAsServer(
  socket: Socket,
  offer: Offer,
  answer: (asked: Asked) => void | Promise<void>,
): Promise<void> {
  const reader = new Reader(socket)
  const { size = 2 ** 20, flags = ALL_FLAGS, replies = 'structured', blockSizes } = offer
  socket.write(encodeGreeting())
  await reader.read(4)
  for (let option: number = OPT.ABORT; option !== OPT.GO; ) {
    const header = await reader.read(16)
    option = header.readUInt32BE(8)
    await reader.read(header.readUInt32BE(12))
    const isKnown =
      (option === OPT.EXTENDED_HEADERS && replies === 'extended') ||
      (option === OPT.STRUCTURED_REPLY && replies === 'structured') ||
      option === OPT.SET_META_CONTEXT ||
      option === OPT.GO
    if (option === OPT.SET_META_CONTEXT) socket.write(encodeMetaContext(option, 7, 'base:allocation'))
    if (option === OPT.GO) {
      socket.write(encodeExportInfo(option, size, flags))
      if (blockSizes !== undefined) socket.write(encodeBlockSizeInfo(option, ...blockSizes))
    }
    socket.write(encodeOptionReply(option, isKnown ? REP.ACK : REP.ERR_UNSUP))
  }
  const isExtended = replies === 'extended'
  for (;;) {
    const header = await reader.read(isExtended ? 32 : 28)
    const type = header.readUInt16BE(6)
    const length = isExtended ? Number(header.readBigUInt64BE(24)) : header.readUInt32BE(24)
    if (type === CMD.DISC) {
      socket.end()
      return
    }
    await answer({
      flags: header.readUInt16BE(4) & ~CMD_FLAG.PAYLOAD_LEN,
      type,
      cookie: header.toString('hex', 8, 16),
      offset: Number(header.readBigUInt64BE(16)),
      length,
      data: type === CMD.WRITE ? Buffer.from(await reader.read(length)) : Buffer.alloc(0),
    })
  }
}

/** A reply without data, in structured form. */
export const done = (asked: Asked): Buffer => hex(`668e33ef 0001 0000 ${asked.cookie} 00000000`)

/** An error in structured form, without a text. */
export const failed = (asked: Asked, errno: number): Buffer =>
  hex(`668e33ef 0001 8001 ${asked.cookie} 00000006 ${errno.toString(16).padStart(8, '0')} 0000`)

/** The data of a READ, in structured form. */
export const dataOf = (asked: Asked, bytes: Uint8Array): Buffer => {
  const length = (bytes.length + 8).toString(16).padStart(8, '0')
  const offset = asked.offset.toString(16).padStart(16, '0')
  return Buffer.concat([hex(`668e33ef 0001 0001 ${asked.cookie} ${length} ${offset}`), bytes])
}
