import { describe, expect, test } from 'vitest'
import { type Controller, type Reconcile, startController } from './controller.ts'
import { KubeError } from './kube-error.ts'
import { WorkQueue } from './queue.ts'

interface Line {
  readonly level: string
  readonly text: string
  readonly fields: Readonly<Record<string, unknown>>
}

function start(reconcile: Reconcile, workers = 2, timeoutMs?: number) {
  const queue = new WorkQueue()
  const lines: Line[] = []
  const write = (level: string) => (fields: Readonly<Record<string, unknown>>, text: string) =>
    void lines.push({ level, text, fields })
  const log = { error: write('error'), warn: write('warn'), info: write('info'), debug: write('debug') }
  const controller: Controller = startController({
    name: 'test',
    queue,
    workers,
    reconcile,
    log,
    ...(timeoutMs !== undefined && { timeoutMs }),
  })
  return { queue, controller, lines }
}

test('each key is worked on, by as many workers as there are, and never twice at once', async () => {
  const active = new Set<string>()
  const counts = new Map<string, number>()
  let most = 0
  const { queue, controller } = start(async key => {
    expect(active.has(key)).toBe(false)
    active.add(key)
    most = Math.max(most, active.size)
    await new Promise(resolve => setTimeout(resolve, 2))
    counts.set(key, (counts.get(key) ?? 0) + 1)
    active.delete(key)
    return undefined
  }, 3)
  for (let round = 0; round < 5; round++) {
    for (const key of 'abcdefgh') queue.add(key)
    await new Promise(resolve => setTimeout(resolve, 1))
  }
  await expect.poll(() => queue.length + queue.working.size).toBe(0)
  await controller.stop()
  expect([...counts.keys()].toSorted().join('')).toBe('abcdefgh')
  expect(most).toBe(3)
  expect(controller.meter).toMatchObject({ active: 0, workers: 3, results: { error: 0, requeue_after: 0 } })
  expect(controller.meter.times.count).toBe(controller.meter.results.success)
})

describe('what fails', () => {
  test('comes back, later each time, until it succeeds', async () => {
    const times: number[] = []
    const { queue, controller, lines } = start(async () => {
      times.push(performance.now())
      if (times.length < 4) throw new Error(`try ${times.length}`)
      return undefined
    })
    queue.add('a')
    await expect.poll(() => times.length).toBe(4)
    await expect.poll(() => queue.failures('a')).toBe(0)
    await controller.stop()
    const gaps = times.slice(1).map((time, index) => time - (times[index] ?? 0))
    expect(gaps[0]).toBeGreaterThan(4)
    expect(gaps[2]).toBeGreaterThan(19)
    expect(lines.map(({ level, fields }) => [level, fields.key, fields.failures])).toEqual([
      ['error', 'a', 1],
      ['error', 'a', 2],
      ['error', 'a', 3],
    ])
    expect(lines[0]?.fields.error).toBeInstanceOf(Error)
  })

  test.each([
    [new KubeError('Conflict', 'The object has been modified.', { status: 409 }), 'debug'],
    [new KubeError('Unreachable', 'Nobody there.'), 'warn'],
  ])('because of the world is told without a stack (%s)', async (error, level) => {
    let failed = false
    const { queue, controller, lines } = start(async () => {
      if (!failed) {
        failed = true
        throw error
      }
      return undefined
    })
    queue.add('a')
    await expect.poll(() => controller.meter.results.success).toBe(1)
    await controller.stop()
    expect(lines).toEqual([
      expect.objectContaining({
        level,
        fields: { controller: 'test', key: 'a', failures: 1, reason: error.message, code: error.code },
      }),
    ])
  })

  test('to end is aborted, and comes back', async () => {
    let calls = 0
    const { queue, controller } = start(
      async (_, signal) => {
        if (++calls > 1) return undefined
        await new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
      },
      1,
      30,
    )
    queue.add('a')
    await expect.poll(() => controller.meter.results.success).toBe(1)
    await controller.stop()
    expect(controller.meter.results.error).toBe(1)
  })
})

test('what wants to be looked at later is', async () => {
  const times: number[] = []
  const { queue, controller } = start(async () => {
    times.push(performance.now())
    return times.length < 3 ? { requeueAfterMs: 20 } : undefined
  })
  queue.add('a')
  await expect.poll(() => times.length).toBe(3)
  await expect.poll(() => controller.meter.results.success).toBe(1)
  await controller.stop()
  expect(controller.meter.results.requeue_after).toBe(2)
  expect((times[2] ?? 0) - (times[0] ?? 0)).toBeGreaterThan(38)
})

test('a stop lets work end, and aborts what does not', async () => {
  let ended = ''
  const { queue, controller, lines } = start(async (key, signal) => {
    if (key === 'short') await new Promise(resolve => setTimeout(resolve, 20))
    else await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    ended += key
    return undefined
  }, 3)
  for (const key of ['short', 'stuck', 'waiting', 'dropped']) queue.add(key)
  await expect.poll(() => queue.working.size).toBe(3)
  await controller.stop(50)
  expect(ended).toBe('short')
  expect(queue.working.size).toBe(0)
  expect(lines).toEqual([])
})
