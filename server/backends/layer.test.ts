import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { type Backend, type Completion, PENDING } from './backend.ts'
import { ABORT_GRACE_MS, MAX_UNANSWERED } from './layer/answers.ts'
import { AbandonedError, UnfinishedError } from './layer/errors.ts'
import { context, opened, operation, pwrite, smallBackend } from './layer/test-operation.ts'
import { DEFAULT_LIMITS, fillIn } from './layer.ts'

const never = () => new Promise<never>(() => {})

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
})
afterEach(() => {
  vi.useRealTimers()
})

function filling<Inner>(backend: Backend<Inner>) {
  const problems: string[] = []
  const onProblem = (problem: Error) => problems.push(problem.message)
  return { filled: fillIn(backend, { readOnly: false, onProblem }), problems }
}

/** What a promise comes to, while the clock is put forward. */
async function outcomeOf(promise: Promise<unknown>, ms: number): Promise<unknown> {
  const outcome = promise.catch((error: unknown) => error)
  const marker = Symbol('still waiting')
  await vi.advanceTimersByTimeAsync(ms - 1)
  expect(await Promise.race([outcome, Promise.resolve(marker)])).toBe(marker)
  await vi.advanceTimersByTimeAsync(1)
  return outcome
}

describe('Opening', () => {
  test('tells the backend whether it may be written', async () => {
    const told: boolean[] = []
    const backend = smallBackend({
      open(_, { readOnly }) {
        told.push(readOnly)
        return Buffer.alloc(1)
      },
    })
    await opened(backend)
    await opened(backend, { readOnly: true })
    await opened(backend, { openReadOnly: true })
    expect(told).toEqual([false, true, true])
  })

  test('fails with the very error of the backend, if it has a code', async () => {
    class Refusal extends Error {
      readonly code = 'EBUSY'
    }
    const refusal = new Refusal()
    const open = () => {
      throw refusal
    }
    await expect(opened(smallBackend({ open }))).rejects.toBe(refusal)
    const unknown = async () => {
      throw undefined
    }
    await expect(opened(smallBackend({ open: unknown }))).rejects.toMatchObject({
      code: 'EIO',
      message: "The backend's open failed without a reason",
    })
  })

  test('closes the disk if the backend cannot tell its size', async () => {
    const order: string[] = []
    const backend = smallBackend({
      async getSize() {
        throw new Error('unknown')
      },
      async close() {
        await Promise.resolve()
        order.push('closed')
        throw new Error('not closed')
      },
    })
    const { filled, problems } = filling(backend)
    await expect(filled.open('x', context())).rejects.toThrow('getSize failed: unknown')
    expect(order).toEqual(['closed'])
    expect(problems).toEqual(["The backend's close failed: not closed"])
  })

  test('that never ends is given up, and closed if it does', async () => {
    const closed: Buffer[] = []
    const late = Promise.withResolvers<Buffer>()
    const { filled } = filling(
      smallBackend({ open: () => late.promise, close: disk => void closed.push(disk) }),
    )
    expect(await outcomeOf(filled.open('x', context()), DEFAULT_LIMITS.openMs)).toMatchObject({
      code: 'ETIMEDOUT',
      message: "The backend's open gave no answer within 600 s",
    })
    const disk = Buffer.alloc(1)
    late.resolve(disk)
    await vi.advanceTimersByTimeAsync(1)
    expect(closed).toEqual([disk])
  })

  test('may take for ever if it is told so', async () => {
    const openMs = Number.POSITIVE_INFINITY
    const late = Promise.withResolvers<Buffer>()
    const backend = smallBackend({ open: () => late.promise })
    const filled = fillIn(backend, { readOnly: false, onProblem() {}, limits: { openMs } })
    const open = filled.open('x', context())
    await vi.advanceTimersByTimeAsync(10 ** 9)
    late.resolve(Buffer.alloc(7))
    expect(filled.getSize(await open)).toBe(7)
  })

  test('is given up soon after the client has left', async () => {
    const controller = new AbortController()
    const late = Promise.withResolvers<Buffer>()
    let closed = 0
    const { filled, problems } = filling(
      smallBackend({ open: () => late.promise, close: () => void closed++ }),
    )
    const open = filled.open('x', context({ signal: controller.signal }))
    await vi.advanceTimersByTimeAsync(1000)
    const gone = new Error('gone')
    controller.abort(gone)
    expect(await outcomeOf(open, ABORT_GRACE_MS)).toBe(gone)
    late.resolve(Buffer.alloc(1))
    await vi.advanceTimersByTimeAsync(1)
    expect({ closed, problems }).toEqual({ closed: 1, problems: [] })
  })

  test('may end in its own way after the client has left', async () => {
    const controller = new AbortController()
    const stopped = Object.assign(new Error('stopped'), { code: 'ECANCELED' })
    const open = (_: string, { signal }: { signal: AbortSignal }) =>
      new Promise<Buffer>((_resolve, reject) => signal.addEventListener('abort', () => reject(stopped)))
    const { filled } = filling(smallBackend({ open }))
    const result = filled.open('x', context({ signal: controller.signal }))
    controller.abort()
    await expect(result).rejects.toBe(stopped)
    expect(vi.getTimerCount()).toBe(0)
  })

  test('whose getSize never ends is given up; the disk is closed when it does', async () => {
    const late = Promise.withResolvers<number>()
    let closed = 0
    const { filled } = filling(smallBackend({ getSize: () => late.promise, close: () => void closed++ }))
    expect(await outcomeOf(filled.open('x', context()), DEFAULT_LIMITS.answerMs)).toMatchObject({
      message: "The backend's getSize gave no answer within 30 s",
    })
    expect(closed).toBe(0)
    late.reject(new Error('after all'))
    await vi.advanceTimersByTimeAsync(1)
    expect(closed).toBe(1)
  })

  test('is no longer tried where too many answers are owed, until one comes', async () => {
    const late = Promise.withResolvers<Buffer>()
    let calls = 0
    const backend = smallBackend({
      open() {
        calls++
        return late.promise
      },
    })
    const { filled } = filling(backend)
    const all = Array.from({ length: MAX_UNANSWERED }, () => filled.open('x', context()).catch(() => {}))
    await vi.advanceTimersByTimeAsync(DEFAULT_LIMITS.openMs)
    await Promise.all(all)
    await expect(filled.open('x', context())).rejects.toThrow('The backend owes 1000 answers')
    expect(calls).toBe(MAX_UNANSWERED)
    late.resolve(Buffer.alloc(1))
    await vi.advanceTimersByTimeAsync(1)
    await filled.open('x', context())
  })
})

