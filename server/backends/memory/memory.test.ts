import fc from 'fast-check'
import { describe, expect, test, vi } from 'vitest'
import { context, opened, operation } from '../layer/test-operation.ts'
import { createMemoryBackend } from './memory.ts'
import { PAGE, Pages } from './pages.ts'

const PUNCH = { mayPunch: true, fast: false }
const ALLOCATE = { mayPunch: false, fast: false }

async function open(size: number) {
  const all = await opened(createMemoryBackend({ size }))
  const { filled, handle } = all
  return {
    ...all,
    write: (data: Buffer, offset: number) =>
      operation(done => filled.pwrite(handle, data, 0, data.length, offset, done)),
    zero: (length: number, offset: number, flags = PUNCH) =>
      operation(done => filled.zero(handle, length, offset, flags, done)),
    trim: (length: number, offset: number) => operation(done => filled.trim(handle, length, offset, done)),
    async read(length: number, offset: number) {
      const target = Buffer.alloc(length, 0xee)
      await operation(done => filled.pread(handle, target, 0, length, offset, done))
      return target
    },
    status: (length: number, offset: number, limit = 100) => filled.extents(handle, length, offset, limit),
  }
}

const hole = (length: number) => ({ length, hole: true, zero: true })
const data = (length: number) => ({ length, hole: false, zero: false })

describe('A disk in memory', () => {
  test('can do everything, at once', async () => {
    const { capabilities, filled, handle } = await open(5 * PAGE)
    expect(capabilities).toMatchObject({
      canWrite: true,
      canFlush: true,
      canFua: true,
      canTrim: true,
      canZero: true,
      canFastZero: true,
      canMultiConn: true,
      isRotational: false,
    })
    const buffer = Buffer.alloc(3 * PAGE, 7)
    expect(filled.pwriteNow(handle, buffer, 0, 3 * PAGE, 100)).toBe(3 * PAGE)
    expect(filled.preadNow(handle, buffer, 0, 3 * PAGE, 0)).toBe(3 * PAGE)
    expect(buffer.indexOf(7)).toBe(100)
    await operation(done => filled.flush(handle, done))
  })

  test('is one disk for all names and connections', async () => {
    const { filled, write } = await open(4096)
    await write(Buffer.from('hello'), 10)
    const other = await filled.open('other', context())
    const target = Buffer.alloc(5)
    expect(filled.preadNow(other, target, 0, 5, 10)).toBe(5)
    expect(target.toString()).toBe('hello')
    await filled.close(other)
    expect(await filled.listExports()).toEqual([''])
    expect(await filled.probe('any')).toMatchObject({ size: 4096 })
  })

  test('holds only what was written', async () => {
    const size = 2 ** 53 - 1
    const { write, read, status, filled, handle } = await open(size)
    expect(filled.getSize(handle)).toBe(size)
    await write(Buffer.from('end'), size - 3)
    expect((await read(5, size - 5)).toString('latin1')).toBe('\0\0end')
    expect(await status(100, size - 100)).toEqual([data(100)])
    expect(await status(2 ** 32 - 1, 0)).toEqual([hole(2 ** 30)])
  })

  test('tells where it has pages', async () => {
    const { write, status, zero, trim } = await open(10 * PAGE + 5)
    expect(await status(10 * PAGE + 5, 0)).toEqual([hole(10 * PAGE + 5)])
    await write(Buffer.alloc(2), 3 * PAGE - 1)
    expect(await status(10 * PAGE, 0)).toEqual([hole(2 * PAGE), data(2 * PAGE), hole(6 * PAGE)])
    expect(await status(10 * PAGE, 5, 2)).toEqual([hole(2 * PAGE - 5), data(2 * PAGE)])
    await zero(PAGE, 3 * PAGE)
    expect(await status(4 * PAGE, 2 * PAGE)).toEqual([data(PAGE), hole(3 * PAGE)])
    await zero(PAGE, 3 * PAGE, ALLOCATE)
    expect(await status(2 * PAGE, 2 * PAGE)).toEqual([data(2 * PAGE)])
    await trim(3 * PAGE, 2 * PAGE + 1)
    expect(await status(8 * PAGE, 2 * PAGE)).toEqual([data(PAGE), hole(7 * PAGE)])
  })

  test('zeroes gigabytes without holding others up', async () => {
    const { zero, trim, write } = await open(2 ** 40)
    await write(Buffer.alloc(10, 7), 0)
    let turns = 0
    const counting = setInterval(() => turns++, 0)
    await zero(2 ** 26, 0, ALLOCATE)
    expect(turns).toBeGreaterThan(2)
    await zero(2 ** 32, 5)
    await trim(2 ** 32, 5)
    clearInterval(counting)
  })

  test('that finds no memory is full', async () => {
    const { write, zero, read, filled, handle } = await open(2 ** 30)
    await write(Buffer.from('kept'), 0)
    const alloc = vi.spyOn(Buffer, 'alloc').mockImplementation(() => {
      throw new RangeError('Array buffer allocation failed')
    })
    const full = { code: 'ENOSPC', message: 'There is no memory left for more of the disk' }
    const source = Buffer.allocUnsafe(5)
    try {
      expect(filled.pwriteNow(handle, source, 0, 5, PAGE)).toBe(0)
      await expect(write(source, PAGE)).rejects.toMatchObject(full)
      await expect(zero(2 ** 24, 0, ALLOCATE)).rejects.toMatchObject(full)
      await zero(2 ** 24, PAGE)
    } finally {
      alloc.mockRestore()
    }
    await write(Buffer.from('more'), PAGE)
    expect((await read(4, PAGE)).toString()).toBe('more')
  })
})

