/** The server is killed under load, and started again: what was flushed is there, and nothing half-made. */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readdir, readFile, stat } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { check, needPrograms, run, type ServerProcess, scratch, startServer } from '../harness.ts'

const MIB = 2 ** 20
const BLOCK = 4096
const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

const u32 = (value: number) => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

/** The content that block `index` has in its `version`: told from any other, and checkable. */
function blockOf(index: number, version: number): Buffer {
  const block = Buffer.alloc(BLOCK)
  block.writeUInt32BE(index, 0)
  block.writeUInt32BE(version, 4)
  const hash = createHash('sha256').update(block.subarray(0, 8)).digest()
  for (let at = 8; at < BLOCK; at += 32) hash.copy(block, at)
  return block
}

/** A client that writes versions of blocks, flushing now and then, until its server dies. */
interface Writer {
  /** Version that was acknowledged as durable, and the newest that was ever sent, of each block. */
  readonly durable: ReadonlyMap<number, number>
  readonly sent: ReadonlyMap<number, number>
  readonly ended: Promise<void>
}

async function attach(port: number, name: string): Promise<Socket> {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => {})
  const hello = Buffer.concat([
    u32(3),
    Buffer.from('IHAVEOPT'),
    u32(7),
    u32(6 + name.length),
    u32(name.length),
    Buffer.from(name),
    Buffer.from([0, 0]),
  ])
  socket.write(hello)
  let got = 0
  while (got < 18 + 32 + 20) got += ((await once(socket, 'data')) as [Buffer])[0].length
  return socket
}

async function startWriter(port: number, name: string, blocks: number): Promise<Writer> {
  const socket = await attach(port, name)
  const durable = new Map<number, number>()
  const sent = new Map<number, number>()
  const acknowledged = new Map<number, number>()
  let cookie = 0
  const waiting = new Map<number, () => void>()
  const request = (flags: number, type: number, offset: number, length: number, done: () => void) => {
    const header = Buffer.alloc(28)
    header.writeUInt32BE(0x25609513, 0)
    header.writeUInt16BE(flags, 4)
    header.writeUInt16BE(type, 6)
    header.writeUInt32BE(++cookie, 12)
    header.writeUInt32BE(offset, 20)
    header.writeUInt32BE(length, 24)
    waiting.set(cookie, done)
    return header
  }
  let version = 0
  const next = () => {
    version++
    const index = (version * 7919) % blocks
    if (version % 50 === 0) {
      // What had been acknowledged when the flush was sent is durable when it is answered.
      const covered = new Map(acknowledged)
      socket.write(
        request(0, 3, 0, 0, () => {
          for (const [block, at] of covered) durable.set(block, Math.max(durable.get(block) ?? 0, at))
          next()
        }),
      )
      return
    }
    const isFua = version % 17 === 0
    const mine = version
    sent.set(index, mine)
    const header = request(isFua ? 1 : 0, 1, index * BLOCK, BLOCK, () => {
      acknowledged.set(index, Math.max(acknowledged.get(index) ?? 0, mine))
      if (isFua) durable.set(index, Math.max(durable.get(index) ?? 0, mine))
      next()
    })
    socket.write(Buffer.concat([header, blockOf(index, mine)]))
  }
  let rest: Buffer = Buffer.alloc(0)
  socket.on('data', (chunk: Buffer) => {
    rest = Buffer.concat([rest, chunk])
    for (; rest.length >= 16; rest = rest.subarray(16)) {
      expect(rest.readUInt32BE(0)).toBe(0x67446698)
      expect(rest.readUInt32BE(4)).toBe(0)
      const done = waiting.get(rest.readUInt32BE(12))
      waiting.delete(rest.readUInt32BE(12))
      done?.()
    }
  })
  const ended = new Promise<void>(resolve => socket.once('close', () => resolve()))
  // One request at a time for each block, so that versions of a block cannot overtake each other.
  for (let depth = 0; depth < 8; depth++) next()
  return { durable, sent, ended }
}

