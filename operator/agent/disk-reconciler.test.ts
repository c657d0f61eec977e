/** What a disk's object makes of its manifest. */
import { expect, test } from 'vitest'
import { type OnDemandDisk, parseOnDemandDisk } from '../../crds/ondemanddisk.ts'
import { createClient } from '../kube/client.ts'
import { TestApi } from '../kube/test-api.ts'
import { acceptedText } from '../terms/accepted.ts'
import { ACCEPTED_ANNOTATION } from '../terms/names.ts'
import { createDiskReconciler, type ReconcilerTerms } from './disk-reconciler.ts'

const MIB = 2 ** 20
const UID = '6f0f4a0e-3f0e-4b3e-9d5e-0e8f5f1c2a3b'
const KEY = 'ns/alice'

/** A disk that has been made, with other fields in its spec than when it was accepted. */
function diskWith(changes: object = {}): OnDemandDisk {
  const object = {
    apiVersion: 'ondemanddisk.dev/v1alpha1',
    kind: 'OnDemandDisk',
    metadata: { name: 'alice', namespace: 'ns', uid: UID },
    spec: { poolName: 'lab', size: 8 * MIB, access: { deny: ['10.0.0.1'] } },
    status: {
      conditions: [
        {
          ...{ type: 'Provisioned', status: 'True', reason: 'Formatted', message: '' },
          lastTransitionTime: '2026-01-01T00:00:00Z',
        },
      ],
    },
  }
  const annotations = { [ACCEPTED_ANNOTATION]: acceptedText(parseOnDemandDisk(object)) }
  const metadata = { ...object.metadata, annotations }
  return { ...object, metadata, spec: { ...object.spec, ...changes } } as unknown as OnDemandDisk
}

function reconcilerOf() {
  const api = new TestApi()
  const state = { disk: diskWith(), manifest: undefined as string | undefined }
  const terms = {
    client: createClient({ transport: api.transport }),
    view: { pool: undefined, disk: () => state.disk, disks: () => [], snapshots: () => [] },
    volume: { disk: async () => ({ size: 8 * MIB, allocated: 0 }) },
    manifests: {
      text: () => state.manifest,
      async write(_: string, text: string) {
        state.manifest = text
      },
    },
    mirror: { view: () => ({ state: 'unknown' }), rescan: async () => {} },
    copier: { view: () => ({ state: 'none' }), isSource: () => false },
    uri: () => undefined,
    counted: { statusWrites: 0 },
    record: () => {},
    onStep: () => {},
  } as unknown as ReconcilerTerms
  const { reconcile } = createDiskReconciler(terms)
  return Object.assign(state, {
    async follow(disk: OnDemandDisk) {
      state.disk = api.put(disk) as OnDemandDisk
      state.disk = { ...state.disk, metadata: { ...state.disk.metadata, uid: UID } }
      await reconcile(KEY, new AbortController().signal)
      return state.manifest
    },
  })
}

// On Kubernetes 1.20 the disk was served under its new name, while its condition said InvalidSpec.
test.each([
  { exportName: 'other' },
  { mode: 'Temporary' },
  { filesystem: { type: 'xfs' } },
  { poolName: 'other' },
])('A change of what cannot be changed changes nothing of how a disk is served: %j', async change => {
  const agent = reconcilerOf()
  const before = await agent.follow(diskWith())
  expect(before).toContain('"exportName":"alice"')
  expect(await agent.follow(diskWith({ ...change, access: { deny: [] } }))).toBe(before)
  expect(await agent.follow(diskWith({ access: { deny: [] } }))).not.toBe(before)
})
