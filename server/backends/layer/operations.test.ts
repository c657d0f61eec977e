import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Backend, type Completion, type Outcome, PENDING } from '../backend.ts'
import { ZERO_PIECE } from './operations.ts'
import { opened, operation, pwrite, smallBackend } from './test-operation.ts'

const READING = { mayPunch: true, fast: false }
const FAST = { mayPunch: true, fast: true }
const unsupported = () => Object.assign(new Error('not here'), { code: 'ENOTSUP' })

/** A backend that notes its calls and ends them in the given way. */
function noting(
  notes: string[],
  end: (completion: Completion) => Outcome = () => undefined,
): Partial<Backend<Buffer>> {
  return {
    pwrite(disk, source, start, length, offset, completion, fua) {
      pwrite(disk, source, start, length, offset, completion)
      notes.push(`pwrite ${offset}+${length}${fua ? ' fua' : ''}`)
      return end(completion)
    },
    flush(_, completion) {
      notes.push('flush')
      return end(completion)
    },
  }
}

const ENDS: readonly [string, (completion: Completion) => Outcome][] = [
  ['at once', () => undefined],
  ['by a promise', async () => {}],
  [
    'by their completion',
    completion => {
      setImmediate(() => completion.complete())
      return PENDING
    },
  ],
  [
    'by their completion before they return',
    completion => {
      completion.complete(null)
      return PENDING
    },
  ],
]

describe('FUA', () => {
  test.each(ENDS)('is a flush after the write, where calls end %s', async (_, end) => {
    const notes: string[] = []
    const { filled, handle } = await opened(smallBackend(noting(notes, end)))
    await operation(done => filled.pwrite(handle, Buffer.alloc(10), 0, 10, 5, done, true))
    expect(notes).toEqual(['pwrite 5+10', 'flush'])
  })

  test('follows trim and zeroes, too', async () => {
    const notes: string[] = []
    const backend = smallBackend({ ...noting(notes), trim: () => void notes.push('trim') })
    const { filled, handle } = await opened(backend)
    await operation(done => filled.trim(handle, 10, 0, done, true))
    await operation(done => filled.zero(handle, 10, 0, READING, done, true))
    expect(notes).toEqual(['trim', 'flush', 'pwrite 0+10', 'flush'])
  })

  test('goes with the operation where the backend can', async () => {
    const notes: string[] = []
    const backend = smallBackend({
      ...noting(notes),
      canFua: () => true,
      trim: (_, length, offset, _done, fua) =>
        void notes.push(`trim ${offset}+${length}${fua ? ' fua' : ''}`),
      blockSizes: () => ({ minimum: 1, preferred: 512, maximum: 512 }),
    })
    const { filled, handle } = await opened(backend)
    await operation(done => filled.pwrite(handle, Buffer.alloc(1000), 0, 1000, 0, done, true))
    await operation(done => filled.trim(handle, 10, 0, done, true))
    await operation(done => filled.pwrite(handle, Buffer.alloc(10), 0, 10, 0, done))
    expect(notes).toEqual(['pwrite 0+512 fua', 'pwrite 512+488 fua', 'trim 0+10 fua', 'pwrite 0+10'])
  })

  test('is refused without a flush, before anything is written', async () => {
    const notes: string[] = []
    const { pwrite: write } = noting(notes)
    const { filled, handle } = await opened(smallBackend({ ...(write && { pwrite: write }) }))
    const result = operation(done => filled.pwrite(handle, Buffer.alloc(10), 0, 10, 0, done, true))
    await expect(result).rejects.toMatchObject({ code: 'EINVAL' })
    expect(notes).toEqual([])
  })

  test('fails where its flush fails', async () => {
    const flush = async () => {
      throw Object.assign(new Error('full'), { code: 'ENOSPC' })
    }
    const { filled, handle } = await opened(smallBackend({ pwrite, flush }))
    const result = operation(done => filled.pwrite(handle, Buffer.alloc(10), 0, 10, 0, done, true))
    await expect(result).rejects.toMatchObject({ code: 'ENOSPC' })
  })
})

