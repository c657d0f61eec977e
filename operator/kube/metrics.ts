/** What an operator counts, under the names that controller-runtime and client-go gave these things. */
import type { Family, Sample } from '../../server/metrics/exposition.ts'
import type { ControllerMeter } from './controller.ts'

/** What is counted of the requests to the API server. */
export interface ClientMeter {
  /** To be given to `createClient`. */
  readonly onAnswer: (method: string, code: string) => void
  readonly counts: ReadonlyMap<string, number>
}

/** Counts requests by code and method. */
export function clientMeter(): ClientMeter {
  const counts = new Map<string, number>()
  return {
    counts,
    onAnswer(method, code) {
      const key = `${code} ${method}`
      counts.set(key, (counts.get(key) ?? 0) + 1)
    },
  }
}

export interface KubeMeters {
  readonly controllers: readonly ControllerMeter[]
  readonly client: ClientMeter
  /** Host of the API server. */
  readonly host: string
  /** Name of the Lease, and whether this candidate leads by it now. */
  readonly election?: { readonly name: string; readonly isLeader: () => boolean }
}

/** Families for a `/metrics` page. */
export function kubeFamilies({ controllers, client, host, election }: KubeMeters): Family[] {
  const now = () => performance.now()
  const each = (value: (meter: ControllerMeter) => Sample['value']) => () =>
    controllers.map(meter => ({ labels: [meter.name], value: value(meter) }))
  const ages = ({ queue }: ControllerMeter) =>
    [...queue.working.values()].map(since => (now() - since) / 1000)
  const family = (
    name: string,
    type: Family['type'],
    labels: readonly string[],
    help: string,
    samples: () => Iterable<Sample>,
  ): Family => ({ name, type, labels, help, samples })

  return [
    family(
      'controller_runtime_reconcile_total',
      'counter',
      ['controller', 'result'],
      'Reconciliations by how they ended.',
      () =>
        controllers.flatMap(({ name, results }) =>
          Object.entries(results).map(([result, value]) => ({ labels: [name, result], value })),
        ),
    ),
    family(
      'controller_runtime_reconcile_errors_total',
      'counter',
      ['controller'],
      'Reconciliations that failed.',
      each(({ results }) => results.error),
    ),
    family(
      'controller_runtime_reconcile_time_seconds',
      'histogram',
      ['controller'],
      'How long a reconciliation takes.',
      each(({ times }) => times),
    ),
    family(
      'controller_runtime_active_workers',
      'gauge',
      ['controller'],
      'Workers that reconcile now.',
      each(({ active }) => active),
    ),
    family(
      'controller_runtime_max_concurrent_reconciles',
      'gauge',
      ['controller'],
      'Workers that there are.',
      each(({ workers }) => workers),
    ),
    family(
      'workqueue_depth',
      'gauge',
      ['name'],
      'Keys that wait for a worker.',
      each(({ queue }) => queue.length),
    ),
    family(
      'workqueue_adds_total',
      'counter',
      ['name'],
      'Keys that were added.',
      each(({ queue }) => queue.meter.adds),
    ),
    family(
      'workqueue_queue_duration_seconds',
      'histogram',
      ['name'],
      'How long a key waits for a worker.',
      each(({ queue }) => queue.meter.waits),
    ),
    family(
      'workqueue_work_duration_seconds',
      'histogram',
      ['name'],
      'How long a key is worked on.',
      each(({ queue }) => queue.meter.works),
    ),
    family(
      'workqueue_retries_total',
      'counter',
      ['name'],
      'Keys that came back because their work failed.',
      each(({ queue }) => queue.meter.retries),
    ),
    family(
      'workqueue_unfinished_work_seconds',
      'gauge',
      ['name'],
      'How long the work that is under way has taken, all of it together.',
      each(meter => ages(meter).reduce((sum, age) => sum + age, 0)),
    ),
    family(
      'workqueue_longest_running_processor_seconds',
      'gauge',
      ['name'],
      'How long the oldest work that is under way has taken.',
      each(meter => Math.max(0, ...ages(meter))),
    ),
    family(
      'rest_client_requests_total',
      'counter',
      ['code', 'method', 'host'],
      'Requests to the API server by answer.',
      () =>
        [...client.counts].map(([key, value]) => {
          const [code = '', method = ''] = key.split(' ')
          return { labels: [code, method, host], value }
        }),
    ),
    ...(election
      ? [
          family(
            'leader_election_master_status',
            'gauge',
            ['name'],
            'Whether this candidate leads: 1 or 0.',
            () => [{ labels: [election.name], value: election.isLeader() ? 1 : 0 }],
          ),
        ]
      : []),
  ]
}
