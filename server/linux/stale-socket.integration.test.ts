import { existsSync, mkdtempSync, readdirSync, rmSync, unlinkSync } from 'node:fs'
import { connect, createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { closesOwnSocket } from './stale-socket.ts'

async function listenAt(path: string): Promise<Server> {
  const server = createServer(socket => socket.end('hello'))
  await new Promise<void>(resolve => server.listen(path, resolve))
  onTestFinished(() => void server.close())
  return server
}

const closing = (server: Server) => () => new Promise<void>(resolve => server.close(() => resolve()))

function pathInNewDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'socket-'))
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
  return join(directory, 'socket')
}

test('A server that stops leaves the socket of the one that has taken its path', async () => {
  const path = pathInNewDirectory()
  const first = await listenAt(path)
  const close = closesOwnSocket(path)
  unlinkSync(path)
  await listenAt(path)
  await close(closing(first))
  const said = await new Promise((resolve, reject) => connect(path).on('data', resolve).on('error', reject))
  expect(String(said)).toBe('hello')
  expect(readdirSync(join(path, '..'))).toEqual(['socket'])
})

test('A server that stops takes its own socket along', async () => {
  const path = pathInNewDirectory()
  const server = await listenAt(path)
  const close = closesOwnSocket(path)
  await close(closing(server))
  expect(existsSync(path)).toBe(false)
})

test('A server whose socket was removed stops all the same', async () => {
  const path = pathInNewDirectory()
  const server = await listenAt(path)
  const close = closesOwnSocket(path)
  unlinkSync(path)
  await close(closing(server))
  expect(readdirSync(join(path, '..'))).toEqual([])
})