describe('Zeroes', () => {
  const big = (more: Partial<Backend<Buffer>> = {}) =>
    smallBackend({ open: () => Buffer.alloc(3 * ZERO_PIECE, 7), pwrite, ...more })

  test.each(ENDS)('are written in bounded pieces, where calls end %s', async (_, end) => {
    const notes: string[] = []
    let disk: Buffer = Buffer.alloc(0)
    const backend = big({ ...noting(notes, end) })
    const { filled, handle } = await opened({
      ...backend,
      async open(name, context) {
        disk = await backend.open(name, context)
        return disk
      },
    })
    await operation(done => filled.zero(handle, 2 * ZERO_PIECE + 10, 5, READING, done))
    expect(notes).toEqual([
      `pwrite 5+${ZERO_PIECE}`,
      `pwrite ${5 + ZERO_PIECE}+${ZERO_PIECE}`,
      `pwrite ${5 + 2 * ZERO_PIECE}+10`,
    ])
    expect(disk.indexOf(0)).toBe(5)
    expect(disk.indexOf(7, 5)).toBe(2 * ZERO_PIECE + 15)
  })

  test('are zeroes even if the backend changes what it is given to write', async () => {
    let disk: Buffer = Buffer.alloc(0)
    const { filled, handle } = await opened(
      big({
        open: () => {
          disk = Buffer.alloc(3 * ZERO_PIECE, 7)
          return disk
        },
        pwrite(...args) {
          const [, source] = args
          pwrite(...args)
          source.fill(9)
        },
      }),
    )
    await operation(done => filled.zero(handle, 3 * ZERO_PIECE, 0, READING, done))
    expect(disk.every(byte => byte === 0)).toBe(true)
  })

  test('are refused at once where they have to be fast but must be written', async () => {
    const { filled, handle, capabilities } = await opened(big())
    expect(capabilities.canFastZero).toBe(true)
    await expect(operation(done => filled.zero(handle, 512, 0, FAST, done))).rejects.toMatchObject({
      code: 'ENOTSUP',
    })
  })

  test('of the backend may be refused only where they have to be fast', async () => {
    const notes: string[] = []
    const zero = async () => {
      notes.push('zero')
      throw unsupported()
    }
    const { filled, handle } = await opened(big({ ...noting(notes), zero, canFastZero: () => true }))
    await expect(operation(done => filled.zero(handle, 512, 0, FAST, done))).rejects.toMatchObject({
      code: 'ENOTSUP',
    })
    await operation(done => filled.zero(handle, 512, 0, READING, done))
    expect(notes).toEqual(['zero', 'zero', 'pwrite 0+512'])
  })

  test('that a backend does not know how to make fast are not asked of it', async () => {
    const zero = () => {
      throw new Error('asked')
    }
    const { filled, handle, capabilities } = await opened(big({ zero }))
    expect(capabilities.canFastZero).toBe(false)
    await expect(operation(done => filled.zero(handle, 512, 0, FAST, done))).rejects.toMatchObject({
      code: 'ENOTSUP',
    })
  })

  test('that fail otherwise are not written', async () => {
    const notes: string[] = []
    const zero = async () => {
      throw Object.assign(new Error('broken'), { code: 'EIO' })
    }
    const { filled, handle } = await opened(big({ ...noting(notes), zero }))
    await expect(operation(done => filled.zero(handle, 512, 0, READING, done))).rejects.toThrow('broken')
    expect(notes).toEqual([])
  })

  test('are written for one request at a time, also after one that failed', async () => {
    let running = 0
    let most = 0
    let calls = 0
    const write = async () => {
      most = Math.max(most, ++running)
      await new Promise(setImmediate)
      running--
      if (++calls === 3) throw new Error('the third')
    }
    const { filled, handle } = await opened(big({ pwrite: write }))
    const results = await Promise.allSettled(
      Array.from({ length: 4 }, () =>
        operation(done => filled.zero(handle, 2 * ZERO_PIECE, 0, READING, done)),
      ),
    )
    expect(most).toBe(1)
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled', 'fulfilled'])
  })
})

describe('Advice', () => {
  test('that is not supported has been followed', async () => {
    const refuse = async () => {
      throw unsupported()
    }
    const { filled, handle } = await opened(smallBackend({ pwrite, trim: refuse, cache: refuse }))
    await operation(done => filled.trim(handle, 512, 0, done))
    await operation(done => filled.cache(handle, 512, 0, done))
  })

  test('that fails has failed', async () => {
    const fail = () => {
      throw new Error('broken')
    }
    const { filled, handle } = await opened(smallBackend({ pwrite, trim: fail, cache: fail }))
    await expect(operation(done => filled.trim(handle, 512, 0, done))).rejects.toThrow('broken')
    await expect(operation(done => filled.cache(handle, 512, 0, done))).rejects.toThrow('broken')
  })

  test('to cache is ignored by a backend that has no cache, trim is refused', async () => {
    const { filled, handle } = await opened(smallBackend({ pwrite }))
    await operation(done => filled.cache(handle, 512, 0, done))
    await expect(operation(done => filled.trim(handle, 512, 0, done))).rejects.toMatchObject({
      code: 'EINVAL',
    })
  })
})

