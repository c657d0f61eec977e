/** `--metrics`: what the server counts, and what the process is like, at an address. */
import packageJson from '../../package.json' with { type: 'json' }
import { CreationAbortedError } from '../backends/disks/errors.ts'
import { diskQueue } from '../backends/file/disk-queue.ts'
import { reasonOf } from '../connection/session.ts'
import type { TcpAddress } from '../linux/listen-address.ts'
import type { Readiness } from '../metrics/endpoint.ts'
import { serveProgramMetrics } from '../metrics/program-endpoint.ts'
import { type ServerMetrics, serverFamilies } from '../metrics/server-metrics.ts'
import { createStatusPage } from '../metrics/status-page.ts'
import type { Log } from './log.ts'

/** Counts the disks that are made, or are not. */
export function countCreations(metrics: ServerMetrics): (ms: number, error: unknown) => void {
  return (ms, error) => {
    if (error === undefined) {
      metrics.creations.made++
      metrics.creationSeconds.observe(ms / 1000)
    } else {
      metrics.creations[error instanceof CreationAbortedError ? 'aborted' : 'failed']++
    }
  }
}

/**
 * Serves metrics and probes until `close` is called.
 * @throws HttpListenError
 */
export async function openMetricsEndpoint(
  address: TcpAddress,
  metrics: ServerMetrics,
  readiness: () => Readiness,
  log: Log,
): Promise<{ close(): Promise<void> }> {
  const server = await serveProgramMetrics(address, {
    version: packageJson.version,
    queueLength: () => diskQueue.waiting,
    families: serverFamilies(metrics),
    statusPage: createStatusPage(metrics, readiness),
    readiness,
    onError: error => log.error(reasonOf(error), 'The metrics cannot be served'),
  })
  log.info({ uri: server.uri }, 'Serving metrics')
  return server
}
