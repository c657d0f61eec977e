import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { type Readiness, serveMetrics } from './endpoint.ts'
import type { Family } from './exposition.ts'
import type { HttpListenError } from './http.ts'
import { parseExposition } from './test-exposition.ts'

const gauge: Family = {
  name: 'x',
  type: 'gauge',
  labels: ['export'],
  help: 'Help.',
  samples: () => [{ labels: ['a'], value: 1 }],
}

async function serve(families: readonly Family[] = [gauge], readiness: () => Readiness = () => 'ready') {
  const errors: Error[] = []
  const onError = (error: Error) => errors.push(error)
  const server = await serveMetrics({ host: '127.0.0.1', port: 0 }, { families, readiness, onError })
  onTestFinished(() => server.close())
  return { server, errors, port: Number(new URL(server.uri).port) }
}

/** What the server sends on one connection until it hangs up. */
async function raw(port: number, text: string): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  onTestFinished(() => {
    socket.destroy()
  })
  socket.write(text)
  let answer = ''
  socket.on('data', chunk => {
    answer += chunk
  })
  await new Promise(resolve => socket.on('close', resolve).on('error', resolve))
  return answer
}

test('the metrics are served as text of version 0.0.4', async () => {
  const { server } = await serve()
  const response = await fetch(`${server.uri}/metrics?ignored=1`)
  expect(response.status).toBe(200)
  expect(response.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8')
  const text = await response.text()
  expect([...parseExposition(text).keys()]).toEqual(['x'])
})

test('probes follow the life of the server', async () => {
  let state: Readiness = 'starting'
  const { server } = await serve([gauge], () => state)
  for (const [now, status] of [
    ['starting', 503],
    ['ready', 200],
    ['stopping', 503],
  ] as const) {
    state = now
    const ready = await fetch(`${server.uri}/readyz`)
    expect([ready.status, await ready.text()]).toEqual([status, `${now}\n`])
    expect((await fetch(`${server.uri}/healthz`)).status).toBe(200)
  }
})

test('all else is not found', async () => {
  const { server } = await serve()
  for (const path of ['/', '/metrics/', '/../metrics/x', '/%6detrics', '/debug'])
    expect((await fetch(server.uri + path)).status).toBe(404)
})

test('HEAD is GET without the page', async () => {
  const { server } = await serve()
  const response = await fetch(`${server.uri}/metrics`, { method: 'HEAD' })
  expect([response.status, await response.text()]).toEqual([200, ''])
})

test.each(['POST', 'PUT', 'DELETE', 'OPTIONS'])('%s is refused and its connection closed', async method => {
  const { port } = await serve()
  const answer = await raw(port, `${method} /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello`)
  expect(answer).toMatch(/^HTTP\/1\.1 405 /)
  expect(answer).toMatch(/^Allow: GET, HEAD\r$/m)
})

test('a GET with a body is refused and its connection closed', async () => {
  const { port } = await serve()
  const answer = await raw(port, 'GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n')
  expect(answer).toMatch(/^HTTP\/1\.1 413 /)
})

test.each([
  ['not HTTP', 'NBDMAGIC\r\n\r\n', 400],
  ['more than 8 KiB of headers', `GET / HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(9000)}\r\n\r\n`, 431],
])('%s is refused', async (_, text, status) => {
  const { port } = await serve()
  expect(await raw(port, text)).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `))
})

test('a request that does not end is cut off', async () => {
  const { port } = await serve()
  const start = performance.now()
  await raw(port, 'GET /metrics HTTP/1.1\r\nHost: x\r\n')
  expect(performance.now() - start).toBeLessThan(5000)
})

test('more connections than 64 are closed', async () => {
  const { server, port } = await serve()
  const sockets = Array.from({ length: 80 }, () => connect(port, '127.0.0.1'))
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
  })
  let closed = 0
  for (const socket of sockets) socket.on('error', () => {}).on('close', () => closed++)
  await sleep(300)
  expect(closed).toBe(16)
  for (const socket of sockets) socket.destroy()
  await sleep(100)
  expect((await fetch(`${server.uri}/healthz`)).status).toBe(200)
})

test('a page of many megabytes leaves the event loop to others, and waits for a slow reader', async () => {
  let made = 0
  const large: Family = {
    ...gauge,
    *samples() {
      for (; made < 300_000; made++) yield { labels: [`${made}`.padStart(100, 'x')], value: 1 }
    },
  }
  const { port, server, errors } = await serve([large])
  const socket = connect(port, '127.0.0.1')
  onTestFinished(() => {
    socket.destroy()
  })
  socket.pause()
  socket.write('GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
  // Another request is answered while the page is not finished.
  expect((await fetch(`${server.uri}/readyz`)).status).toBe(200)
  for (let before = -1; made > before; await sleep(200)) before = made
  expect(made).toBeLessThan(200_000)
  expect((await fetch(`${server.uri}/healthz`)).status).toBe(200)
  let bytes = 0
  socket.on('data', chunk => {
    bytes += chunk.length
  })
  socket.resume()
  await new Promise(resolve => socket.on('close', resolve))
  expect(made).toBe(300_000)
  expect(bytes).toBeGreaterThan(300_000 * 110)
  expect(errors).toEqual([])
})

test('a family that throws ends its scrape, is reported, and harms nothing else', async () => {
  const broken: Family = {
    ...gauge,
    name: 'y',
    samples: () => {
      throw new Error('Broken.')
    },
  }
  const { server, errors } = await serve([gauge, broken])
  await expect(fetch(`${server.uri}/metrics`).then(response => response.text())).rejects.toThrow()
  expect(errors.map(({ message }) => message)).toEqual(['Broken.'])
  expect((await fetch(`${server.uri}/healthz`)).status).toBe(200)
})

test('an address that is taken is refused with its reason', async () => {
  const { port } = await serve()
  const second = serveMetrics(
    { host: '127.0.0.1', port },
    { families: [], readiness: () => 'ready', onError: () => {} },
  )
  await expect(second).rejects.toMatchObject({
    code: 'EADDRINUSE',
    message: `Cannot serve HTTP on 127.0.0.1:${port}: another program listens there.`,
  } satisfies Partial<HttpListenError>)
})
