import { describe, expect, test } from 'vitest'
import { type Backend, type Completion, type Outcome, PENDING } from '../backend.ts'
import { opened, operation, pwrite, smallBackend } from './test-operation.ts'

const tick = () => new Promise(resolve => setImmediate(resolve))

type Operate = (completion: Completion) => unknown

/** Reads through a backend whose pread does this. */
async function reading(operate: Operate) {
  const pread: Backend<Buffer>['pread'] = (_, __, ___, ____, _____, completion) =>
    operate(completion) as Outcome
  const { filled, handle, problems } = await opened(smallBackend({ pread }))
  const read = (completion: Completion) => filled.pread(handle, Buffer.alloc(512), 0, 512, 0, completion)
  return { problems, read: () => operation(read), start: read, filled, handle }
}

const later = (complete: () => void): typeof PENDING => {
  setImmediate(complete)
  return PENDING
}

describe('An operation succeeds that', () => {
  test.each<[string, Operate]>([
    ['returns nothing', () => undefined],
    ['returns the number of bytes', () => 512],
    ['resolves', async () => {}],
    ['resolves with the number of bytes', async () => 512],
    ['is completed later', completion => later(() => completion.complete())],
    ['is completed with null', completion => later(() => completion.complete(null))],
    [
      'is completed before it returns PENDING',
      completion => {
        completion.complete()
        return PENDING
      },
    ],
    ['is completed before it returns nothing', completion => completion.complete()],
  ])('%s', async (_, operate) => {
    const { read, problems } = await reading(operate)
    await read()
    await tick()
    expect(problems).toEqual([])
  })
})

describe('An operation fails that', () => {
  const full = Object.assign(new Error('No room'), { code: 'ENOSPC' })
  const fails: [string, () => never, object][] = [
    ['an error with a code', () => raise(full), { code: 'ENOSPC', message: 'No room' }],
    [
      'an error without one',
      () => raise(new TypeError('x is undefined')),
      { code: 'EIO', message: "The backend's pread failed: x is undefined" },
    ],
    [
      'an error without a text',
      () => raise(new RangeError()),
      { code: 'EIO', message: "The backend's pread failed: RangeError" },
    ],
    [
      'an error whose code is a number',
      () => raise(Object.assign(new Error('aborted'), { code: 20 })),
      { code: 'EIO', message: "The backend's pread failed: aborted" },
    ],
    [
      'an error with a code whose message is no text',
      () => raise(Object.assign(new Error(), { code: 'ENOSPC', message: 42 })),
      { code: 'ENOSPC', message: "The backend's pread failed: ENOSPC" },
    ],
    [
      'an error whose message is no text',
      () => raise(Object.assign(new RangeError(), { message: Symbol('full') })),
      { code: 'EIO', message: "The backend's pread failed: RangeError" },
    ],
    [
      'an object that throws when it is looked at',
      () => raise(Object.defineProperty({ code: 'ENOSPC' }, 'message', { get: () => raise('no') })),
      { code: 'EIO', message: "The backend's pread failed with an object in place of an error" },
    ],
    [
      'an object with a code',
      () => raise({ code: 'ENOSPC', message: 'No room' }),
      { code: 'ENOSPC', message: "The backend's pread failed: No room" },
    ],
    [
      'a text',
      () => raise('disk\nfull'),
      { code: 'EIO', message: 'The backend\'s pread failed with "disk\\nfull" in place of an error' },
    ],
    [
      'a number',
      () => raise(28),
      { code: 'EIO', message: "The backend's pread failed with 28 in place of an error" },
    ],
    [
      'nothing',
      () => raise(undefined),
      { code: 'EIO', message: "The backend's pread failed without a reason" },
    ],
    ['null', () => raise(null), { code: 'EIO', message: "The backend's pread failed without a reason" }],
    [
      'a symbol',
      () => raise(Symbol('x')),
      { code: 'EIO', message: "The backend's pread failed with a symbol in place of an error" },
    ],
  ]
  test.each(fails)('throws, or rejects with, %s', async (_, fail, expected) => {
    for (const operate of [fail, async () => fail()]) {
      const { read, problems } = await reading(operate)
      const error = await read().catch((thrown: unknown) => thrown)
      expect(error).toBeInstanceOf(Error)
      expect(error).toMatchObject(expected)
      expect(problems).toEqual([])
    }
  })

  test('is completed with an error, before or after it returns', async () => {
    const { read } = await reading(completion => later(() => completion.complete(full)))
    await expect(read()).rejects.toBe(full)
    const early = await reading(completion => {
      completion.complete('full')
      return PENDING
    })
    await expect(early.read()).rejects.toThrow('failed with "full" in place of an error')
  })

  test.each([
    [100, '100'],
    [0, '0'],
    [-1, '-1'],
    [true, 'true'],
    [null, 'null'],
    [{ bytesRead: 512 }, 'an object'],
    [Symbol('pending'), 'a symbol'],
    ['done', '"done"'],
  ])('returns, or resolves with, %o', async (value, shown) => {
    for (const operate of [() => value, async () => value]) {
      const { read } = await reading(operate)
      await expect(read()).rejects.toMatchObject({
        code: 'EIO',
        message: `The backend's pread returned ${shown}; it moves 512 bytes, and returns that or nothing when it has done its work`,
      })
    }
  })

  test('returns a number where no bytes are moved', async () => {
    const flush = (() => 5) as unknown as () => void
    const { filled, handle } = await opened(smallBackend({ pwrite, flush }))
    await expect(operation(done => filled.flush(handle, done))).rejects.toThrow(
      "The backend's flush returned 5; it returns nothing when it has done its work",
    )
  })
})

