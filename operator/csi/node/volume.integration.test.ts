import { expect, test, vi } from 'vitest'
import { AttachError, type AttachedDisk, detach } from '../../../server/attach/attach.ts'
import { release } from './volume.ts'

vi.mock('../../../server/attach/attach.ts', { spy: true })

test('A volume that cannot be let go of is not said to be one that cannot be attached', async () => {
  vi.mocked(detach).mockRejectedValue(new AttachError('EBUSY', '/dev/loop7 is in use.'))
  const disk = { device: '/dev/loop7', via: 'fuse' } as AttachedDisk
  await expect(release(disk, false)).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
    message: 'The volume cannot be detached. /dev/loop7 is in use.',
  })
})
