/** GetCapacity: how much of pools is left. */
import { DISKPOOL_KIND, type DiskPool, parseDiskPool } from '../../../crds/diskpool.ts'
import { InvalidSpecError } from '../../../crds/invalid-spec-error.ts'
import { API_GROUP_VERSION } from '../../../crds/object.ts'
import { DISK_POOLS } from '../../../crds/resources.ts'
import type { KubeClient } from '../../kube/client.ts'
import type { Resource } from '../../kube/objects.ts'
import type { GetCapacityRequest, GetCapacityResponse } from '../protocol/messages.ts'
import type { Call } from '../rpc/call.ts'
import { parseParameters } from './parameters.ts'

export const POOLS: Resource<DiskPool> = DISK_POOLS

/**
 * Bytes that new volumes of a pool may have: what its quota leaves, or without a quota what is free on the pool's volume.
 * Undefined where neither is known. A quota may be larger than the volume: disks take up only what is written to them.
 */
export function roomOf(pool: DiskPool): number | undefined {
  let quota: number | undefined
  try {
    ;({ quota } = parseDiskPool(pool).spec)
  } catch (error) {
    if (!(error instanceof InvalidSpecError)) throw error
    // The operator makes nothing in such a pool; its condition says why.
    return 0
  }
  const { provisioned = 0, free } = pool.status ?? {}
  return quota === undefined ? free : Math.max(0, quota - provisioned)
}

/** Of the pool that the parameters name, or of all. */
export async function getCapacity(
  client: KubeClient,
  namespace: string | undefined,
  { parameters }: GetCapacityRequest,
  { signal }: Call,
): Promise<GetCapacityResponse> {
  const pools = await askedPools()
  const rooms = pools.map(pool => roomOf(pool) ?? 0)
  const sum = Math.min(
    Number.MAX_SAFE_INTEGER,
    rooms.reduce((total, room) => total + room, 0),
  )
  return {
    availableCapacity: String(sum),
    maximumVolumeSize: { value: String(Math.max(0, ...rooms)) },
  }

  async function askedPools(): Promise<readonly DiskPool[]> {
    if (Object.keys(parameters).length === 0)
      return (await client.list(POOLS, { namespace, signal })).items.map(withKind)
    const { pool, poolNamespace } = parseParameters(parameters, namespace)
    const found = await client.find(POOLS, { namespace: poolNamespace, name: pool }, { signal })
    return found ? [found] : []
  }
}

/** Items of a list do not say what they are. */
function withKind(pool: DiskPool): DiskPool {
  return { ...pool, apiVersion: API_GROUP_VERSION, kind: DISKPOOL_KIND }
}