/** Reads all blocks and holds them against what the writer knows. */
async function verify(server: ServerProcess, name: string, blocks: number, writer: Writer): Promise<void> {
  await using folder = await scratch()
  const path = join(folder.path, name)
  await check('nbdcopy', [server.uri(name), path])
  const content = await readFile(path)
  for (let index = 0; index < blocks; index++) {
    const block = content.subarray(index * BLOCK, (index + 1) * BLOCK)
    const version = block.readUInt32BE(4)
    expect(version, `block ${index}`).toBeGreaterThanOrEqual(writer.durable.get(index) ?? 0)
    if (version > 0) expect(block.equals(blockOf(index, version)), `block ${index} is torn`).toBe(true)
    else expect(block.every(byte => byte === 0)).toBe(true)
  }
}

describe('SIGKILL', {
  // What a crash broke once is broken, whatever the next one does.
  retry: 0,
}, () => {
  test('under load, at random: what was flushed is there, and no disk is half-made', {
    timeout: 240_000,
  }, async context => {
    await needPrograms(context, 'nbdcopy', 'nbdinfo', 'e2fsck')
    await using dir = await scratch()
    const blocks = (8 * MIB) / BLOCK
    const command = 'truncate -s "$size" "$disk"'
    const options = ['--dir', dir.path, '--size', '8M', '--command', command]
    for (let round = 0; round < 6; round++) {
      await using server = await startServer(options)
      const writers = await Promise.all(
        [0, 1, 2].map(index => startWriter(server.port, `round${round}-${index}`, blocks)),
      )
      // Disks that are being made when the server dies.
      const making = Array.from({ length: 10 }, (_, index) =>
        run('nbdinfo', ['--size', server.uri(`made${round}-${index}`)]),
      )
      await pause(100 + Math.random() * 400)
      await server.kill()
      await Promise.all([...writers.map(({ ended }) => ended), ...making])
      await using again = await startServer(options, { port: server.port })
      for (const [index, writer] of writers.entries()) {
        expect(writer.sent.size).toBeGreaterThan(0)
        await verify(again, `round${round}-${index}`, blocks, writer)
      }
      expect(await again.stop()).toBe(0)
      for (const name of await readdir(dir.path)) {
        if (name === '.ondemand-disk') continue
        expect((await stat(join(dir.path, name))).size, name).toBe(8 * MIB)
      }
      const hidden = await readdir(join(dir.path, '.ondemand-disk'), { recursive: true })
      expect(hidden.filter(name => !name.startsWith('links'))).toEqual([])
    }
  })

  test('while fifty disks are formatted: after that each is whole or not there', {
    timeout: 120_000,
  }, async context => {
    await needPrograms(context, 'nbdinfo', 'e2fsck')
    await using dir = await scratch()
    const options = ['--dir', dir.path, '--size', '1G']
    for (const delay of [50, 150, 400]) {
      await using server = await startServer(options)
      const clients = Array.from({ length: 50 }, (_, index) =>
        run('nbdinfo', ['--size', server.uri(`disk${delay}-${index}`)]),
      )
      await pause(delay)
      await server.kill()
      await Promise.all(clients)
      await using again = await startServer(options)
      expect(await again.stop()).toBe(0)
      const names = (await readdir(dir.path)).filter(name => !name.startsWith('.'))
      for (const name of names) await check('e2fsck', ['-fn', join(dir.path, name)])
      const hidden = await readdir(join(dir.path, '.ondemand-disk'), { recursive: true })
      expect(hidden.filter(name => !name.startsWith('links'))).toEqual([])
    }
  })

  test('of a server with temporary disks leaves nothing of them', async () => {
    await using dir = await scratch()
    const options = ['--temporary', '--size', '8M', '--command', 'truncate -s "$size" "$disk"; sleep 0.2']
    const start = () => startServer(options, { env: { TMPDIR: dir.path } })
    await using server = await start()
    const sockets = await Promise.all([1, 2, 3].map(() => attach(server.port, '')))
    const making = [1, 2, 3].map(() => attach(server.port, '').catch(() => undefined))
    await pause(100)
    await server.kill()
    for (const socket of sockets) socket.destroy()
    await Promise.race([Promise.all(making), pause(500)])
    await using again = await start()
    expect(await again.stop()).toBe(0)
    expect(await readdir(dir.path)).toEqual([])
  })
})
