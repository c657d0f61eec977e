import { expect, onTestFinished, test } from 'vitest'
import type { Backend } from './backend.ts'
import { openDiskDirectory } from './disks/directory.ts'
import { createDisksBackend } from './disks/disks.ts'
import { prepareRecipe } from './disks/recipe.ts'
import { makeDirectory } from './disks/test-directory.ts'
import { opened } from './layer/test-operation.ts'
import { createMemoryBackend } from './memory/memory.ts'
import { createTemporaryBackend, openTemporaryArea } from './temporary/temporary.ts'

const MAKING = { recipe: await prepareRecipe({ command: 'truncate -s "$size" "$disk"' }), size: 65_536 }

const BACKENDS: readonly [string, boolean, () => Promise<Backend>][] = [
  [
    'disks',
    true,
    async () => {
      const directory = await openDiskDirectory({ path: makeDirectory(), create: true })
      onTestFinished(() => directory.close())
      return createDisksBackend({ directory, ...MAKING }) as Backend
    },
  ],
  ['memory', true, async () => createMemoryBackend({ size: 65_536 }) as Backend],
  [
    'temporary',
    false,
    async () => {
      const area = await openTemporaryArea(makeDirectory())
      onTestFinished(() => area.close())
      return createTemporaryBackend({ area, ...MAKING }) as Backend
    },
  ],
]

test.each(BACKENDS)(
  'The backend %s can do everything; several connections share its disk: %s',
  async (...row) => {
    const [, canMultiConn, create] = row
    const { filled, handle, capabilities, problems } = await opened(await create())
    expect(capabilities).toMatchObject({
      canWrite: true,
      canFlush: true,
      canFua: true,
      fuaIsNative: false,
      canTrim: true,
      canZero: true,
      canFastZero: true,
      canCache: true,
      canMultiConn,
      isRotational: false,
      blockSizes: { minimum: 1, preferred: 4096 },
    })
    // Only its command knows what a temporary disk will be like.
    const known = { size: 65_536, capabilities: { ...capabilities, blockSizes: expect.anything() } }
    expect(await filled.probe('disk')).toEqual(canMultiConn ? known : undefined)
    await filled.close(handle)
    expect(problems).toEqual([])
  },
)
