/** The transport over HTTP/1.1: kept connections, TLS, and notice of peers that have vanished. */
import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http'
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https'
import type { Cluster, Credentials, TlsOptions } from './cluster.ts'
import type { HttpRequest, HttpResponse, Transport } from './transport.ts'

/** Idle connections are closed after so long, in ms: before load balancers and API servers do. */
const IDLE_MS = 30_000
/** Connections at once; each watch holds one. */
const MAX_SOCKETS = 64
/**
 * When nothing has come for so long, in ms, the kernel asks whether the peer is still there; libuv lets it ask ten
 * times, a second apart.
 */
const KEEP_ALIVE_MS = 10_000

export interface HttpTransport {
  readonly send: Transport
  /** Closes all connections. */
  close(): void
}

/** A kept connection broke before an answer came. */
class StaleConnectionError extends Error {
  override readonly name = 'StaleConnectionError'
  readonly code = 'ECONNRESET'
}

/** Sends requests to a cluster as the one whom its credentials name. */
export function httpTransport(cluster: Cluster): HttpTransport {
  const secure = cluster.server.protocol === 'https:'
  const prefix = cluster.server.pathname.replace(/\/$/, '')
  const kept = { keepAlive: true, keepAliveMsecs: KEEP_ALIVE_MS, maxSockets: MAX_SOCKETS, timeout: IDLE_MS }
  const plain = new HttpAgent(kept)
  let forTls: { readonly tls: TlsOptions; readonly agent: HttpsAgent } | undefined
  const agents = new Set<HttpAgent>([plain])
  /** The server did not accept the last credentials. */
  let refused = false

  const agentFor = ({ tls, agent: proxy }: Credentials): HttpAgent => {
    if (proxy) return proxy
    if (!secure) return plain
    if (forTls?.tls !== tls) {
      // Requests under way keep their connections; idle ones of the old agent end by its timeout.
      forTls = { tls, agent: new HttpsAgent({ ...kept, ...tls }) }
      agents.add(forTls.agent)
    }
    return forTls.agent
  }

  return {
    async send(request) {
      const credentials = await cluster.credentials(refused)
      request.signal.throwIfAborted()
      const response = await exchange(request, credentials, agentFor(credentials)).catch(error => {
        // The server closed a kept connection while this was on its way. What only asks may be asked again.
        if (!(error instanceof StaleConnectionError) || request.method !== 'GET') throw error
        return exchange(request, credentials, agentFor(credentials))
      })
      refused = response.status === 401
      return response
    },
    close: () => {
      for (const agent of agents) agent.destroy()
    },
  }

  function exchange(
    { method, path, headers, body, signal }: HttpRequest,
    credentials: Credentials,
    agent: HttpAgent,
  ): Promise<HttpResponse> {
    return new Promise((resolve, reject) => {
      const outgoing = (secure ? httpsRequest : httpRequest)(
        {
          host: cluster.server.hostname.replace(/^\[|\]$/g, ''),
          port: cluster.server.port || (secure ? 443 : 80),
          path: prefix + path,
          method,
          headers: {
            ...credentials.headers,
            ...headers,
            ...(body !== undefined && { 'content-length': Buffer.byteLength(body) }),
          },
          agent,
          signal,
        },
        (incoming: IncomingMessage) => {
          resolve({ status: incoming.statusCode ?? 0, headers: incoming.headers, body: incoming })
        },
      )
      outgoing.on('socket', socket => {
        // A watch may be quiet for long; whoever waits has a timeout of his own.
        socket.setTimeout(0)
        socket.setKeepAlive(true, KEEP_ALIVE_MS)
        socket.setNoDelay(true)
      })
      outgoing.on('error', error => {
        const { code } = error as NodeJS.ErrnoException
        const stale = outgoing.reusedSocket && (code === 'ECONNRESET' || code === 'EPIPE')
        reject(stale ? new StaleConnectionError('The connection was closed.', { cause: error }) : error)
      })
      outgoing.end(body)
    })
  }
}