test('Pages that are given back are gone', () => {
  const pages = new Pages()
  pages.write(Buffer.alloc(4 * PAGE, 1), 0, 4 * PAGE, 0)
  expect(pages.count).toBe(4)
  pages.release(4 * PAGE - 1, 1)
  expect(pages.count).toBe(1)
  pages.zero(PAGE, 0, false)
  expect(pages.count).toBe(0)
})

test('A disk in memory behaves like a plain buffer', async () => {
  const SIZE = 4 * PAGE + 100
  const action = fc.record({
    kind: fc.constantFrom('write', 'write', 'zero', 'allocate', 'trim', 'read'),
    offset: fc.nat(SIZE - 1),
    length: fc.oneof(fc.integer({ min: 1, max: 600 }), fc.integer({ min: 1, max: SIZE })),
    fill: fc.integer({ min: 1, max: 255 }),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(action, { maxLength: 20 }), async actions => {
      const { write, zero, trim, read, status } = await open(SIZE)
      const model = Buffer.alloc(SIZE)
      for (const { kind, offset, length: wish, fill } of actions) {
        const length = Math.min(wish, SIZE - offset)
        const end = offset + length
        if (kind === 'write') {
          await write(Buffer.alloc(length, fill), offset)
          model.fill(fill, offset, end)
        } else if (kind === 'zero' || kind === 'allocate') {
          await zero(length, offset, kind === 'zero' ? PUNCH : ALLOCATE)
          model.fill(0, offset, end)
        } else if (kind === 'trim') {
          await trim(length, offset)
          const from = Math.ceil(offset / PAGE) * PAGE
          const to = Math.floor(end / PAGE) * PAGE
          if (from < to) model.fill(0, from, to)
        } else {
          expect((await read(length, offset)).equals(model.subarray(offset, end))).toBe(true)
          let at = offset
          for (const extent of await status(length, offset)) {
            if (extent.zero)
              expect(model.subarray(at, at + extent.length).every(byte => byte === 0)).toBe(true)
            at += extent.length
          }
          expect(at).toBeGreaterThanOrEqual(end)
        }
      }
      expect((await read(SIZE, 0)).equals(model)).toBe(true)
    }),
    { numRuns: 60 },
  )
})
