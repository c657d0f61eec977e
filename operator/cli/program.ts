/** What every command of the operator does around its own work: connect, count, answer probes, end in order. */
import packageJson from '../../package.json' with { type: 'json' }
import { createLog, type Log } from '../../server/cli/log.ts'
import type { LogLevel } from '../../server/cli/program-options.ts'
import type { TcpAddress } from '../../server/linux/listen-address.ts'
import type { Readiness } from '../../server/metrics/endpoint.ts'
import type { Family } from '../../server/metrics/exposition.ts'
import { serveProgramMetrics } from '../../server/metrics/program-endpoint.ts'
import { createClient, type KubeClient } from '../kube/client.ts'
import { findCluster } from '../kube/cluster.ts'
import type { EventRecorder } from '../kube/events.ts'
import { httpTransport } from '../kube/http-transport.ts'
import { reasonOf } from '../kube/log.ts'
import { type ClientMeter, clientMeter } from '../kube/metrics.ts'
import { tokenBucket } from '../kube/rate-limiter.ts'

/** What a command works with. */
export interface Connected {
  readonly client: KubeClient
  /** For the Lease: its requests wait neither for `kube-api-qps` nor for a connection that others have. */
  readonly urgent: KubeClient
  readonly clientMeter: ClientMeter
  /** Host and port of the API server. */
  readonly host: string
  /** Of the Pod, or of the kubeconfig's context. */
  readonly ownNamespace: string | undefined
  readonly log: Log
  close(): void
}

export interface ConnectOptions {
  readonly kubeconfig: string | undefined
  readonly 'log-level': LogLevel
  /** Requests a second; 0: as many as the API server takes. */
  readonly 'kube-api-qps'?: number
}

/**
 * Finds the API server, and says in which words to talk to it; nothing is asked yet.
 * @throws ClusterError
 */
export async function connect(command: string, options: ConnectOptions): Promise<Connected> {
  const log = createLog(options['log-level'], 2, process.stderr.isTTY)
  const cluster = await findCluster(options.kubeconfig)
  const transport = httpTransport(cluster)
  const urgentTransport = httpTransport(cluster)
  const meter = clientMeter()
  const qps = options['kube-api-qps'] ?? 0
  const terms = {
    onAnswer: meter.onAnswer,
    userAgent: `ondemand-disk-operator/${packageJson.version} (${command})`,
  }
  const client = createClient({
    ...terms,
    transport: transport.send,
    ...(qps > 0 && { limiter: tokenBucket(qps, 2 * qps) }),
  })
  log.info({ server: cluster.server.href }, 'Using this API server')
  return {
    client,
    urgent: createClient({ ...terms, transport: urgentTransport.send }),
    clientMeter: meter,
    host: cluster.server.host,
    ownNamespace: cluster.namespace,
    log,
    close() {
      transport.close()
      urgentTransport.close()
    },
  }
}

/**
 * Serves `/metrics`, `/healthz` and `/readyz` if there is an address for them.
 * @throws HttpListenError
 */
export async function openEndpoint(
  address: TcpAddress | undefined,
  families: readonly Family[],
  readiness: () => Readiness,
  log: Log,
): Promise<{ close(): Promise<void> }> {
  if (address === undefined) return { close: async () => {} }
  const server = await serveProgramMetrics(address, {
    version: packageJson.version,
    families,
    readiness,
    onError: error => log.error(reasonOf(error), 'The metrics cannot be served'),
  })
  log.info({ uri: server.uri }, 'Serving metrics')
  return server
}

/** Events that are still on their way when the program ends have so long, in ms. */
const FLUSH_MS = 2000

/** Resolves when all events have been written, or when they have had their time. */
export async function flushed(events: EventRecorder): Promise<void> {
  await Promise.race([events.flush(), new Promise(resolve => setTimeout(resolve, FLUSH_MS).unref())])
}

/** Aborted by the first signal that asks the program to end; the second ends it at once. */
export function stopRequested(log: Log): AbortSignal {
  const controller = new AbortController()
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => {
      log.info({ signal }, 'Stopping')
      controller.abort(new Error(`Stopped by ${signal}.`))
    })
  }
  return controller.signal
}

/** Resolves when the signal is aborted. */
export function aborted(signal: AbortSignal): Promise<void> {
  return new Promise(resolve => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
}