describe('Only the first end counts, and no other completion is touched, where a backend', () => {
  const again = "The backend's pread ended an operation that had ended before"

  /** The connection uses its completions for one request after the other, so a second call ends somebody else's. */
  async function harm(operate: Operate) {
    const { start, problems } = await reading(operate)
    let calls = 0
    const pooled: Completion = { complete: () => void calls++ }
    let outcome: Outcome | 'failed'
    try {
      outcome = start(pooled)
    } catch {
      outcome = 'failed'
    }
    for (let round = 0; round < 5; round++) await tick()
    const failed = outcome === 'failed'
    return { ends: calls + (failed || outcome === undefined ? 1 : 0), failed, problems }
  }

  test.each<[string, Operate, number]>([
    [
      'completes twice',
      completion =>
        later(() => {
          completion.complete()
          completion.complete(new Error('x'))
        }),
      1,
    ],
    [
      'completes twice, much later',
      completion =>
        later(() => {
          completion.complete()
          setImmediate(() => setImmediate(() => completion.complete()))
        }),
      1,
    ],
    [
      'completes without PENDING',
      completion => {
        setImmediate(() => completion.complete())
      },
      1,
    ],
    [
      'completes before and after it returns',
      completion => {
        completion.complete()
        return later(() => completion.complete())
      },
      1,
    ],
    [
      'completes and resolves',
      async completion => {
        await tick()
        completion.complete()
      },
      1,
    ],
    [
      'completes at once and rejects',
      async completion => {
        completion.complete()
        throw new Error('x')
      },
      1,
    ],
  ])('%s', async (_, operate, reports) => {
    const { ends, problems } = await harm(operate)
    expect(ends).toBe(1)
    expect(problems).toEqual(Array(reports).fill(again))
  })

  test('throws although it completes later', async () => {
    const { ends, failed, problems } = await harm(completion => {
      setImmediate(() => completion.complete())
      throw new Error('x')
    })
    expect({ ends, failed, problems }).toEqual({ ends: 1, failed: true, problems: [again] })
  })

  test('completes and then throws', async () => {
    const { ends, failed } = await harm(completion => {
      completion.complete()
      throw new Error('x')
    })
    expect({ ends, failed }).toEqual({ ends: 1, failed: true })
  })
})

test('Two ends of a part do not end the whole', async () => {
  const order: string[] = []
  let pending: (() => void)[] = []
  const backend = smallBackend({
    pwrite: (_, __, ___, length, offset, completion) => {
      order.push(`write ${offset}+${length}`)
      pending.push(() => completion.complete())
      return PENDING
    },
    blockSizes: () => ({ minimum: 512, preferred: 512, maximum: 512 }),
  })
  const { filled, handle, problems } = await opened(backend)
  const whole = operation(done => filled.pwrite(handle, Buffer.alloc(1536), 0, 1536, 0, done)).then(() =>
    order.push('end'),
  )
  while (order.length < 4) {
    const [complete] = pending
    pending = []
    complete?.()
    complete?.()
    await tick()
  }
  await whole
  expect(order).toEqual(['write 0+512', 'write 512+512', 'write 1024+512', 'end'])
  expect(problems).toHaveLength(3)
})

function raise(thrown: unknown): never {
  throw thrown
}
