/** How the API server addresses our kinds. */
import { DISKPOOL_KIND } from './diskpool.ts'
import { DISKSNAPSHOT_KIND } from './disksnapshot.ts'
import { API_GROUP, API_VERSION } from './object.ts'
import { ONDEMANDDISK_KIND } from './ondemanddisk.ts'

const common = { group: API_GROUP, version: API_VERSION, namespaced: true } as const

export const ON_DEMAND_DISKS = { ...common, kind: ONDEMANDDISK_KIND, plural: 'ondemanddisks' } as const
export const DISK_POOLS = { ...common, kind: DISKPOOL_KIND, plural: 'diskpools' } as const
export const DISK_SNAPSHOTS = { ...common, kind: DISKSNAPSHOT_KIND, plural: 'disksnapshots' } as const
