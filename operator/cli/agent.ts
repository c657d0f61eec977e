/** `ondemand-disk-operator agent`: from options to an agent beside a pool's server, and from a signal to its end. */
import { hostname } from 'node:os'
import type { Log } from '../../server/cli/log.ts'
import { UsageError } from '../../server/cli/options.ts'
import type { Readiness } from '../../server/metrics/endpoint.ts'
import type { Family } from '../../server/metrics/exposition.ts'
import type { KubeClient } from '../kube/client.ts'
import type { ControllerMeter } from '../kube/controller.ts'
import { type EventRecorder, startEventRecorder } from '../kube/events.ts'
import { kubeFamilies } from '../kube/metrics.ts'
import { type AgentOptions, parseAgentOptions } from './agent-options.ts'
import { aborted, connect, flushed, openEndpoint, stopRequested } from './program.ts'

/** What the agent works with. */
export interface AgentTerms {
  readonly client: KubeClient
  readonly options: AgentOptions & { readonly namespace: string }
  readonly events: EventRecorder
  readonly log: Log
}

/** An agent that has begun to work, as far as it can without the API server. */
export interface Agent {
  /** Resolves when it knows all that there was at the start. */
  readonly synced: Promise<void>
  readonly meters: readonly ControllerMeter[]
  /** What it counts beyond that. */
  readonly families: readonly Family[]
  /** Ends all work in bounded time. */
  stop(): Promise<void>
}

export type StartAgent = (terms: AgentTerms) => Promise<Agent>

/**
 * Runs until SIGTERM or SIGINT.
 * @throws UsageError, ClusterError, HttpListenError, and what starting the agent throws
 */
export async function agent(argv: readonly string[], startAgent: StartAgent): Promise<void> {
  const options = parseAgentOptions(argv)
  const { client, clientMeter, host, ownNamespace, log, close } = await connect('agent', options)
  const namespace = options.namespace ?? ownNamespace
  if (namespace === undefined) throw new UsageError('--namespace is missing. Name the namespace of the pool.')
  const stop = stopRequested(log)
  let readiness: Readiness = 'starting'
  const instance = process.env.POD_NAME ?? hostname()
  const events = startEventRecorder({ client, component: 'ondemand-disk-agent', instance, log })
  const running = await startAgent({ client, options: { ...options, namespace }, events, log })
  const families = [
    ...kubeFamilies({ controllers: running.meters, client: clientMeter, host }),
    ...running.families,
  ]
  try {
    const endpoint = await openEndpoint(options.metrics, families, () => readiness, log)
    try {
      const stopped = aborted(stop)
      await Promise.race([running.synced, stopped])
      if (!stop.aborted) {
        readiness = 'ready'
        log.info({ pool: options.pool, namespace }, 'Knows all disks of the pool')
      }
      await stopped
      readiness = 'stopping'
    } finally {
      await endpoint.close()
    }
  } finally {
    await running.stop()
    await flushed(events)
    close()
  }
  log.info({}, 'Stopped')
}
