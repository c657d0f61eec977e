/** What `--metrics` serves: the metrics, a page for people, and the answers to probes. */
import type { TcpAddress } from '../linux/listen-address.ts'
import { checkFamilies, EXPOSITION_TYPE, exposition, type Family } from './exposition.ts'
import { type HttpServer, line, type Page, serveHttp } from './http.ts'

/** Where a server is between its start and its end. */
export type Readiness = 'starting' | 'ready' | 'stopping'

/** What is served. */
export interface EndpointTerms {
  readonly families: readonly Family[]
  /** The page at `/`, if there is one. */
  readonly statusPage?: () => Page
  /** Asked with every probe. */
  readonly readiness: () => Readiness
  /** Told what went wrong, with the endpoint or with a family. */
  readonly onError: (error: Error) => void
}

/**
 * Serves `/metrics`, `/healthz`, `/readyz` and, at `/`, the status page. That `/healthz` answers at all says that the event loop turns,
 * since it is the one that serves the clients; one that is stuck lets the probe run into its timeout.
 * @throws HttpListenError
 */
export async function serveMetrics(
  address: TcpAddress,
  { families, statusPage, readiness, onError }: EndpointTerms,
): Promise<HttpServer> {
  checkFamilies(families)
  const routes = new Map<string, () => Page>([
    ['/metrics', () => ({ status: 200, contentType: EXPOSITION_TYPE, body: exposition(families) })],
    ['/healthz', () => line(200, 'ok')],
    [
      '/readyz',
      () => {
        const state = readiness()
        return line(state === 'ready' ? 200 : 503, state)
      },
    ],
  ])
  if (statusPage !== undefined) routes.set('/', statusPage)
  return serveHttp(address, routes, onError)
}