describe('Ranges', () => {
  const all = [
    ['pread', 'EINVAL'],
    ['pwrite', 'ENOSPC'],
    ['trim', 'EINVAL'],
    ['zero', 'ENOSPC'],
    ['cache', 'EINVAL'],
    ['extents', 'EINVAL'],
  ] as const

  async function run(name: (typeof all)[number][0], length: number, offset: number, minimum: number) {
    const { filled, handle } = await opened(
      smallBackend({
        pwrite,
        trim() {},
        blockSizes: () => ({ minimum, preferred: 4096, maximum: 32_768 }),
      }),
    )
    const buffer = Buffer.alloc(131_072)
    switch (name) {
      case 'pread':
      case 'pwrite':
        return operation(done => filled[name](handle, buffer, 0, length, offset, done))
      case 'zero':
        return operation(done => filled.zero(handle, length, offset, READING, done))
      case 'extents':
        return filled.extents(handle, length, offset, 1)
      default:
        return operation(done => filled[name](handle, length, offset, done))
    }
  }

  test.each(all)('beyond the end are refused by %s with %s', async (name, code) => {
    await expect(run(name, 512, 65_536 - 511, 1)).rejects.toMatchObject({ code })
    await expect(run(name, 512, 65_537, 1)).rejects.toMatchObject({ code })
    await expect(run(name, 0, 0, 1)).rejects.toMatchObject({ code })
    await expect(run(name, 512, Number.NaN, 1)).rejects.toMatchObject({ code })
    await run(name, 512, 65_536 - 512, 1)
  })

  test.each(all)('that are not of whole blocks are refused by %s with EINVAL', async name => {
    await expect(run(name, 4096, 512, 4096)).rejects.toMatchObject({ code: 'EINVAL' })
    await expect(run(name, 512, 4096, 4096)).rejects.toMatchObject({ code: 'EINVAL' })
    await run(name, 4096, 61_440, 4096)
  })
})

test('A disk that is read-only takes no change, whatever the backend says', async () => {
  const backend = smallBackend({
    pwrite() {
      throw new Error('asked')
    },
    pwriteNow() {
      throw new Error('asked')
    },
    trim() {},
    zero() {},
    flush() {},
    canWrite: () => true,
  })
  for (const options of [{ readOnly: true }, { openReadOnly: true }]) {
    const { filled, handle } = await opened(backend, options)
    const refused = { code: 'EROFS' }
    const buffer = Buffer.alloc(512)
    expect(filled.pwriteNow(handle, buffer, 0, 512, 0)).toBe(0)
    await expect(operation(done => filled.pwrite(handle, buffer, 0, 512, 0, done))).rejects.toMatchObject(
      refused,
    )
    await expect(operation(done => filled.trim(handle, 512, 0, done))).rejects.toMatchObject(refused)
    await expect(operation(done => filled.zero(handle, 512, 0, READING, done))).rejects.toMatchObject(refused)
    await operation(done => filled.flush(handle, done))
    await operation(done => filled.pread(handle, buffer, 0, 512, 0, done))
  }
})