describe('Questions without a disk', () => {
  const asking = (more: Partial<Backend<Buffer>>) => filling(smallBackend(more)).filled

  test('have answers where the backend has none', async () => {
    const filled = asking({})
    expect(await filled.listExports()).toEqual([])
    expect(await filled.defaultExport()).toBe('')
    expect(await filled.probe('x')).toBeUndefined()
  })

  test('are passed on', async () => {
    const asked: unknown[] = []
    const filled = asking({
      listExports: async () => ['b', '', 'a'],
      defaultExport: () => 'b',
      probe: async (name, size) => {
        asked.push([name, size])
        return name === 'b' ? { size: 5 } : undefined
      },
    })
    expect(await filled.listExports()).toEqual(['b', '', 'a'])
    expect(await filled.defaultExport()).toBe('b')
    expect(await filled.probe('b', 7)).toMatchObject({ size: 5 })
    expect(await filled.probe('c')).toBeUndefined()
    expect(asked).toEqual([
      ['b', 7],
      ['c', undefined],
    ])
  })

  test('for the empty name are for what it stands for', async () => {
    const names: string[] = []
    const open = (name: string) => {
      names.push(name)
      return Buffer.alloc(1)
    }
    const probe = (name: string) => {
      names.push(name)
      return undefined
    }
    for (const defaultExport of [undefined, () => 'main', async () => 'main']) {
      const filled = asking({ open, probe, ...(defaultExport && { defaultExport }) })
      for (const name of ['', 'other']) {
        await filled.probe(name)
        await filled.open(name, context())
      }
    }
    const expected = (empty: string) => [empty, empty, 'other', 'other']
    expect(names).toEqual([...expected(''), ...expected('main'), ...expected('main')])
  })

  test('get no names that no client could ask for', async () => {
    const names = ['a\0b', 'x'.repeat(4097), 'ü'.repeat(2048), ...Array(10_050).fill('a')]
    const listed = await asking({ listExports: () => names }).listExports()
    expect(listed).toHaveLength(10_000)
    expect(listed[0]).toBe('ü'.repeat(2048))
  })

  test('get names with and without a description, and nothing else that is with them', async () => {
    const told = ['a', { name: 'b', description: 'B.' }, { name: 'c', description: undefined, more: 1 }]
    const listed = await asking({ listExports: () => told as never }).listExports()
    expect(listed).toEqual(['a', { name: 'b', description: 'B.' }, 'c'])
  })

  test.each([
    ['listExports', 'a', 'listExports returned "a", not a list of names'],
    ['listExports', ['a', 5], 'listExports told of 5, which is not a name'],
    ['listExports', [undefined], 'listExports told of nothing, which is not a name'],
    ['listExports', [{ name: 5 }], 'which is not a name'],
    [
      'listExports',
      [{ name: 'a', description: 5 }],
      'listExports gave 5 for a description, which is no text',
    ],
    ['probe', { size: 1, description: 'a\0b' }, 'for a description, which is no text'],
    ['defaultExport', 5, 'defaultExport returned 5, not a name'],
    ['probe', null, 'probe told a size of nothing'],
    ['probe', { size: -1 }, 'probe told a size of -1'],
  ] as const)('get no nonsense from %s: %j', async (callback, value, message) => {
    for (const answer of [() => value, async () => value]) {
      const filled = asking({ [callback]: answer } as Partial<Backend<Buffer>>)
      await expect(filled[callback]('x')).rejects.toMatchObject({
        code: 'EIO',
        message: expect.stringContaining(message),
      })
    }
  })

  test.each(['listExports', 'defaultExport', 'probe'] as const)(
    'do not wait for ever for %s',
    async callback => {
      const filled = asking({ [callback]: never })
      expect(await outcomeOf(filled[callback]('x'), DEFAULT_LIMITS.answerMs)).toMatchObject({
        code: 'ETIMEDOUT',
        message: `The backend's ${callback} gave no answer within 30 s`,
      })
    },
  )
})

