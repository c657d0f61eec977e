import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { WorkQueue } from './queue.ts'

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
})
afterEach(() => {
  vi.useRealTimers()
})

/** Takes all keys that wait now, in their order. */
async function takeAll(queue: WorkQueue): Promise<string[]> {
  const keys: string[] = []
  while (queue.length > 0) keys.push((await queue.take()) ?? '')
  return keys
}

describe('order', () => {
  test('a key stands in the queue once, at its first place', async () => {
    const queue = new WorkQueue()
    for (const key of ['a', 'b', 'a', 'c', 'b']) queue.add(key)
    expect(await takeAll(queue)).toEqual(['a', 'b', 'c'])
    expect(queue.meter.adds).toBe(3)
  })

  test('news goes before what is looked at once more', async () => {
    const queue = new WorkQueue()
    for (const key of ['old1', 'old2', 'old3']) queue.add(key, 'low')
    queue.add('new')
    queue.add('old2')
    queue.add('new', 'low')
    expect(await takeAll(queue)).toEqual(['new', 'old2', 'old1', 'old3'])
  })

  test('a key that is worked on comes back after that, once', async () => {
    const queue = new WorkQueue()
    queue.add('a')
    expect(await queue.take()).toBe('a')
    queue.add('a')
    queue.add('a', 'low')
    expect(queue.length).toBe(0)
    queue.done('a')
    expect(await takeAll(queue)).toEqual(['a'])
    queue.done('a')
    expect(queue.length).toBe(0)
  })

  test('who waits gets the next key, in the order of asking', async () => {
    const queue = new WorkQueue()
    const both = [queue.take(), queue.take()]
    queue.add('a')
    queue.add('b')
    expect(await Promise.all(both)).toEqual(['a', 'b'])
  })
})

describe('time', () => {
  test('a delayed key comes at its time, the earliest that was asked for', async () => {
    const queue = new WorkQueue()
    queue.addAfter('a', 1000)
    queue.addAfter('b', 500)
    queue.addAfter('a', 200)
    queue.addAfter('a', 300)
    expect(queue.delayed).toBe(2)
    await vi.advanceTimersByTimeAsync(199)
    expect(queue.length).toBe(0)
    await vi.advanceTimersByTimeAsync(1)
    expect(await takeAll(queue)).toEqual(['a'])
    queue.done('a')
    await vi.advanceTimersByTimeAsync(5000)
    expect(await takeAll(queue)).toEqual(['b'])
    expect(queue.delayed).toBe(0)
  })

  test('failures double the delay from 5 ms to 1000 s, each key its own', async () => {
    const queue = new WorkQueue()
    let expected = 5
    for (let failure = 0; failure < 25; failure++) {
      queue.retry('a')
      await vi.advanceTimersByTimeAsync(expected - 1)
      expect(queue.length, `failure ${failure}`).toBe(0)
      await vi.advanceTimersByTimeAsync(1)
      expect(await takeAll(queue)).toEqual(['a'])
      queue.done('a')
      expected = Math.min(expected * 2, 1_000_000)
    }
    expect(queue.failures('a')).toBe(25)
    queue.retry('b')
    await vi.advanceTimersByTimeAsync(5)
    expect(await takeAll(queue)).toEqual(['b'])
    queue.forget('a')
    queue.retry('a')
    await vi.advanceTimersByTimeAsync(5)
    expect(await takeAll(queue)).toEqual(['a'])
    expect(queue.meter.retries).toBe(27)
  })

  test('one timer serves any number of keys', async () => {
    const queue = new WorkQueue()
    for (let n = 0; n < 1000; n++) queue.addAfter(`k${(n * 7919) % 1000}`, 1 + ((n * 7919) % 1000))
    expect(vi.getTimerCount()).toBe(1)
    const seen: string[] = []
    while (seen.length < 1000) {
      await vi.advanceTimersByTimeAsync(1)
      seen.push(...(await takeAll(queue)))
    }
    expect(seen).toEqual(Array.from({ length: 1000 }, (_, n) => `k${n}`))
    expect(vi.getTimerCount()).toBe(0)
  })

  test('how long keys wait and are worked on is counted', async () => {
    const queue = new WorkQueue()
    queue.add('a')
    vi.advanceTimersByTime(2000)
    await queue.take()
    vi.advanceTimersByTime(3000)
    expect([...queue.working]).toEqual([['a', performance.now() - 3000]])
    queue.done('a')
    expect([queue.meter.waits.sum, queue.meter.works.sum]).toEqual([2, 3])
  })
})

