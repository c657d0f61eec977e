import { describe, expect, test } from 'vitest'
import type { Backend, Capabilities } from '../backend.ts'
import { fillIn } from '../layer.ts'
import { context, opened, pwrite, smallBackend } from './test-operation.ts'

const NOTHING = {
  canWrite: false,
  canFlush: false,
  canFua: false,
  fuaIsNative: false,
  canTrim: false,
  canZero: false,
  canFastZero: false,
  canCache: true,
  canMultiConn: false,
  isRotational: false,
  blockSizes: { minimum: 1, preferred: 4096, maximum: 2 ** 32 - 1 },
}
const flush = () => {}
const zero = () => {}
const trim = () => {}
const yes = () => true
const no = () => false

describe('What a disk can do follows from', () => {
  const cases: [string, Partial<Backend<Buffer>>, object][] = [
    ['nothing but what is required', {}, {}],
    ['pwrite', { pwrite }, { canWrite: true, canZero: true, canFastZero: true }],
    [
      'pwrite and flush',
      { pwrite, flush },
      { canWrite: true, canZero: true, canFastZero: true, canFlush: true, canFua: true },
    ],
    ['flush without pwrite', { flush }, { canFlush: true }],
    ['trim', { pwrite, trim }, { canWrite: true, canZero: true, canFastZero: true, canTrim: true }],
    ['zero, which may be slow', { pwrite, zero }, { canWrite: true, canZero: true }],
    [
      'zero that can be fast',
      { pwrite, zero, canFastZero: yes },
      { canWrite: true, canZero: true, canFastZero: true },
    ],
    [
      'zero that may not be used',
      { pwrite, zero, canZero: no, canFastZero: no },
      { canWrite: true, canZero: true, canFastZero: true },
    ],
    [
      'FUA of its own',
      { pwrite, canFua: yes },
      { canWrite: true, canZero: true, canFastZero: true, canFua: true, fuaIsNative: true },
    ],
    [
      'refusals',
      { pwrite, flush, trim, canFlush: no, canTrim: no },
      { canWrite: true, canZero: true, canFastZero: true },
    ],
    [
      'a handle that may not be written',
      { pwrite, flush, trim, zero, canWrite: no, canFua: yes },
      { canFlush: true },
    ],
    [
      'what it says of itself',
      { canMultiConn: yes, isRotational: yes },
      { canMultiConn: true, isRotational: true },
    ],
  ]
  test.each(cases)('%s', async (_, more, expected) => {
    const { capabilities } = await opened(smallBackend(more))
    expect(capabilities).toEqual({ ...NOTHING, ...expected })
  })

  test.each(cases)('%s, but nothing changes a disk that is read-only', async (_, more) => {
    for (const options of [{ readOnly: true }, { openReadOnly: true }]) {
      const { capabilities } = await opened(smallBackend(more), options)
      const { canFlush, canMultiConn, isRotational } = capabilities
      expect(capabilities).toEqual({ ...NOTHING, canFlush, canMultiConn, isRotational })
    }
  })

  test.each(cases)('%s, in the same way before it is opened', async (name, more, expected) => {
    if (name.includes('refusals') || name.includes('may not')) return
    const probe = () => ({ size: 100 })
    const filled = fillIn(smallBackend({ ...more, probe }), { readOnly: false, onProblem() {} })
    expect(await filled.probe('x')).toEqual({ size: 100, capabilities: { ...NOTHING, ...expected } })
  })
})

test('A backend may know better what a disk can do that is not opened', async () => {
  const backend = smallBackend({
    pwrite,
    probe: () => ({ size: 5, capabilities: { canMultiConn: true, canWrite: true } }),
  })
  const filled = fillIn(backend, { readOnly: false, onProblem() {} })
  expect(await filled.probe('x')).toMatchObject({ capabilities: { canMultiConn: true, canWrite: true } })
  const readOnly = { capabilities: { canMultiConn: true, canWrite: false, canZero: false } }
  expect(await filled.probe('x', undefined, true)).toMatchObject(readOnly)
  expect(await fillIn(backend, { readOnly: true, onProblem() {} }).probe('x')).toMatchObject(readOnly)
})

const cache = () => {}
const all = { pwrite, flush, trim, zero, cache }
const blockSizes = { minimum: 512, preferred: 4096, maximum: 65_536 }

test.each([
  ['cannot zero', { canZero: false, canFastZero: false }],
  ['cannot zero fast', { canZero: true, canFastZero: false }],
  ['cannot cache', { canCache: false }],
  ['has no FUA', { canFua: false }],
  ['has FUA and no flush', { canFlush: false, canFua: true }],
  ['is read-only', { canWrite: false, canTrim: true, canZero: true, canFua: true }],
  ['has blocks', { blockSizes }],
] as const)('A disk that %s is the same before it is opened and after', async (_, known) => {
  const told = Object.fromEntries(Object.entries(known).map(([question, value]) => [question, () => value]))
  const backend = smallBackend({ ...all, ...told, probe: () => ({ size: 65_536, capabilities: known }) })
  const filled = fillIn(backend, { readOnly: false, onProblem() {} })
  const probed = await filled.probe('x')
  expect(probed?.capabilities).toEqual(filled.capabilities(await filled.open('x', context())))
})

