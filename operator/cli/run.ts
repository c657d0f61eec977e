/** `ondemand-disk-operator run`: from options to controllers that act, and from a signal to their end. */
import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import type { Log } from '../../server/cli/log.ts'
import { UsageError } from '../../server/cli/options.ts'
import type { Readiness } from '../../server/metrics/endpoint.ts'
import type { KubeClient } from '../kube/client.ts'
import type { ControllerMeter } from '../kube/controller.ts'
import { type EventRecorder, startEventRecorder } from '../kube/events.ts'
import { type Election, startElection } from '../kube/lease.ts'
import { kubeFamilies } from '../kube/metrics.ts'
import { aborted, connect, flushed, openEndpoint, stopRequested } from './program.ts'
import { parseRunOptions, type RunOptions } from './run-options.ts'

/** What the controllers work with. */
export interface ControllersTerms {
  readonly client: KubeClient
  readonly events: EventRecorder
  readonly options: RunOptions
  readonly log: Log
}

/** Controllers that know what there is. Those of a standby do, so that it can act at once when it is elected. */
export interface Controllers {
  /** Resolves when all is known that there was at the start. */
  readonly synced: Promise<void>
  /** Begins to act; called once, when synced and elected. Returns what is counted. */
  act(): readonly ControllerMeter[]
  /** Ends all work in bounded time. */
  stop(): Promise<void>
}

export type StartControllers = (terms: ControllersTerms) => Controllers

/**
 * Runs until SIGTERM or SIGINT. When another operator takes over, the process exits with 1.
 * @throws UsageError, ClusterError, HttpListenError
 */
export async function run(argv: readonly string[], startControllers: StartControllers): Promise<void> {
  const options = parseRunOptions(argv)
  const connected = await connect('run', options)
  const { client, log } = connected
  const lease = leaseOf(options, connected.ownNamespace)
  const stop = stopRequested(log)
  let readiness: Readiness = 'starting'
  const meters: ControllerMeter[] = []
  let election: Election | undefined
  const families = kubeFamilies({
    controllers: meters,
    client: connected.clientMeter,
    host: connected.host,
    ...(lease && { election: { name: lease.name, isLeader: () => election?.isLeader ?? false } }),
  })
  const endpoint = await openEndpoint(options.metrics, families, () => readiness, log)
  const events = startEventRecorder({
    client,
    component: 'ondemand-disk-operator',
    instance: hostname(),
    log,
  })
  const controllers = startControllers({ client, events, options, log })
  // A program that was started again is another candidate.
  const identity = `${hostname()}_${randomBytes(8).toString('hex')}`
  if (lease) election = startElection({ client: connected.urgent, ...lease, identity, log })
  try {
    const stopped = aborted(stop)
    await Promise.race([controllers.synced, stopped])
    if (!stop.aborted) {
      readiness = 'ready'
      log.info({}, 'Knows all objects')
      await Promise.race([election?.leading, stopped])
    }
    if (!stop.aborted) {
      meters.push(...controllers.act())
      log.info({ workers: options.workers }, 'Acting')
      await Promise.race([election?.lost ?? stopped, stopped])
    }
    if (!stop.aborted) {
      // Another acts now: not one more write.
      log.error({}, 'Ending: another operator may act from now on')
      process.exit(1)
    }
    readiness = 'stopping'
  } finally {
    await controllers.stop()
    await flushed(events)
    await election?.stop()
    await endpoint.close()
    connected.close()
  }
  log.info({}, 'Stopped')
}

/** The Lease by which one of several operators is elected; undefined where none is. */
function leaseOf(
  options: RunOptions,
  ownNamespace: string | undefined,
): { readonly namespace: string; readonly name: string } | undefined {
  if (options['no-leader-election']) return undefined
  const namespace = options['lease-namespace'] ?? ownNamespace
  if (namespace !== undefined) return { namespace, name: options['lease-name'] }
  throw new UsageError(
    '--lease-namespace is missing. Outside of a Pod, name the namespace of the Lease, or give --no-leader-election.',
  )
}
