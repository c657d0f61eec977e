/** How often a Job was begun for a disk. */
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { isTrue } from './conditions.ts'
import { BEGUN_ANNOTATION } from './names.ts'

/**
 * The first attempt may be counted in the metadata alone, at one stroke with the claim; the status has the number once
 * there is something to say there, and that of further attempts before they are made.
 */
export function attemptsOf({ metadata, status }: OnDemandDisk): number {
  const begun = metadata.annotations?.[BEGUN_ANNOTATION] === undefined ? 0 : 1
  return Math.max(status?.attempts ?? 0, begun)
}

/** May there be anything of the disk on the volume? */
export function hasBegun(disk: OnDemandDisk): boolean {
  return attemptsOf(disk) > 0 || isTrue(disk, 'Provisioned') || isTrue(disk, 'Formatted')
}
