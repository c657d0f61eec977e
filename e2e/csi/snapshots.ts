/** Snapshots and copies of volumes, and what they leave on the pool's volume. */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, vi } from 'vitest'
import type { DiskSnapshot } from '../../crds/disksnapshot.ts'
import { DISK_SNAPSHOTS } from '../../crds/resources.ts'
import type { Snapshot, VolumeContentSource } from '../../operator/csi/protocol/messages.ts'
import { NAMESPACE } from '../kube/pool.ts'
import { nameOf, newName, type TestController } from './controller.ts'

const SLOW = { timeout: 90_000, interval: 100 }

export const fromSnapshot = (snapshotId: string): VolumeContentSource => ({ snapshot: { snapshotId } })
export const fromVolume = (volumeId: string): VolumeContentSource => ({ volume: { volumeId } })

export interface SnapshotCalls {
  /** Until it is ready to use, as a client would ask. */
  snapshotOf(sourceVolumeId: string, name?: string): Promise<Snapshot>
  removeSnapshot(snapshotId: string): Promise<object>
  /** A volume whose status has just changed is to be deleted again. */
  removeVolume(volumeId: string): Promise<object>
  objectOf(snapshotId: string): Promise<DiskSnapshot | undefined>
  /** The file that a volume is. */
  pathOf(volumeId: string): Promise<string>
  uriOf(volumeId: string): string
  /** Nothing of any copy is left on the volume but what objects stand for. */
  expectTidy(): Promise<void>
}

export function snapshotCalls(controller: TestController): SnapshotCalls {
  const { call, diskOf } = controller
  const onVolume = (...path: readonly string[]) => join(controller.pool.volume, ...path)
  const uids = (objects: readonly { metadata: { uid?: string } }[]) =>
    objects.map(({ metadata }) => metadata.uid).sort()
  return {
    snapshotOf: (sourceVolumeId, name = newName()) =>
      vi.waitFor(async () => {
        const { snapshot } = await call('CreateSnapshot', { sourceVolumeId, name })
        expect(snapshot.readyToUse).toBe(true)
        return snapshot
      }, SLOW),
    removeSnapshot: snapshotId => call('DeleteSnapshot', { snapshotId }),
    removeVolume: volumeId => vi.waitFor(() => controller.remove(volumeId), SLOW),
    objectOf: async snapshotId =>
      await controller.pool.plane.client.find<DiskSnapshot>(DISK_SNAPSHOTS, {
        namespace: NAMESPACE,
        name: nameOf(snapshotId),
      }),
    pathOf: async volumeId => onVolume('disks', (await diskOf(volumeId)).metadata.uid ?? ''),
    uriOf: volumeId => controller.pool.uri(nameOf(volumeId)),
    async expectTidy() {
      const snapshots = (await controller.pool.plane.client.list<DiskSnapshot>(DISK_SNAPSHOTS, {})).items
      const disks = await controller.pool.disks()
      await vi.waitFor(async () => {
        expect(await readdir(onVolume('copies'))).toEqual([])
        expect((await readdir(onVolume('snapshots'))).sort()).toEqual(uids(snapshots))
        const files = (await readdir(onVolume('disks'))).filter(name => !name.startsWith('.'))
        expect(files.sort()).toEqual(uids(disks))
      }, SLOW)
    },
  }
}
