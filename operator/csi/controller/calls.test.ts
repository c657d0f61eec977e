/** What calls make of a disk as the API server has it. */
import { expect, onTestFinished, test, vi } from 'vitest'
import { createClient } from '../../kube/client.ts'
import { TestApi } from '../../kube/test-api.ts'
import { controller } from './controller.ts'
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
  const client = createClient({ transport: api.transport })
  const volumes = followVolumes(client, undefined, log)
  onTestFinished(async () => {
    await volumes.stop()
    vi.useRealTimers()
  })
  await volumes.synced
  return { api, client, disk, volumes }
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

// Whatever parameters a volume could have were confirmed of any volume.
test('ValidateVolumeCapabilities confirms no parameters of a volume in another pool', async () => {
  const { client, volumes } = await follow()
  const validate = (parameters: Readonly<Record<string, string>>) =>
    controller(client, volumes, undefined).ValidateVolumeCapabilities?.(
      {
        volumeId: 'disks/a',
        volumeCapabilities: [{ block: {}, accessMode: { mode: 'SINGLE_NODE_WRITER' } }],
        ...{ volumeContext: {}, parameters, mutableParameters: {} },
      },
      call(),
    )
  for (const parameters of [{}, { pool: 'lab' }, { pool: 'lab', poolNamespace: 'disks', iops: '5' }])
    expect(await validate(parameters)).toMatchObject({ confirmed: { parameters } })
  for (const parameters of [{ pool: 'other' }, { pool: 'lab', poolNamespace: 'other' }])
    expect(await validate(parameters)).toEqual({
      message: expect.stringMatching(/^This is another volume: it is in the pool disks\/lab, not in /),
    })
})

test('GetCapacity refuses a parameter that there is not, also without a pool', async () => {
  const { client, volumes } = await follow()
  const capacity = (parameters: Readonly<Record<string, string>>) =>
    controller(client, volumes, undefined).GetCapacity?.({ parameters, volumeCapabilities: [] }, call())
  await expect(capacity({ foo: 'bar' })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
})
