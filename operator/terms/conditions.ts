/** What the conditions of our objects say. */
import type { DiskPool } from '../../crds/diskpool.ts'
import type { DiskSnapshot } from '../../crds/disksnapshot.ts'
import type { Condition, OnDemandDisk } from '../../crds/ondemanddisk.ts'

type WithConditions = Pick<DiskPool | DiskSnapshot | OnDemandDisk, 'status'>

export function conditionOf({ status }: WithConditions, type: string): Condition | undefined {
  return status?.conditions?.find(condition => condition.type === type)
}

export function isTrue(object: WithConditions, type: string): boolean {
  return conditionOf(object, type)?.status === 'True'
}
