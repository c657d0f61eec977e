import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { CMD } from '../protocol/constants.ts'
import { measureEventLoopDelay } from './event-loop-delay.ts'
import { ExportMeters, MAX_EXPORT_LABELS, OTHER_EXPORTS } from './export-meter.ts'
import { checkFamilies, exposition, type Family } from './exposition.ts'
import { processFamilies } from './process-families.ts'
import {
  CREATION_RESULTS,
  HANDSHAKE_RESULTS,
  REFUSAL_REASONS,
  ServerMetrics,
  serverFamilies,
} from './server-metrics.ts'
import { parseExposition, sampleValue } from './test-exposition.ts'
import { TrafficRecorder } from './traffic-recorder.ts'

const sources = { version: '1.2.3', queueLength: () => 7 }

function allFamilies(metrics = new ServerMetrics()): Family[] {
  const delay = measureEventLoopDelay()
  delay.close()
  return [...serverFamilies(metrics), ...processFamilies(sources), delay.family]
}

const scrape = (metrics: ServerMetrics) => parseExposition([...exposition(allFamilies(metrics))].join(''))

describe('docs/metrics.md', () => {
  const page = readFileSync(`${import.meta.dirname}/../../docs/metrics.md`, 'utf8')
  const rows = [...page.matchAll(/^\| `([a-z_]+)` \| (\w+) \|(.*?)\| (.+) \|$/gm)]

  test('lists every metric with its type and its labels, and no other', () => {
    const listed = rows.map(([, name, type, labels = '']) => ({
      name,
      type,
      labels: [...labels.matchAll(/`(\w+)`/g)].map(([, label]) => label),
    }))
    const known = allFamilies().map(({ name, type, labels }) => ({ name, type, labels: [...labels] }))
    const byName = (one: { name?: string | undefined }, other: { name?: string | undefined }) =>
      String(one.name).localeCompare(String(other.name))
    expect(listed.toSorted(byName)).toEqual(known.toSorted(byName))
  })

  test.each([
    ['ondemand_disk_refusals_total', REFUSAL_REASONS],
    ['ondemand_disk_handshakes_total', HANDSHAKE_RESULTS],
    ['ondemand_disk_creations_total', CREATION_RESULTS],
  ])('names all values of the label of %s', (name, values) => {
    const [, section = ''] = page.split(`## \`${name}\``)
    const [text = ''] = section.split('\n## ', 1)
    expect([...text.matchAll(/^\| `(\w+)` \|/gm)].map(([, value]) => value)).toEqual([...values])
  })
})

describe('the page', () => {
  test('is well-formed from the first moment, with all counters at zero', () => {
    checkFamilies(allFamilies())
    const parsed = scrape(new ServerMetrics())
    for (const reason of REFUSAL_REASONS)
      expect(sampleValue(parsed, 'ondemand_disk_refusals_total', { reason })).toBe(0)
    expect(sampleValue(parsed, 'ondemand_disk_creation_duration_seconds_count')).toBe(0)
  })

  test('tells what the fields say at that moment', () => {
    const metrics = new ServerMetrics()
    const families = allFamilies(metrics)
    metrics.connections = 3
    metrics.accepted = 5
    metrics.refusals.busy = 2
    metrics.handshakes.opened = 4
    metrics.tlsHandshakes.failed = 6
    metrics.creations.made = 8
    metrics.creationSeconds.observe(0.3, 8)
    const parsed = parseExposition([...exposition(families)].join(''))
    const value = (name: string, labels = {}) => sampleValue(parsed, `ondemand_disk_${name}`, labels)
    expect(value('connections')).toBe(3)
    expect(value('connections_total')).toBe(5)
    expect(value('refusals_total', { reason: 'busy' })).toBe(2)
    expect(value('handshakes_total', { result: 'opened' })).toBe(4)
    expect(value('tls_handshakes_total', { result: 'failed' })).toBe(6)
    expect(value('creations_total', { result: 'made' })).toBe(8)
    expect(value('creation_duration_seconds_bucket', { le: '0.5' })).toBe(8)
    expect(value('creation_duration_seconds_bucket', { le: '0.25' })).toBe(0)
    expect(value('thread_pool_queue_length')).toBe(7)
    expect(value('build_info', { version: '1.2.3' })).toBe(1)
  })

  test('says of the process what the kernel says', () => {
    const parsed = scrape(new ServerMetrics())
    expect(sampleValue(parsed, 'process_resident_memory_bytes')).toBeGreaterThan(2 ** 24)
    expect(sampleValue(parsed, 'process_cpu_seconds_total')).toBeGreaterThan(0)
    expect(sampleValue(parsed, 'process_open_fds')).toBeGreaterThan(3)
    expect(sampleValue(parsed, 'process_max_fds')).toBeGreaterThan(sampleValue(parsed, 'process_open_fds'))
    const age = Date.now() / 1000 - sampleValue(parsed, 'process_start_time_seconds')
    expect(age).toBeGreaterThan(0)
    expect(age).toBeLessThan(3600)
  })
})

