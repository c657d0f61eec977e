import { expect, onTestFinished, test } from 'vitest'
import type { Backend } from '../backend.ts'
import { opened, smallBackend } from './test-operation.ts'

const failing = async () => {
  throw new Error('no idea')
}

/** Rejections that nobody has handled, each of which would have ended the server, in the turns until it is called. */
function unhandledRejections(): () => Promise<readonly unknown[]> {
  const unhandled: unknown[] = []
  const note = (reason: unknown) => unhandled.push(reason)
  process.on('unhandledRejection', note)
  onTestFinished(() => void process.off('unhandledRejection', note))
  return async () => {
    for (let turn = 0; turn < 3; turn++) await new Promise(resolve => setImmediate(resolve))
    return unhandled
  }
}

/** A backend one of whose callbacks is async, and rejects, where no promise is awaited. */
const withAsync = (callback: string) => smallBackend({ [callback]: failing } as Partial<Backend<Buffer>>)

test.each(['canWrite', 'blockSizes'])(
  'A disk whose %s rejects is refused and ends nothing',
  async callback => {
    const unhandled = unhandledRejections()
    const backend = { ...withAsync(callback), pwrite: () => {} }
    await expect(opened(backend)).rejects.toMatchObject({ code: 'EIO' })
    expect(await unhandled()).toEqual([])
  },
)

test('A sizeNow that rejects is reported and ends nothing', async () => {
  const unhandled = unhandledRejections()
  const { filled, handle, problems } = await opened(withAsync('sizeNow'))
  expect(filled.renewSize(handle)).toBe(filled.getSize(handle))
  expect(await unhandled()).toEqual([])
  expect(problems).toEqual([expect.stringContaining('sizeNow told a size of a promise')])
})

test('An endBatch that rejects is reported and ends nothing', async () => {
  const unhandled = unhandledRejections()
  const { filled, handle, problems } = await opened(withAsync('endBatch'))
  filled.endBatch(handle, false)
  expect(await unhandled()).toEqual([])
  expect(problems).toEqual(["The backend's endBatch failed: no idea"])
})

test('A preadNow that rejects fails its operation and ends nothing', async () => {
  const unhandled = unhandledRejections()
  const { filled, handle } = await opened(withAsync('preadNow'))
  const target = Buffer.alloc(512)
  expect(filled.preadNow(handle, target, 0, 512, 0)).toBe(0)
  expect(() => filled.pread(handle, target, 0, 512, 0, { complete() {} })).toThrow(
    'preadNow returned a promise',
  )
  expect(await unhandled()).toEqual([])
})
