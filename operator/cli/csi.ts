/** `ondemand-disk-operator csi`: from options to a CSI driver on a socket, and from a signal to its end. */
import type { Log } from '../../server/cli/log.ts'
import type { Readiness } from '../../server/metrics/endpoint.ts'
import type { KubeClient } from '../kube/client.ts'
import { kubeFamilies } from '../kube/metrics.ts'
import { type CsiOptions, parseCsiOptions } from './csi-options.ts'
import { aborted, connect, openEndpoint, stopRequested } from './program.ts'

/** What the driver works with. */
export interface CsiTerms {
  readonly client: KubeClient
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
  const { client, clientMeter, host, log, close } = await connect('csi', options)
  const stop = stopRequested(log)
  let readiness: Readiness = 'starting'
  const driver = await startCsi({ client, options, log })
  try {
    const families = kubeFamilies({ controllers: [], client: clientMeter, host })
    const endpoint = await openEndpoint(options.metrics, families, () => readiness, log)
    try {
      log.info({ path: options.endpoint, services: options.services }, 'Serving CSI')
      const stopped = aborted(stop)
      await Promise.race([driver.synced, stopped])
      if (!stop.aborted) {
        readiness = 'ready'
        log.info({}, 'Knows all volumes')
      }
      await stopped
      readiness = 'stopping'
    } finally {
      await endpoint.close()
    }
  } finally {
    await driver.stop()
    close()
  }
  log.info({}, 'Stopped')
}
