/** What operator and agent agree on about snapshots, and disks that are made as copies. */
import type { DiskSnapshot } from '../../crds/disksnapshot.ts'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { isTrue } from './conditions.ts'

/** The snapshot has a place in its pool: the agent takes it. */
export const isAccepted = (snapshot: DiskSnapshot) => isTrue(snapshot, 'Accepted')

/** There is a file of it, or was. */
export const isTaken = (snapshot: DiskSnapshot) => isTrue(snapshot, 'Taken')

/** Bytes of the pool's quota that it has. */
export const placeOfSnapshot = (snapshot: DiskSnapshot) =>
  isAccepted(snapshot) ? (snapshot.status?.size ?? 0) : 0

/** The disk has a place in its pool, and is to be made as a copy: the agent does that. */
const isCopyDue = (disk: OnDemandDisk) =>
  disk.spec.source !== undefined && disk.status?.sourceUid !== undefined && !isTrue(disk, 'Provisioned')

/** Names of the disks that are being made of the object with this uid. */
export function disksMadeOf(
  kind: 'DiskSnapshot' | 'OnDemandDisk',
  uid: string | undefined,
  disks: Iterable<OnDemandDisk>,
): string[] {
  const names: string[] = []
  for (const disk of disks) {
    const { spec, status, metadata } = disk
    if (spec.source?.kind !== kind || status?.sourceUid !== uid || uid === undefined) continue
    if (isCopyDue(disk) && metadata.deletionTimestamp === undefined) names.push(metadata.name)
  }
  return names.sort()
}

/** Names of the snapshots that are being taken of the disk with this uid. */
export function snapshotsTakenOf(uid: string | undefined, snapshots: Iterable<DiskSnapshot>): string[] {
  const names: string[] = []
  for (const snapshot of snapshots) {
    const { status, metadata } = snapshot
    if (uid === undefined || status?.diskUid !== uid || metadata.deletionTimestamp !== undefined) continue
    if (isAccepted(snapshot) && !isTaken(snapshot)) names.push(metadata.name)
  }
  return names.sort()
}
