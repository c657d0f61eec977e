import { expect, test } from 'vitest'
import { checkFamilies, exposition } from '../../server/metrics/exposition.ts'
import { parseExposition, sampleValue } from '../../server/metrics/test-exposition.ts'
import { startController } from './controller.ts'
import { clientMeter, kubeFamilies } from './metrics.ts'
import { WorkQueue } from './queue.ts'

test('what is counted has the names that dashboards know', async () => {
  const queue = new WorkQueue()
  let failed = false
  const hold = Promise.withResolvers<undefined>()
  const controller = startController({
    name: 'disk',
    queue,
    workers: 2,
    reconcile: async key => {
      if (key === 'held') return hold.promise
      if (failed) return { requeueAfterMs: 1e6 }
      failed = true
      throw new Error('once')
    },
  })
  queue.add('held')
  queue.add('a')
  await expect.poll(() => controller.meter.results.requeue_after).toBe(1)
  const client = clientMeter()
  for (const code of ['200', '200', '<error>']) client.onAnswer('GET', code)
  const families = kubeFamilies({
    controllers: [controller.meter],
    client,
    host: 'api:6443',
    election: { name: 'lease', isLeader: () => true },
  })
  checkFamilies(families)
  const page = parseExposition([...exposition(families)].join(''))
  const value = (name: string, labels: Record<string, string>) => sampleValue(page, name, labels)
  expect([...page.keys()]).toEqual([
    'controller_runtime_reconcile_total',
    'controller_runtime_reconcile_errors_total',
    'controller_runtime_reconcile_time_seconds',
    'controller_runtime_active_workers',
    'controller_runtime_max_concurrent_reconciles',
    'workqueue_depth',
    'workqueue_adds_total',
    'workqueue_queue_duration_seconds',
    'workqueue_work_duration_seconds',
    'workqueue_retries_total',
    'workqueue_unfinished_work_seconds',
    'workqueue_longest_running_processor_seconds',
    'rest_client_requests_total',
    'leader_election_master_status',
  ])
  const disk = { controller: 'disk' }
  expect(value('controller_runtime_reconcile_total', { ...disk, result: 'requeue_after' })).toBe(1)
  expect(value('controller_runtime_reconcile_total', { ...disk, result: 'error' })).toBe(1)
  expect(value('controller_runtime_reconcile_errors_total', disk)).toBe(1)
  expect(value('controller_runtime_reconcile_time_seconds_count', disk)).toBe(2)
  expect(value('controller_runtime_active_workers', disk)).toBe(1)
  expect(value('controller_runtime_max_concurrent_reconciles', disk)).toBe(2)
  const name = { name: 'disk' }
  expect(value('workqueue_adds_total', name)).toBe(3)
  expect(value('workqueue_retries_total', name)).toBe(1)
  expect(value('workqueue_depth', name)).toBe(0)
  expect(value('workqueue_unfinished_work_seconds', name)).toBeGreaterThan(0)
  expect(value('workqueue_longest_running_processor_seconds', name)).toBeGreaterThan(0)
  expect(value('rest_client_requests_total', { code: '200', method: 'GET', host: 'api:6443' })).toBe(2)
  expect(value('leader_election_master_status', { name: 'lease' })).toBe(1)
  hold.resolve(undefined)
  await controller.stop()
})
