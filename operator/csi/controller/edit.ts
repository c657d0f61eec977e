/** ControllerExpandVolume and ControllerModifyVolume: changes of a disk's spec, which hold when the call is answered. */
import type { OnDemandDisk } from '../../../crds/ondemanddisk.ts'
import { formatSize } from '../../../crds/quantity.ts'
import type { KubeClient } from '../../kube/client.ts'
import { conditionOf } from '../../kube/conditions.ts'
import type { ControllerExpandVolumeRequest, ControllerModifyVolumeRequest } from '../protocol/messages.ts'
import type { Call } from '../rpc/call.ts'
import { need, RpcError } from '../rpc/rpc-error.ts'
import { isIn, parseRange, sizeIn } from './capacity.ts'
import { POOLS, roomOf } from './capacity-of-pools.ts'
import { type MutableSpec, parseMutableParameters } from './parameters.ts'
import { refOfDisk, specOf, type Volumes } from './volumes.ts'

/** Makes the volume larger. Its device is the node's to grow, and its filesystem, where it is mounted. */
export async function expandVolume(
  volumes: Volumes,
  client: KubeClient,
  { volumeId, capacityRange }: ControllerExpandVolumeRequest,
  call: Call,
): Promise<{ capacityBytes: string; nodeExpansionRequired: boolean }> {
  need('volume_id', volumeId)
  if (!capacityRange) throw new RpcError('INVALID_ARGUMENT', 'capacity_range is missing.')
  const range = parseRange(capacityRange)
  const disk = await volumes.get(volumeId, call)
  const spec = specOf(disk)
  if (spec.size === undefined || spec.command !== undefined || spec.mode === 'Temporary') {
    throw new RpcError(
      'FAILED_PRECONDITION',
      'The volume cannot grow: only disks that are kept, and have a size and no command, can.',
    )
  }
  const size = await grow(volumes, client, disk, Math.max(spec.size, sizeIn(range, spec.size)), call)
  if (!isIn(range, size)) {
    throw new RpcError('OUT_OF_RANGE', `The volume has ${size} bytes already, and cannot shrink.`)
  }
  // Also for a raw block device: one that is in use learns its size from its node.
  return { capacityBytes: String(size), nodeExpansionRequired: true }
}

/** Returns the size when the disk has it. */
async function grow(
  volumes: Volumes,
  client: KubeClient,
  disk: OnDemandDisk,
  wanted: number,
  call: Call,
): Promise<number> {
  const spec = specOf(disk)
  const more = wanted - (spec.size ?? 0)
  if (more > 0) {
    // A size in the spec cannot be taken back.
    const ref = { namespace: disk.metadata.namespace, name: spec.poolName }
    const pool = await client.find(POOLS, ref, { signal: call.signal })
    const room = pool && roomOf(pool)
    if (room !== undefined && more > room) {
      throw new RpcError(
        'RESOURCE_EXHAUSTED',
        `The volume would take ${formatSize(more)} more of the pool ${spec.poolName}, which has ${formatSize(Math.max(0, room))} left.`,
      )
    }
  }
  const changed = await volumes.change(
    refOfDisk(disk),
    latest => ((specOf(latest).size ?? 0) < wanted ? { spec: { size: wanted } } : undefined),
    call,
  )
  if (!changed) throw new RpcError('NOT_FOUND', 'The volume has been deleted meanwhile.')
  return await volumes.until(
    changed,
    latest => {
      const { size = 0 } = latest.status ?? {}
      if (size >= wanted) return size
      const resizing = conditionOf(latest, 'Resizing')
      if (resizing?.reason !== 'QuotaExceeded') return undefined
      throw new RpcError('RESOURCE_EXHAUSTED', resizing.message)
    },
    latest =>
      `The disk has ${latest.status?.size ?? 0} of ${wanted} bytes. ${conditionOf(latest, 'Resizing')?.message ?? ''}`,
    call,
  )
}

/** Changes who may use the volume, how fast, and whether it can be written. */
export async function modifyVolume(
  volumes: Volumes,
  { volumeId, mutableParameters }: ControllerModifyVolumeRequest,
  call: Call,
): Promise<object> {
  const disk = await volumes.get(volumeId, call)
  const wanted = parseMutableParameters(mutableParameters)
  const changed = await volumes.change(
    refOfDisk(disk),
    latest => {
      // What an API server without CEL would take, and what only a look at each rule can tell.
      specOf({ ...latest, spec: patched(latest.spec, wanted) })
      return { spec: wanted }
    },
    call,
  )
  if (!changed) throw new RpcError('NOT_FOUND', `There is no volume ${volumeId}.`)
  const { generation = 0 } = changed.metadata
  await volumes.until(
    changed,
    latest => {
      const { observedGeneration = 0, status, reason, message } = conditionOf(latest, 'Exported') ?? {}
      if (observedGeneration < generation) return undefined
      if (reason === 'Refused') throw new RpcError('INVALID_ARGUMENT', message ?? '')
      return status === 'True' ? true : undefined
    },
    latest =>
      `The change does not hold yet. ${conditionOf(latest, 'Exported')?.message ?? 'The server of the pool has not taken it.'}`,
    call,
  )
  return {}
}

/** The spec as the merge patch makes it. */
function patched(spec: OnDemandDisk['spec'], { access, limits, ...others }: MutableSpec): object {
  const kept = Object.entries({ ...spec.limits, ...limits }).filter(([, value]) => value !== null)
  return { ...spec, ...others, access: { ...spec.access, ...access }, limits: Object.fromEntries(kept) }
}