describe('drain', () => {
  test('waits for work that is under way, and drops the rest', async () => {
    const queue = new WorkQueue()
    for (const key of ['a', 'b', 'c']) queue.add(key)
    queue.addAfter('d', 10)
    await queue.take()
    await queue.take()
    queue.add('a')
    let drained = false
    const draining = queue.drain().then(() => {
      drained = true
    })
    queue.done('a')
    queue.retry('a')
    await vi.advanceTimersByTimeAsync(100)
    expect(drained).toBe(false)
    queue.done('b')
    await draining
    expect(await queue.take()).toBeUndefined()
    expect([queue.length, queue.delayed, vi.getTimerCount()]).toEqual([0, 0, 0])
  })

  test('those who wait for a key are let go', async () => {
    const queue = new WorkQueue()
    const waiting = queue.take()
    await queue.drain()
    expect(await waiting).toBeUndefined()
    queue.add('a')
    expect(await queue.take()).toBeUndefined()
  })
})

test('no key is lost, worked on twice at once or taken without having been added', async () => {
  const key = fc.constantFrom('a', 'b', 'c')
  const step = fc.oneof(
    { weight: 4, arbitrary: fc.record({ do: fc.constant('add' as const), key, low: fc.boolean() }) },
    {
      weight: 2,
      arbitrary: fc.record({ do: fc.constant('after' as const), key, ms: fc.integer({ min: 0, max: 50 }) }),
    },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('retry' as const), key }) },
    { weight: 4, arbitrary: fc.record({ do: fc.constant('take' as const) }) },
    { weight: 4, arbitrary: fc.record({ do: fc.constant('done' as const), key }) },
    {
      weight: 2,
      arbitrary: fc.record({ do: fc.constant('time' as const), ms: fc.integer({ min: 0, max: 30 }) }),
    },
  )
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async steps => {
      const queue = new WorkQueue()
      /** Keys that somebody wants to be worked on now, and those that are wanted later, from when on. */
      const wanted = new Set<string>()
      const later = new Map<string, number>()
      const working = new Set<string>()
      const want = (name: string, ms: number) => {
        if (ms === 0) wanted.add(name)
        else later.set(name, Math.min(later.get(name) ?? Number.POSITIVE_INFINITY, performance.now() + ms))
      }
      const pass = async (ms: number) => {
        await vi.advanceTimersByTimeAsync(ms)
        for (const [name, at] of later) {
          if (at > performance.now()) continue
          later.delete(name)
          wanted.add(name)
        }
      }
      const take = async () => {
        const name = (await queue.take()) ?? ''
        expect(working.has(name)).toBe(false)
        expect([...wanted]).toContain(name)
        working.add(name)
        wanted.delete(name)
      }
      for (const step of steps) {
        if (step.do === 'add') {
          want(step.key, 0)
          queue.add(step.key, step.low ? 'low' : 'news')
        } else if (step.do === 'after') {
          want(step.key, step.ms)
          queue.addAfter(step.key, step.ms)
        } else if (step.do === 'retry') {
          want(step.key, 5 * 2 ** queue.failures(step.key))
          queue.retry(step.key)
        } else if (step.do === 'take') {
          if (queue.length > 0) await take()
        } else if (step.do === 'done') {
          if (working.delete(step.key)) queue.done(step.key)
        } else {
          await pass(step.ms)
        }
        expect(new Set(queue.working.keys())).toEqual(working)
      }
      // In the end all that is wanted is worked on.
      for (const name of [...working]) queue.done(name)
      working.clear()
      await pass(2_000_000)
      const last = await takeAll(queue)
      expect(last.toSorted()).toEqual([...wanted].toSorted())
      await Promise.all([queue.drain(), ...last.map(async name => queue.done(name))])
    }),
    { numRuns: 200 },
  )
})
