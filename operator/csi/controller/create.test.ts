/** What CreateVolume and DeleteVolume make of a disk's status. */
import { expect, onTestFinished, test, vi } from 'vitest'
import { createClient } from '../../kube/client.ts'
import { TestApi } from '../../kube/test-api.ts'
import { deleteVolume } from './create.ts'
import { followVolumes } from './volumes.ts'

const log = { error() {}, warn() {}, info() {}, debug() {} }
const call = () => ({ signal: new AbortController().signal })
const METADATA = { name: 'a', namespace: 'disks' }

async function follow() {
  vi.useFakeTimers()
  const api = new TestApi()
  const disk = (connections: number) =>
    api.put({
      apiVersion: 'ondemanddisk.dev/v1alpha1',
      kind: 'OnDemandDisk',
      metadata: METADATA,
      spec: { poolName: 'lab', size: 2 ** 20 },
      status: { connections, clients: connections > 0 ? ['10.0.0.1'] : [] },
    } as never)
  disk(1)
  const volumes = followVolumes(createClient({ transport: api.transport }), undefined, log)
  onTestFinished(async () => {
    await volumes.stop()
    vi.useRealTimers()
  })
  await volumes.synced
  return { api, disk, volumes }
}

// csi-sanity's clean-up: unstaged, unpublished, and deleted at once, while the status still counted the node.
test('DeleteVolume waits for a status that still counts the client that has left', async () => {
  const { api, disk, volumes } = await follow()
  const deleted = deleteVolume(volumes, 'disks/a', call())
  await vi.advanceTimersByTimeAsync(2000)
  expect(api.objects).toHaveLength(1)
  disk(0)
  expect(await deleted).toEqual({})
  expect(api.objects).toEqual([])
})

test('DeleteVolume of a volume that stays in use is refused, and says by whom', async () => {
  const { api, volumes } = await follow()
  const deleted = deleteVolume(volumes, 'disks/a', call())
  const refused = expect(deleted).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
    message: 'The volume is in use by 10.0.0.1.',
  })
  await vi.advanceTimersByTimeAsync(5000)
  await refused
  expect(api.objects).toHaveLength(1)
})