describe('Closing', () => {
  test('passes the failure on, and happens once', async () => {
    let closed = 0
    const { filled, handle } = await opened(
      smallBackend({
        async close() {
          closed++
          throw new Error('stuck')
        },
      }),
    )
    const first = filled.close(handle)
    await expect(first).rejects.toMatchObject({ code: 'EIO', message: "The backend's close failed: stuck" })
    await expect(filled.close(handle)).rejects.toThrow('stuck')
    expect(closed).toBe(1)
  })

  test('calls the backend at once', async () => {
    let closed = 0
    const { filled, handle } = await opened(smallBackend({ close: () => void closed++ }))
    const closing = filled.close(handle)
    expect(closed).toBe(1)
    await closing
    expect(vi.getTimerCount()).toBe(0)
  })

  test('lets no operation begin any more', async () => {
    const { filled, handle } = await opened(smallBackend({ pwrite, flush() {} }))
    await filled.close(handle)
    await expect(operation(done => filled.flush(handle, done))).rejects.toBeInstanceOf(AbandonedError)
  })

  test('that never ends is given up', async () => {
    const late = Promise.withResolvers<void>()
    const { filled, handle } = await opened(smallBackend({ close: () => late.promise }))
    const error = await outcomeOf(filled.close(handle), DEFAULT_LIMITS.closeMs)
    expect(error).toMatchObject({
      code: 'ETIMEDOUT',
      message: "The backend's close gave no answer within 30 s",
    })
    let isSettled = false
    void (error as UnfinishedError).settled.then(() => {
      isSettled = true
    })
    await vi.advanceTimersByTimeAsync(1)
    expect(isSettled).toBe(false)
    late.resolve()
    await vi.advanceTimersByTimeAsync(1)
    expect(isSettled).toBe(true)
  })
})

