/**
 * JSON over HTTP on a unix socket: how programs of one machine, or of one pod, talk. Only their own user can
 * connect. Both sides are here, and both bound what they read and how long they wait.
 */
import { chmod } from 'node:fs/promises'
import { createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import { toError } from '../linux/errno.ts'
import { listenReason } from '../linux/reasons.ts'
import { closesOwnSocket, removeStaleSocket } from '../linux/stale-socket.ts'

/** What came with a request. */
export interface JsonRequest {
  readonly query: URLSearchParams
  /** The parsed body; undefined if there was none. */
  readonly body: unknown
  /** Aborted when whoever asked has gone. */
  readonly signal: AbortSignal
}

/** Answers a request by a value for JSON. What it throws is answered with status 500, a RequestError with its own. */
export type JsonRoute = (request: JsonRequest) => unknown | Promise<unknown>

/** By method and path: `GET /exports`. */
export type JsonRoutes = Readonly<Record<string, JsonRoute>>

/** A request that cannot be answered as it is. */
export class RequestError extends Error {
  override readonly name = 'RequestError'
  readonly code = 'ERequest'
  readonly status: number

  constructor(status: number, message: string, options?: ErrorOptions) {
    super(message, options)
    this.status = status
  }
}

/** A server that listens. */
export interface JsonServer {
  /** Cuts all connections. */
  close(): Promise<void>
}

/** A unix socket on which nobody can listen, or from which no good answer came. */
export class SocketError extends Error {
  override readonly name = 'SocketError'
  readonly code: string

  constructor(message: string, code: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

const MAX_CONNECTIONS = 256
const MAX_HEADER_BYTES = 8192
/** A request has this long to come, in ms. */
const REQUEST_MS = 5000
const MAX_REQUEST_BYTES = 64 * 2 ** 10
/** Largest answer that is read: the state of 10,000 exports has a tenth of it. */
const MAX_ANSWER_BYTES = 64 * 2 ** 20

/**
 * Serves these routes. `onError` is told what a route failed with beside RequestErrors.
 * @throws SocketError if the path cannot be had
 */
export async function serveJson(
  path: string,
  routes: JsonRoutes,
  onError: (error: unknown) => void,
): Promise<JsonServer> {
  const limits = {
    maxHeaderSize: MAX_HEADER_BYTES,
    headersTimeout: REQUEST_MS,
    requestTimeout: REQUEST_MS,
    connectionsCheckingInterval: 1000,
  }
  const server = createServer(limits, (request, response) => void answer(request, response, routes, onError))
  server.maxConnections = MAX_CONNECTIONS
  try {
    await removeStaleSocket(path)
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen({ path }, resolve)
    })
    await chmod(path, 0o600)
  } catch (error) {
    server.close()
    const { code = 'EIO', message } = error as NodeJS.ErrnoException
    const reason = listenReason(code, message)
    throw new SocketError(`Cannot listen on ${path}: ${reason}.`, code, { cause: error })
  }
  server.removeAllListeners('error').on('error', onError)
  const close = async () => {
    const closed = new Promise<void>(resolve => server.close(() => resolve()))
    server.closeAllConnections()
    await closed
  }
  const closeSocket = closesOwnSocket(path)
  return { close: () => closeSocket(close) }
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  routes: JsonRoutes,
  onError: (error: unknown) => void,
): Promise<void> {
  const gone = new AbortController()
  response.on('close', () => gone.abort())
  response.on('error', () => gone.abort())
  try {
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://socket')
    const route = routes[`${request.method} ${pathname}`]
    if (route === undefined) throw new RequestError(404, 'There is nothing here.')
    const body = await readJson(request, MAX_REQUEST_BYTES)
    send(response, 200, await route({ query: searchParams, body, signal: gone.signal }))
  } catch (error) {
    if (gone.signal.aborted) return
    const status = error instanceof RequestError ? error.status : 500
    if (status === 500) onError(error)
    send(response, status, { message: toError(error).message })
  }
}

function send(response: ServerResponse, status: number, value: unknown): void {
  const text = `${JSON.stringify(value ?? {})}\n`
  const headers = { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(text) }
  response.writeHead(status, status < 400 ? headers : { ...headers, Connection: 'close' }).end(text)
}

async function readJson(message: IncomingMessage, limit: number): Promise<unknown> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of message as AsyncIterable<Buffer>) {
    length += chunk.length
    if (length > limit) throw new RequestError(413, `More than ${limit} bytes are not read.`)
    chunks.push(chunk)
  }
  if (length === 0) return undefined
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'))
  } catch (error) {
    throw new RequestError(400, 'The body is not JSON.', { cause: error })
  }
}

/** A question to a JSON server. */
export interface JsonQuestion {
  readonly method: 'GET' | 'POST'
  /** With its query. */
  readonly path: string
  readonly body?: unknown
  readonly signal?: AbortSignal
  /** How long the answer may take in all, in ms. */
  readonly timeoutMs: number
}

/**
 * Asks the server at a socket and returns the value of its answer.
 * @throws RequestError with the server's own words, SocketError with the system's code if there is no good answer,
 *   `ETIMEDOUT` if it takes too long, or the signal's reason
 */
export async function askJson(socketPath: string, question: JsonQuestion): Promise<unknown> {
  const { method, path, body, signal, timeoutMs } = question
  signal?.throwIfAborted()
  const tooLate = AbortSignal.timeout(timeoutMs)
  const text = body === undefined ? undefined : JSON.stringify(body)
  try {
    const { status, value } = await new Promise<{ status: number; value: unknown }>((resolve, reject) => {
      const sent = httpRequest(
        {
          socketPath,
          method,
          path,
          agent: false,
          signal: signal === undefined ? tooLate : AbortSignal.any([signal, tooLate]),
          ...(text !== undefined && {
            headers: { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(text) },
          }),
        },
        response => {
          const status = response.statusCode ?? 0
          const unreadable = (error: Error) =>
            reject(new SocketError(error.message, 'EBADMSG', { cause: error }))
          readJson(response, MAX_ANSWER_BYTES).then(value => resolve({ status, value }), unreadable)
        },
      )
      sent.on('error', reject)
      sent.end(text)
    })
    if (status === 200) return value
    const { message = `It answered with status ${status}.` } = (value ?? {}) as { message?: string }
    throw new RequestError(status, message)
  } catch (error) {
    if (signal?.aborted) throw signal.reason
    if (error instanceof RequestError) throw error
    const code = tooLate.aborted ? 'ETIMEDOUT' : ((error as NodeJS.ErrnoException).code ?? 'EIO')
    const reason = tooLate.aborted ? 'it took too long' : (error as Error).message
    throw new SocketError(`No answer from ${socketPath}: ${reason}.`, code, { cause: error })
  }
}
