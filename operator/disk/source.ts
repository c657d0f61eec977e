/** What a disk or a snapshot is to whatever wants to be a copy of it. */
import type { DiskSnapshot } from '../../crds/disksnapshot.ts'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { isTrue } from '../terms/conditions.ts'

/** Can it be copied? The message continues a sentence that begins with its name. */
export type SourceView =
  | { readonly state: 'missing' }
  | { readonly state: 'not ready'; readonly message: string }
  | {
      readonly state: 'ready'
      readonly uid: string
      readonly poolName: string
      /** Bytes. */
      readonly size: number
      readonly filesystem: string | undefined
    }

const MISSING: SourceView = { state: 'missing' }
const GOING: SourceView = { state: 'not ready', message: 'is being deleted.' }

/** A disk; `wanted` is what its spec asks for, in bytes. */
export function viewDisk(disk: OnDemandDisk | undefined, wanted: number): SourceView {
  if (disk === undefined) return MISSING
  const { metadata, spec, status } = disk
  if (metadata.deletionTimestamp !== undefined) return GOING
  // As it was written: where the mode is left out, it has not been filled in yet.
  if (spec.mode === 'Temporary' || spec.upstream !== undefined) {
    return { state: 'not ready', message: 'has no data of its own, as it is Temporary or has an upstream.' }
  }
  if (!isTrue(disk, 'Provisioned')) return { state: 'not ready', message: 'is not made yet.' }
  return {
    state: 'ready',
    uid: metadata.uid ?? '',
    poolName: spec.poolName ?? 'default',
    size: Math.max(wanted, status?.size ?? 0),
    filesystem: status?.filesystem,
  }
}

/** A snapshot. */
export function viewSnapshot(snapshot: DiskSnapshot | undefined): SourceView {
  if (snapshot === undefined) return MISSING
  const { metadata, status } = snapshot
  if (metadata.deletionTimestamp !== undefined) return GOING
  const { readyToUse, poolName = '', size = 0, filesystem } = status ?? {}
  if (readyToUse !== true) return { state: 'not ready', message: 'is not taken yet.' }
  return { state: 'ready', uid: metadata.uid ?? '', poolName, size, filesystem }
}