describe('A client that leaves', () => {
  /** A disk whose operations end when they are told to. */
  async function stuck() {
    const pending: Completion[] = []
    const wait = (completion: Completion): typeof PENDING => {
      pending.push(completion)
      return PENDING
    }
    let closed = 0
    const backend = smallBackend({
      pread: (...args) => wait(args[5]),
      pwrite: (...args) => wait(args[5]),
      flush: (_, completion) => wait(completion),
      extents: never,
      close: () => void closed++,
    })
    const all = await opened(backend)
    return { ...all, pending, closed: () => closed }
  }
  const buffer = Buffer.alloc(512)

  test('waits for what is under way', async () => {
    const { filled, handle, pending, problems } = await stuck()
    const read = operation(done => filled.pread(handle, buffer, 0, 512, 0, done))
    filled.leave(handle)
    await vi.advanceTimersByTimeAsync(DEFAULT_LIMITS.leaveMs - 1)
    pending[0]?.complete()
    await read
    await filled.close(handle)
    await vi.advanceTimersByTimeAsync(10)
    expect({ problems, timers: vi.getTimerCount() }).toEqual({ problems: [], timers: 0 })
  })

  test('does not wait for ever, and the disk is closed when all has ended', async () => {
    const { filled, handle, pending, closed, problems } = await stuck()
    const settled = Promise.allSettled([
      operation(done => filled.pread(handle, buffer, 0, 512, 0, done)),
      operation(done => filled.pwrite(handle, buffer, 0, 512, 0, done, true)),
      operation(done => filled.flush(handle, done)),
      operation(done => filled.zero(handle, 512, 0, { mayPunch: true, fast: false }, done)),
      operation(done => filled.zero(handle, 512, 0, { mayPunch: true, fast: false }, done)),
      filled.extents(handle, 512, 0, 1),
    ])
    filled.leave(handle)
    await vi.advanceTimersByTimeAsync(DEFAULT_LIMITS.leaveMs)
    for (const result of await settled) {
      expect(result).toMatchObject({ status: 'rejected', reason: expect.any(AbandonedError) })
    }
    const error = await filled.close(handle).catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(UnfinishedError)
    expect(error).toMatchObject({ message: 'The backend still has 5 operations of this disk under way' })
    // The extents never end.
    for (const completion of pending) completion.complete()
    await vi.advanceTimersByTimeAsync(1)
    expect({ closed: closed(), problems }).toEqual({ closed: 0, problems: [] })
  })

  test('leaves the backend its handle until the last operation has ended', async () => {
    const { filled, handle, pending, closed, problems } = await stuck()
    const read = operation(done => filled.pread(handle, buffer, 0, 512, 0, done)).catch(() => {})
    filled.leave(handle)
    await vi.advanceTimersByTimeAsync(DEFAULT_LIMITS.leaveMs)
    await read
    const error = (await filled.close(handle).catch((thrown: unknown) => thrown)) as UnfinishedError
    expect(closed()).toBe(0)
    pending[0]?.complete()
    await error.settled
    expect(closed()).toBe(1)
    pending[0]?.complete()
    expect(problems).toEqual(["The backend's pread ended an operation that had ended before"])
  })

  test('is no longer followed by another where too many disks are unfinished, until one is finished', async () => {
    const pending: Completion[] = []
    const backend = smallBackend({
      pread(...args) {
        pending.push(args[5])
        return PENDING
      },
    })
    const { filled } = filling(backend)
    for (let count = 0; count < 32; count++) {
      const handle = await filled.open('x', context())
      const read = operation(done => filled.pread(handle, buffer, 0, 512, 0, done)).catch(() => {})
      filled.leave(handle)
      await vi.advanceTimersByTimeAsync(DEFAULT_LIMITS.leaveMs)
      await read
      await expect(filled.close(handle)).rejects.toBeInstanceOf(UnfinishedError)
    }
    await expect(filled.open('x', context())).rejects.toThrow(
      'The backend is still at work on 32 disks whose clients have left',
    )
    pending[7]?.complete()
    await vi.advanceTimersByTimeAsync(1)
    await filled.open('x', context())
  })
})

describe('The size of an open disk', () => {
  const disk = (sizeNow: () => unknown, changes: Partial<Backend<Buffer>> = {}) =>
    smallBackend({ ...changes, sizeNow: sizeNow as () => number })

  test('stays where the backend does not tell a newer one', async () => {
    const { filled } = filling(smallBackend({}))
    const handle = await filled.open('x', context())
    expect(filled.renewSize(handle)).toBe(filled.getSize(handle))
  })

  test('grows, in whole blocks, and never shrinks', async () => {
    let size = 0
    const { filled, problems } = filling(
      disk(() => size, {
        getSize: () => 1024,
        blockSizes: () => ({ minimum: 512, preferred: 4096, maximum: 4096 }),
      }),
    )
    const handle = await filled.open('x', context())
    for (const [now, told] of [
      [512, 1024],
      [4000, 3584],
      [3584, 3584],
      [8192, 8192],
      [0, 8192],
    ] as const) {
      size = now
      expect([filled.renewSize(handle), filled.getSize(handle)]).toEqual([told, told])
    }
    expect(problems).toEqual([])
  })

  test.each([
    ['a number that is none', () => Number.NaN],
    ['a promise', async () => 2 ** 20],
    ['less than nothing', () => -1],
    ['too much', () => 2 ** 53],
  ])('stays where the backend tells %s, which is reported', async (_, sizeNow) => {
    const { filled, problems } = filling(disk(sizeNow))
    const handle = await filled.open('x', context())
    const before = filled.getSize(handle)
    expect(filled.renewSize(handle)).toBe(before)
    expect(problems).toHaveLength(1)
    expect(problems[0]).toMatch(/sizeNow told a size of/)
  })

  test('stays where the backend fails, which is reported', async () => {
    const { filled, problems } = filling(
      disk(() => {
        throw new Error('no idea')
      }),
    )
    const handle = await filled.open('x', context())
    expect(filled.renewSize(handle)).toBe(filled.getSize(handle))
    expect(problems).toEqual(["The backend's sizeNow failed: no idea"])
  })
})