test('the labels of exports are bounded, and what has none is counted together', () => {
  const meters = new ExportMeters()
  for (let index = 0; index < MAX_EXPORT_LABELS + 50; index++) meters.of(`disk-${index}`).connections++
  meters.of('disk-0').connections++
  const labels = [...meters].map(([label]) => label)
  expect(labels).toHaveLength(MAX_EXPORT_LABELS + 1)
  expect(labels.at(-1)).toBe(OTHER_EXPORTS)
  expect(Object.fromEntries([...meters].map(([label, meter]) => [label, meter.connections]))).toMatchObject({
    'disk-0': 2,
    [`disk-${MAX_EXPORT_LABELS - 1}`]: 1,
    [OTHER_EXPORTS]: 50,
  })
})

test('an export of the name of the common label does not stand there twice', () => {
  const metrics = new ServerMetrics()
  metrics.exports.of(OTHER_EXPORTS).connections++
  metrics.exports.of('x').connections++
  expect(sampleValue(scrape(metrics), 'ondemand_disk_export_connections', { export: OTHER_EXPORTS })).toBe(1)
})

describe('a recorder', () => {
  const request = {
    type: CMD.READ,
    length: 4096,
    get startedAt() {
      return performance.now() - 2000
    },
    refusal: 0,
    error: undefined,
  }

  const about = { export: 'a "quoted" disk', command: 'read' }

  function recorded(work: (recorder: TrafficRecorder) => void) {
    const metrics = new ServerMetrics()
    work(new TrafficRecorder(metrics.exports.of(about.export)))
    return scrape(metrics)
  }

  test('tells requests of one turn together, all with the time that the turn took', () => {
    const parsed = recorded(recorder => {
      const start = recorder.beginTurn()
      for (let index = 0; index < 10; index++) recorder.read(4096)
      recorder.wrote(512)
      while (performance.now() < start + 3);
      recorder.settle()
      recorder.settle()
    })
    const value = (name: string, labels = {}) =>
      sampleValue(parsed, `ondemand_disk_${name}`, { export: about.export, ...labels })
    expect(value('requests_total', { command: 'read' })).toBe(10)
    expect(value('requests_total', { command: 'write' })).toBe(1)
    expect(value('read_bytes_total')).toBe(40_960)
    expect(value('written_bytes_total')).toBe(512)
    expect(value('request_duration_seconds_bucket', { command: 'read', le: '0.0025' })).toBe(0)
    expect(value('request_duration_seconds_sum', { command: 'read' })).toBeGreaterThanOrEqual(0.03)
    expect(value('request_errors_total', { command: 'read' })).toBe(0)
  })

  test('tells requests that end later with their own times, and bytes of those only that succeed', () => {
    const parsed = recorded(recorder => {
      recorder.answered({ ...request, type: CMD.READ, length: 4096, startedAt: performance.now() })
      recorder.answered({ ...request, type: CMD.READ, length: 4096, error: new Error() })
      recorder.answered({ ...request, type: CMD.WRITE, length: 100 })
      recorder.answered({ ...request, type: CMD.WRITE, length: 100, refusal: 28 })
      recorder.answered({ ...request, type: CMD.TRIM, length: 2 ** 30 })
      recorder.throttled(1500)
    })
    const value = (name: string, labels = {}) =>
      sampleValue(parsed, `ondemand_disk_${name}`, { export: about.export, ...labels })
    expect(value('requests_total', { command: 'read' })).toBe(2)
    expect(value('request_errors_total', { command: 'read' })).toBe(1)
    expect(value('requests_total', { command: 'write' })).toBe(2)
    expect(value('request_errors_total', { command: 'write' })).toBe(1)
    expect(value('request_duration_seconds_bucket', { command: 'read', le: '1' })).toBe(1)
    expect(value('request_duration_seconds_bucket', { command: 'read', le: '2.5' })).toBe(2)
    expect(value('request_duration_seconds_sum', { command: 'read' })).toBeCloseTo(2, 0)
    expect(value('read_bytes_total')).toBe(4096)
    expect(value('written_bytes_total')).toBe(100)
    expect(value('requests_total', { command: 'trim' })).toBe(1)
    expect(value('throttled_seconds_total')).toBe(1.5)
  })

  test.each([[8], [77], [65_535], [CMD.DISC]])('counts command %i as unknown', type => {
    const parsed = recorded(recorder => recorder.answered({ ...request, type, refusal: 22 }))
    expect(sampleValue(parsed, 'ondemand_disk_request_errors_total', { command: 'unknown' })).toBe(1)
    expect(parsed.get('ondemand_disk_requests_total')?.samples).toHaveLength(1)
  })
})
