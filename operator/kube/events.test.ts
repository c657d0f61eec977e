import { expect, test } from 'vitest'
import { createClient } from './client.ts'
import { startEventRecorder } from './events.ts'
import type { KubeObject } from './objects.ts'
import { TestApi } from './test-api.ts'

const disk = (name: string, uid = name): KubeObject => ({
  apiVersion: 'ondemanddisk.dev/v1alpha1',
  kind: 'OnDemandDisk',
  metadata: { name, namespace: 'a', uid, resourceVersion: '5' },
})
const note = { type: 'Warning', reason: 'FormatFailed', message: 'mkfs: No space left.' } as const

function setUp() {
  const api = new TestApi()
  const lines: string[] = []
  const warnings: string[] = []
  let time = Date.parse('2026-11-20T10:00:00Z')
  const log = {
    error: (_: object, text: string) => lines.push(text),
    warn: (_: object, text: string) => {
      lines.push(text)
      warnings.push(text)
    },
    info: () => {},
    debug: (_: object, text: string) => lines.push(text),
  }
  const recorder = startEventRecorder({
    client: createClient({ transport: api.transport }),
    component: 'test-operator',
    instance: 'pod-1',
    log,
    now: () => time,
  })
  return {
    api,
    lines,
    warnings,
    recorder,
    pass: (ms: number) => {
      time += ms
    },
  }
}

// A label of the event's name ended with a dash, and no API server took it.
test.each(['-', '.'])(
  'an event of an object with a long name is one, also where the cut is behind a %j',
  async sign => {
    const { api, recorder } = setUp()
    recorder.record(disk(`${'a'.repeat(229)}${sign}bcd`), note)
    await recorder.flush()
    const [name = ''] = api.objects.map(({ metadata }) => metadata.name)
    expect(name).toMatch(/^a{229}\.[0-9a-f]{16}$/)
  },
)

test('an event says what happened to what', async () => {
  const { api, recorder } = setUp()
  recorder.record(disk('d'), note)
  await recorder.flush()
  expect(api.objects).toMatchObject([
    {
      apiVersion: 'v1',
      kind: 'Event',
      metadata: { namespace: 'a', name: expect.stringMatching(/^d\.[0-9a-f]{16}$/) },
      involvedObject: { kind: 'OnDemandDisk', name: 'd', namespace: 'a', uid: 'd', resourceVersion: '5' },
      ...note,
      count: 1,
      firstTimestamp: '2026-11-20T10:00:00Z',
      lastTimestamp: '2026-11-20T10:00:00Z',
      source: { component: 'test-operator' },
      reportingComponent: 'test-operator',
      reportingInstance: 'pod-1',
    },
  ])
})

test('the same event again is counted, another one is another, and one of long ago is forgotten', async () => {
  const { api, recorder, pass } = setUp()
  for (let n = 0; n < 5; n++) {
    recorder.record(disk('d'), note)
    pass(60_000)
  }
  recorder.record(disk('d'), { ...note, message: 'mkfs: Killed.' })
  recorder.record(disk('d', 'another uid'), note)
  await recorder.flush()
  expect(api.objects).toHaveLength(3)
  expect(api.objects[0]).toMatchObject({ count: 5, firstTimestamp: '2026-11-20T10:00:00Z' })
  pass(3_600_000)
  recorder.record(disk('d'), note)
  await recorder.flush()
  expect(api.objects).toHaveLength(4)
})

test('an event that has passed away is written anew', async () => {
  const { api, recorder } = setUp()
  recorder.record(disk('d'), note)
  await recorder.flush()
  api.remove(api.objects[0]?.metadata.name ?? '', 'a')
  recorder.record(disk('d'), note)
  await recorder.flush()
  expect(api.objects).toMatchObject([{ count: 1 }])
})

test('one object cannot flood the server, and others are heard all the same', async () => {
  const { api, recorder, lines, pass } = setUp()
  for (let n = 0; n < 100; n++) recorder.record(disk('loud'), { ...note, message: `Try ${n}.` })
  recorder.record(disk('quiet'), note)
  await recorder.flush()
  expect(api.objects).toHaveLength(26)
  expect(lines).toHaveLength(75)
  pass(300_000)
  recorder.record(disk('loud'), { ...note, message: 'Later.' })
  recorder.record(disk('loud'), { ...note, message: 'Too soon.' })
  await recorder.flush()
  expect(api.objects).toHaveLength(27)
})

test('events that cannot be written are logged and hurt nobody', async () => {
  const { api, recorder, lines } = setUp()
  api.faults = [{ kind: 'refuse' }, { kind: 'status', status: 403 }]
  for (let n = 0; n < 3; n++) recorder.record(disk(`d${n}`), note)
  await recorder.flush()
  expect(api.objects).toHaveLength(1)
  expect(lines).toEqual(['An event cannot be written', 'An event cannot be written'])
})

test('nobody is told of events in a namespace that is going', async () => {
  const { api, recorder, warnings } = setUp()
  const body = {
    kind: 'Status',
    reason: 'Forbidden',
    message: 'unable to create new content in namespace a because it is being terminated',
  }
  api.faults = [
    { kind: 'status', status: 403, body },
    { kind: 'status', status: 404, body: { kind: 'Status', reason: 'NotFound' } },
  ]
  for (let n = 0; n < 2; n++) recorder.record(disk(`d${n}`), note)
  await recorder.flush()
  expect([api.objects, warnings]).toEqual([[], []])
})

test('long names and messages fit', async () => {
  const { api, recorder } = setUp()
  recorder.record(disk('n'.repeat(253)), { ...note, message: 'ü'.repeat(2000) })
  const cluster = { apiVersion: 'v1', kind: 'Node', metadata: { name: 'node1' } }
  recorder.record(cluster, note)
  await recorder.flush()
  const [event, ofNode] = api.objects as (KubeObject & { readonly message: string })[]
  expect(event?.metadata.name.length).toBeLessThanOrEqual(253)
  expect(Buffer.byteLength(event?.message ?? '')).toBeLessThanOrEqual(1024)
  expect(event?.message).toMatch(/^ü+…$/)
  expect(ofNode?.metadata.namespace).toBe('default')
})