test.each([
  [{ canZero: 'no' }, 'probe told "no" for canZero, neither true nor false'],
  [{ blockSizes: { ...blockSizes, minimum: 3 } }, 'blockSizes told 3 for the minimum'],
])('A disk is not told of that has the impossible %j before it is opened', async (known, message) => {
  const capabilities = known as unknown as Partial<Capabilities>
  const backend = smallBackend({ ...all, probe: () => ({ size: 65_536, capabilities }) })
  const filled = fillIn(backend, { readOnly: false, onProblem() {} })
  await expect(filled.probe('x')).rejects.toThrow(message)
})

test.each([
  ['canWrite', 'yes', '"yes"'],
  ['canFlush', Promise.resolve(true), 'a promise'],
  ['canMultiConn', undefined, 'nothing'],
  ['canTrim', 1, '1'],
])('A disk whose %s returns %s is not opened', async (callback, value, shown) => {
  let closed = 0
  const backend = smallBackend({ pwrite, flush, trim, [callback]: () => value, close: () => void closed++ })
  await expect(opened(backend)).rejects.toMatchObject({
    code: 'EIO',
    message: `The backend's ${callback} returned ${shown}, neither true nor false`,
  })
  expect(closed).toBe(1)
})

describe('Block sizes', () => {
  const withSizes = (blockSizes: unknown) =>
    smallBackend({ blockSizes: (() => blockSizes) as unknown as NonNullable<Backend['blockSizes']> })

  test.each([
    { minimum: 1, preferred: 512, maximum: 512 },
    { minimum: 512, preferred: 4096, maximum: 4096 + 512 },
    { minimum: 65_536, preferred: 65_536, maximum: 65_536 },
    { minimum: 4096, preferred: 2 ** 25, maximum: 2 ** 32 - 1 },
  ])('%j are possible', async blockSizes => {
    expect((await opened(withSizes(blockSizes))).capabilities).toMatchObject({ blockSizes })
  })

  test.each([
    [undefined, 'nothing for the minimum; it has to be a power of two from 1 to 65536'],
    [{ minimum: 0, preferred: 512, maximum: 512 }, '0 for the minimum'],
    [{ minimum: 3, preferred: 512, maximum: 512 }, '3 for the minimum'],
    [{ minimum: 0.5, preferred: 512, maximum: 512 }, '0.5 for the minimum'],
    [{ minimum: 131_072, preferred: 131_072, maximum: 131_072 }, '131072 for the minimum'],
    [
      { minimum: 1, preferred: 256, maximum: 512 },
      '256 for the preferred; it has to be a power of two from 512',
    ],
    [
      { minimum: 4096, preferred: 512, maximum: 4096 },
      '512 for the preferred; it has to be a power of two from 4096',
    ],
    [{ minimum: 1, preferred: 2 ** 26, maximum: 2 ** 26 }, '67108864 for the preferred'],
    [{ minimum: 1, preferred: 4096, maximum: 2048 }, '2048 for the maximum'],
    [{ minimum: 512, preferred: 512, maximum: 1000 }, '1000 for the maximum; it has to be a multiple of 512'],
    [{ minimum: 1, preferred: 4096, maximum: 2 ** 33 }, '8589934592 for the maximum'],
    [{ minimum: 1n, preferred: 512, maximum: 512 }, '1n for the minimum'],
  ])('%o are impossible', async (blockSizes, message) => {
    await expect(opened(withSizes(blockSizes))).rejects.toThrow(`The backend's blockSizes told ${message}`)
  })

  test('have to divide the disk', async () => {
    const backend = { ...withSizes({ minimum: 512, preferred: 512, maximum: 512 }), getSize: () => 1000 }
    await expect(opened(backend)).rejects.toThrow(
      "The backend's disk has 1000 bytes, which its minimum block size of 512 does not divide",
    )
  })
})

describe('A size', () => {
  test.each([
    [-1, '-1'],
    [Number.NaN, 'NaN'],
    [0.5, '0.5'],
    [Number.POSITIVE_INFINITY, 'Infinity'],
    [2 ** 60, '1152921504606847000'],
    [2 ** 53, '9007199254740992'],
    [4096n, '4096n'],
    ['4096', '"4096"'],
    [undefined, 'nothing'],
    [null, 'null'],
    [{}, 'an object'],
  ])('of %o is refused, and the disk closed', async (size, shown) => {
    let closed = 0
    const getSize = () => size as number
    for (const told of [getSize, async () => getSize()]) {
      const backend = smallBackend({ getSize: told, close: () => void closed++ })
      await expect(opened(backend)).rejects.toMatchObject({
        code: 'EIO',
        message: `The backend's getSize told a size of ${shown}, not a whole number of bytes from 0 to 9007199254740991`,
      })
      const probing = smallBackend({ probe: () => ({ size: size as number }) })
      const probed = fillIn(probing, { readOnly: false, onProblem() {} }).probe('x')
      await expect(probed).rejects.toThrow(`The backend's probe told a size of ${shown}`)
    }
    expect(closed).toBe(2)
  })

  test.each([0, 1, 2 ** 53 - 1])('of %d is possible', async size => {
    const { filled, handle } = await opened(smallBackend({ getSize: () => size }))
    expect(filled.getSize(handle)).toBe(size)
  })

  test('that changes does so for the next connection only', async () => {
    let size = 1000
    const backend = smallBackend({ getSize: () => size })
    const filled = fillIn(backend, { readOnly: false, onProblem() {} })
    const first = await filled.open('x', context())
    size = 500
    const second = await filled.open('x', context())
    expect([filled.getSize(first), filled.getSize(second)]).toEqual([1000, 500])
  })
})
