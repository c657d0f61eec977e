/** A small HTTP server for scrapers and probes: few routes, GET and HEAD only, everything bounded. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { pipeline } from 'node:stream/promises'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { describeTcpAddress, type TcpAddress, tcpListenOptions } from '../linux/listen-address.ts'
import { listenReason } from '../linux/reasons.ts'

/** What a route answers. */
export interface Page {
  readonly status: number
  readonly contentType: string
  /** Pieces of text, asked for only as fast as the client takes them. */
  readonly body: Iterable<string>
}

/** Pages by their path. */
export type Routes = ReadonlyMap<string, () => Page>

/** A server that listens. */
export interface HttpServer {
  /** `http://127.0.0.1:9100` */
  readonly uri: string
  /** Cuts all connections. */
  close(): Promise<void>
}

/** An address for HTTP that cannot be had. */
export class HttpListenError extends Error {
  override readonly name = 'HttpListenError'
  readonly code: string

  constructor(message: string, code: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

const MAX_CONNECTIONS = 64
const MAX_HEADER_BYTES = 8192
/** A client has so long, in ms, for its request, for taking the answer, and between two requests. */
const REQUEST_MS = 2000
const ANSWER_MS = 10_000
const IDLE_MS = 15_000
/** Characters that are sent together, after which others get their turn. */
const CHUNK = 64 * 2 ** 10

/** A page of one line. */
export function line(status: number, text: string): Page {
  return { status, contentType: 'text/plain; charset=utf-8', body: [`${text}\n`] }
}

/**
 * Serves these pages. `onError` is told what went wrong in a page or with the listening socket.
 * @throws HttpListenError
 */
export async function serveHttp(
  address: TcpAddress,
  routes: Routes,
  onError: (error: Error) => void,
): Promise<HttpServer> {
  const limits = {
    maxHeaderSize: MAX_HEADER_BYTES,
    headersTimeout: REQUEST_MS,
    requestTimeout: REQUEST_MS,
    keepAliveTimeout: IDLE_MS,
    connectionsCheckingInterval: 500,
  }
  const server = createServer(limits, (request, response) => {
    void answer(request, response, routes, onError)
  })
  server.maxConnections = MAX_CONNECTIONS
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const code = error.code ?? 'EIO'
      const reason = listenReason(code, error.message)
      const where = describeTcpAddress(address)
      reject(new HttpListenError(`Cannot serve HTTP on ${where}: ${reason}.`, code, { cause: error }))
    })
    server.listen(tcpListenOptions(address), resolve)
  })
  server.removeAllListeners('error').on('error', onError)
  const bound = server.address() as AddressInfo
  return {
    uri: `http://${describeTcpAddress({ host: bound.address, port: bound.port })}`,
    async close() {
      const closed = new Promise<void>(resolve => server.close(() => resolve()))
      server.closeAllConnections()
      await closed
    },
  }
}

const hasBody = ({ headers }: IncomingMessage) =>
  headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) !== 0

function pageFor(request: IncomingMessage, routes: Routes): Page {
  if (request.method !== 'GET' && request.method !== 'HEAD')
    return line(405, 'Only GET and HEAD are possible.')
  if (hasBody(request)) return line(413, 'A request has no body here.')
  const [path = ''] = (request.url ?? '').split('?', 1)
  return routes.get(path)?.() ?? line(404, 'There is nothing here.')
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  routes: Routes,
  onError: (error: Error) => void,
): Promise<void> {
  try {
    const { status, contentType, body } = pageFor(request, routes)
    response.statusCode = status
    response.setHeader('Content-Type', contentType)
    response.setHeader('Cache-Control', 'no-store')
    if (status === 405) response.setHeader('Allow', 'GET, HEAD')
    // What comes after a request that should not have been is not worth reading.
    if (status === 405 || status === 413) response.setHeader('Connection', 'close')
    if (request.method === 'HEAD') {
      response.end()
      return
    }
    await pipeline(chunksOf(body), response, { signal: AbortSignal.timeout(ANSWER_MS) })
  } catch (error) {
    response.destroy()
    if (!isTheClients(error)) onError(error instanceof Error ? error : new Error(String(error)))
  }
}

/** The client has gone or was too slow. */
function isTheClients(error: unknown): boolean {
  const { code, name } = error as { code?: unknown; name?: unknown }
  return (
    name === 'AbortError' ||
    code === 'ERR_STREAM_PREMATURE_CLOSE' ||
    code === 'ECONNRESET' ||
    code === 'EPIPE'
  )
}

async function* chunksOf(body: Iterable<string>): AsyncGenerator<string> {
  let text = ''
  for (const piece of body) {
    text += piece
    if (text.length < CHUNK) continue
    yield text
    text = ''
    await nextTurn()
  }
  if (text !== '') yield text
}
