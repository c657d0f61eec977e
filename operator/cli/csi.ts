/** `ondemand-disk-operator csi`: from options to a CSI driver on a socket, and from a signal to its end. */
import { createLog, type Log } from '../../server/cli/log.ts'
import type { Readiness } from '../../server/metrics/endpoint.ts'
import type { KubeClient } from '../kube/client.ts'
import { kubeFamilies } from '../kube/metrics.ts'
import { type CsiOptions, parseCsiOptions } from './csi-options.ts'
import { aborted, connect, openEndpoint, stopRequested } from './program.ts'

/** What the driver works with. */
export interface CsiTerms {
  /** Undefined where only the service node is served, which asks the API server nothing. */
  readonly client: KubeClient | undefined
  readonly options: CsiOptions
  readonly log: Log
}

/** A driver that answers already. */
export interface Csi {
  /** Resolves when it knows all volumes that there were at the start. */
  readonly synced: Promise<void>
  /** Ends all work in bounded time. */
  stop(): Promise<void>
}

export type StartCsi = (terms: CsiTerms) => Promise<Csi>

/**
 * Runs until SIGTERM or SIGINT.
 * @throws UsageError, ClusterError, HttpListenError, and what starting the driver throws
 */
export async function csi(argv: readonly string[], startCsi: StartCsi): Promise<void> {
  const options = parseCsiOptions(argv)
  const connected = options.services.includes('controller') ? await connect('csi', options) : undefined
  const log = connected?.log ?? createLog(options['log-level'], 2, process.stderr.isTTY)
  const stop = stopRequested(log)
  let readiness: Readiness = 'starting'
  const driver = await startCsi({ client: connected?.client, options, log })
  try {
    const families = connected
      ? kubeFamilies({ controllers: [], client: connected.clientMeter, host: connected.host })
      : []
    const endpoint = await openEndpoint(options.metrics, families, () => readiness, log)
    try {
      log.info({ path: options.endpoint, services: options.services }, 'Serving CSI')
      const stopped = aborted(stop)
      await Promise.race([driver.synced, stopped])
      if (!stop.aborted) {
        readiness = 'ready'
        log.info({}, 'Ready')
      }
      await stopped
      readiness = 'stopping'
    } finally {
      await endpoint.close()
    }
  } finally {
    await driver.stop()
    connected?.close()
  }
  log.info({}, 'Stopped')
}