describe('What is done without waiting', () => {
  const buffer = Buffer.alloc(1024, 7)

  test('turns a failure into one of what follows', async () => {
    const backend = smallBackend({
      pwrite,
      preadNow() {
        throw Object.assign(new Error('broken now'), { code: 'ENOSPC' })
      },
      pwriteNow() {
        throw new Error('broken now')
      },
    })
    const { filled, handle } = await opened(backend)
    expect(filled.preadNow(handle, buffer, 0, 512, 0)).toBe(0)
    const read = () => operation(done => filled.pread(handle, buffer, 0, 512, 0, done))
    await expect(read()).rejects.toMatchObject({ message: 'broken now', code: 'ENOSPC' })
    await read()
    expect(filled.pwriteNow(handle, buffer, 0, 512, 0)).toBe(0)
    const write = () => operation(done => filled.pwrite(handle, buffer, 0, 512, 0, done))
    await expect(write()).rejects.toMatchObject({ code: 'EIO' })
    await write()
  })

  test.each([-1, 513, 0.5, Number.NaN, Number.POSITIVE_INFINITY, undefined, '512', true])(
    'is not believed to be %s bytes of 512',
    async count => {
      const now = () => count as number
      const { filled, handle } = await opened(smallBackend({ pwrite, preadNow: now, pwriteNow: now }))
      expect(filled.preadNow(handle, buffer, 0, 512, 0)).toBe(0)
      expect(filled.pwriteNow(handle, buffer, 0, 512, 0)).toBe(0)
      const expected = /^The backend's p(read|write)Now returned .*, not a number of bytes from 0 to 512$/
      await expect(operation(done => filled.pread(handle, buffer, 0, 512, 0, done))).rejects.toThrow(expected)
      await expect(operation(done => filled.pwrite(handle, buffer, 0, 512, 0, done))).rejects.toThrow(
        expected,
      )
    },
  )

  test('counts in whole blocks, and not beyond the largest', async () => {
    const now = (_: Buffer, __: Buffer, ___: number, length: number) => length - 1
    const blockSizes = () => ({ minimum: 512, preferred: 512, maximum: 1024 })
    const { filled, handle } = await opened(
      smallBackend({ pwrite, preadNow: now, pwriteNow: now, blockSizes }),
    )
    for (const name of ['preadNow', 'pwriteNow'] as const) {
      expect(filled[name](handle, buffer, 0, 1024, 0)).toBe(512)
      expect(filled[name](handle, buffer, 0, 512, 0)).toBe(0)
      expect(filled[name](handle, buffer, 0, 1000, 0)).toBe(0)
      expect(filled[name](handle, buffer, 0, 512, 1)).toBe(0)
      expect(filled[name](handle, buffer, 0, 1536, 0)).toBe(0)
    }
  })
})

test('What foreign code forgets to fill shows nothing', async () => {
  const backend = smallBackend({
    pread() {},
    preadNow: (_, __, ___, length) => length,
  })
  const { filled, handle } = await opened(backend, { foreign: true })
  const target = Buffer.alloc(1024, 7)
  filled.preadNow(handle, target, 0, 256, 0)
  await operation(done => filled.pread(handle, target, 512, 256, 0, done))
  const expected = Buffer.concat([
    Buffer.alloc(256),
    Buffer.alloc(256, 7),
    Buffer.alloc(256),
    Buffer.alloc(256, 7),
  ])
  expect(target).toEqual(expected)
})

/** One of the things a client may do, on blocks of 512 bytes. */
const action = fc.record({
  kind: fc.constantFrom('write', 'write', 'zero', 'read'),
  block: fc.nat(127),
  blocks: fc.integer({ min: 1, max: 128 }),
  fill: fc.integer({ min: 1, max: 255 }),
  fua: fc.boolean(),
})

test('A disk with gaps in its abilities holds what was written', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(action, { maxLength: 30 }),
      fc.constantFrom(...ENDS.map(([, end]) => end)),
      fc.constantFrom(512, 1024, 4096, 65_536),
      fc.boolean(),
      async (actions, end, maximum, now) => {
        let disk: Buffer = Buffer.alloc(0)
        const { filled, handle } = await opened(
          smallBackend({
            ...noting([], end),
            open: () => {
              disk = Buffer.alloc(65_536)
              return disk
            },
            ...(now && {
              // Whole blocks and a part of one.
              pwriteNow(inner, source, start, length, offset) {
                source.copy(inner, offset, start, start + length - 100)
                return length - 100
              },
            }),
            blockSizes: () => ({ minimum: 512, preferred: 512, maximum }),
          }),
        )
        const model = Buffer.alloc(65_536)
        for (const { kind, block, blocks, fill, fua } of actions) {
          const offset = block * 512
          const length = Math.min(blocks * 512, 65_536 - offset)
          if (kind === 'write') {
            const source = Buffer.alloc(length + 10, fill)
            const done = filled.pwriteNow(handle, source, 10, length, offset)
            await operation(end =>
              filled.pwrite(handle, source, 10 + done, length - done, offset + done, end, fua),
            )
            model.fill(fill, offset, offset + length)
          } else if (kind === 'zero') {
            await operation(end => filled.zero(handle, length, offset, READING, end, fua))
            model.fill(0, offset, offset + length)
          } else {
            const target = Buffer.alloc(length + 3)
            await operation(end => filled.pread(handle, target, 3, length, offset, end))
            expect(target.subarray(3).equals(model.subarray(offset, offset + length))).toBe(true)
          }
        }
        expect(disk.equals(model)).toBe(true)
      },
    ),
    { numRuns: 100 },
  )
})
