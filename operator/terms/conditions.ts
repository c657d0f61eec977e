/** What the conditions of our objects say. */
import type { DiskSnapshot } from '../../crds/disksnapshot.ts'
import type { Condition, OnDemandDisk } from '../../crds/ondemanddisk.ts'

type WithConditions = Pick<DiskSnapshot | OnDemandDisk, 'status'>

export function conditionOf({ status }: WithConditions, type: string): Condition | undefined {
  return status?.conditions?.find(condition => condition.type === type)
}

export function isTrue(object: WithConditions, type: string): boolean {
  return conditionOf(object, type)?.status === 'True'
}
