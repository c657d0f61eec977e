/** What the conditions of our objects say. */
import type { DiskPool } from '../../crds/diskpool.ts'
import type { DiskSnapshot } from '../../crds/disksnapshot.ts'
import type { Condition, OnDemandDisk } from '../../crds/ondemanddisk.ts'

type OurObject = DiskPool | DiskSnapshot | OnDemandDisk
type WithConditions = Pick<OurObject, 'status'>

/** What an object says of this aspect; undefined if nothing. */
export function conditionOf({ status }: WithConditions, type: string): Condition | undefined {
  return status?.conditions?.find(condition => condition.type === type)
}

/** Is this aspect of the object so? */
export function isTrue(object: WithConditions, type: string): boolean {
  return conditionOf(object, type)?.status === 'True'
}

/** Which generation of its spec has been seen of an object; nothing where it has none. */
export function observedGeneration({ metadata: { generation } }: Pick<OurObject, 'metadata'>) {
  return generation === undefined ? {} : { observedGeneration: generation }
}
