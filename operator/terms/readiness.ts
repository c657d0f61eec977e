/** When a disk is ready, told by whoever sees it first. */
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { conditionOf, isTrue, observedGeneration } from './conditions.ts'
import { DISK_REASONS } from './reasons.ts'

/**
 * The operator decides on Ready. Where it has said that all is done but for the server, the agent says both at one
 * stroke, that the disk is exported and that it is ready, in the operator's own words: that saves each new disk a write.
 * Undefined: not for this state of the disk.
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
