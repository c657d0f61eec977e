/** When a disk is ready, told by whoever sees it first. */
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { conditionOf, isTrue, observedGeneration } from './conditions.ts'
import { DISK_REASONS } from './reasons.ts'

/**
 * The condition Ready that an agent may write together with Exported; undefined where it may not. It is the operator that
 * decides on Ready. But where it has said that only the server is missing, the agent writes both at once, in the
 * operator's own words, which saves each new disk a write.
 */
export function readyWhenExported(disk: OnDemandDisk) {
  const ready = conditionOf(disk, 'Ready')
  if (!isTrue(disk, 'Provisioned') || ready?.reason !== 'WaitingForServer') return undefined
  return ready.observedGeneration === disk.metadata.generation ? readyNow(disk) : undefined
}

/** The operator's word that a disk can be used. */
export const readyNow = (disk: OnDemandDisk) =>
  ({
    type: 'Ready',
    status: 'True',
    reason: 'Ready',
    message: DISK_REASONS.Ready.meaning,
    ...observedGeneration(disk),
  }) as const
