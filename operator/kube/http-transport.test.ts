import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { createServer, type Server, type Socket } from 'node:net'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { textOf } from './body.ts'
import { type HttpTransport, httpTransport } from './http-transport.ts'
import type { HttpRequest } from './transport.ts'

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'

let server: Server
let sockets: Socket[]
let requests: string[]
/** What to do with the next request on a connection. */
let answer: (socket: Socket, nth: number) => void
let transport: HttpTransport

beforeEach(async () => {
  sockets = []
  requests = []
  answer = socket => socket.write(OK)
  server = createServer(socket => {
    sockets.push(socket)
    let nth = 0
    socket.on('error', () => {})
    socket.on('data', data => {
      requests.push(data.toString())
      answer(socket, nth++)
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  transport = httpTransport({
    server: new URL(`http://127.0.0.1:${port}/prefix/`),
    namespace: undefined,
    credentials: async () => ({ headers: { authorization: 'Bearer x' }, tls: {} }),
  })
})
afterEach(async () => {
  transport.close()
  for (const socket of sockets) socket.destroy()
  server.close()
  await once(server, 'close')
})

const never = new AbortController().signal
async function send(method: HttpRequest['method'], body?: string): Promise<string> {
  const request = { method, path: '/api?x=1', headers: { accept: 'y' }, signal: never, ...(body && { body }) }
  const response = await transport.send(request)
  return textOf('it', response.body)
}

test('a request has its path behind that of the server, its credentials and its body', async () => {
  expect(await send('POST', '{"ü":1}')).toBe('ok')
  const [head = '', body] = requests.join('').split('\r\n\r\n')
  expect(head).toMatch(/^POST \/prefix\/api\?x=1 HTTP\/1\.1\r\n/)
  expect(head.toLowerCase()).toContain('authorization: bearer x\r\naccept: y\r\ncontent-length: 8')
  expect(body).toBe('{"ü":1}')
})

test('connections are kept', async () => {
  await send('GET')
  await send('GET')
  expect([sockets.length, requests.length]).toEqual([1, 2])
})

test('a kept connection that the server has closed costs a GET nothing', async () => {
  answer = (socket, nth) => (nth === 0 ? socket.write(OK) : socket.resetAndDestroy())
  await send('GET')
  expect(await send('GET')).toBe('ok')
  expect(sockets).toHaveLength(2)
})

test('what may have been done is not sent twice', async () => {
  answer = (socket, nth) => (nth === 0 ? socket.write(OK) : socket.resetAndDestroy())
  await send('POST')
  await expect(send('POST')).rejects.toThrow('closed')
  expect(requests).toHaveLength(2)
})

test('a new connection that breaks is an error', async () => {
  answer = socket => socket.resetAndDestroy()
  await expect(send('GET')).rejects.toMatchObject({ code: 'ECONNRESET' })
  expect(requests).toHaveLength(1)
})

test('a request that is given up leaves no connection', async () => {
  answer = () => {}
  const stop = new AbortController()
  const waiting = transport.send({ method: 'GET', path: '/', headers: {}, signal: stop.signal })
  await expect.poll(() => requests.length).toBe(1)
  stop.abort(new Error('enough'))
  await expect(waiting).rejects.toThrow()
  await expect.poll(() => sockets[0]?.destroyed).toBe(true)
})
