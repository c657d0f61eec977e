/** CreateVolume and DeleteVolume: an object, and what becomes of it. */
import type { OnDemandDisk } from '../../../crds/ondemanddisk.ts'
import { quote } from '../../../crds/quote.ts'
import type { KubeClient } from '../../kube/client.ts'
import { conditionOf } from '../../kube/conditions.ts'
import { hasCode } from '../../kube/kube-error.ts'
import type { CreateVolumeRequest, Volume } from '../protocol/messages.ts'
import type { Call } from '../rpc/call.ts'
import { type RpcCode, RpcError } from '../rpc/rpc-error.ts'
import { POOLS } from './capacity-of-pools.ts'
import { publicationsOf } from './publication.ts'
import { contentSource } from './snapshots.ts'
import { parseVolumeId, type VolumeRef, volumeIdOf } from './volume-id.ts'
import { refOfDisk, VOLUME_NAME_ANNOTATION, type Volumes } from './volumes.ts'
import { checkSame, type WantedVolume, wantedVolume } from './wanted.ts'

/** Reasons for which a disk will not be made as it is, and what they are to a client. */
const REFUSALS: Readonly<Record<string, RpcCode>> = {
  InvalidSpec: 'INVALID_ARGUMENT',
  ExportNameTaken: 'ALREADY_EXISTS',
  QuotaExceeded: 'RESOURCE_EXHAUSTED',
  TooManyDisks: 'RESOURCE_EXHAUSTED',
  SourceNotFound: 'NOT_FOUND',
}

/** Makes the volume, or finds it, and waits until it can be used. */
export async function createVolume(
  volumes: Volumes,
  client: KubeClient,
  namespace: string | undefined,
  request: CreateVolumeRequest,
  call: Call,
): Promise<{ volume: Volume }> {
  const source = await contentSource(volumes, client, request.volumeContentSource, call)
  const wanted = wantedVolume(request, namespace, source)
  checkNamespace(wanted.ref, namespace)
  const twin = volumes.store
    .byIndex('name', wanted.name)
    .find(disk => disk.metadata.namespace !== wanted.ref.namespace)
  if (twin) {
    throw new RpcError(
      'ALREADY_EXISTS',
      `The volume ${quote(wanted.name)} is there, in the namespace ${twin.metadata.namespace}.`,
    )
  }
  const disk = (await volumes.find(wanted.ref, call)) ?? (await make(volumes, client, wanted, call))
  checkSame(disk, wanted)
  if (disk.metadata.deletionTimestamp !== undefined) {
    throw new RpcError(
      'ABORTED',
      `The volume ${quote(wanted.name)} is being deleted. Try again when it is gone.`,
    )
  }
  const size = await volumes.until(disk, latest => readySize(volumes, latest, call), readiness, call)
  const sent = request.volumeContentSource
  return {
    volume: {
      volumeId: volumeIdOf(wanted.ref),
      capacityBytes: String(size),
      ...(sent && { contentSource: sent }),
    },
  }
}

async function make(
  volumes: Volumes,
  client: KubeClient,
  { ref, pool, disk }: WantedVolume,
  call: Call,
): Promise<OnDemandDisk> {
  // A disk without a pool would wait for ever, and nobody would know that it is there.
  const found = await client.find(POOLS, { namespace: ref.namespace, name: pool }, { signal: call.signal })
  if (!found || found.metadata.deletionTimestamp !== undefined) {
    throw new RpcError(
      'INVALID_ARGUMENT',
      `Parameter pool: there is no DiskPool ${pool} in the namespace ${ref.namespace}.`,
    )
  }
  try {
    return await volumes.create(disk, call)
  } catch (error) {
    const made = hasCode(error, 'AlreadyExists') ? await volumes.find(ref, call) : undefined
    if (!made) throw error
    return made
  }
}

/**
 * The size of a disk that is ready. One that will not be made is deleted: nobody knows its id, so nobody else would.
 * @throws RpcError
 */
async function readySize(volumes: Volumes, disk: OnDemandDisk, call: Call): Promise<number | undefined> {
  const ready = conditionOf(disk, 'Ready')
  if (ready?.status === 'True') return disk.status?.size
  const code = ready && REFUSALS[ready.reason]
  if (!code || disk.metadata.deletionTimestamp !== undefined) return undefined
  if (conditionOf(disk, 'Provisioned')?.status === 'True') return undefined
  if (disk.metadata.annotations?.[VOLUME_NAME_ANNOTATION] !== undefined) {
    try {
      await volumes.remove(disk, true, call)
    } catch (error) {
      // It is another one by now, and may have been made.
      if (hasCode(error, 'Conflict')) return undefined
      if (!hasCode(error, 'NotFound')) throw error
    }
  }
  throw new RpcError(code, ready.message)
}

function readiness(disk: OnDemandDisk): string {
  const ready = conditionOf(disk, 'Ready')
  const why = ready ? `${ready.reason}: ${ready.message}` : 'The operator has not looked at it yet.'
  return `The disk ${volumeIdOf(refOfDisk(disk))} is not ready. ${why}`
}

/** Deletes the volume, and waits until nothing of it is left. */
export async function deleteVolume(volumes: Volumes, volumeId: string, call: Call): Promise<object> {
  const ref = parseVolumeId(volumeId)
  const disk = ref && (await volumes.find(ref, call))
  if (!disk) return {}
  if (disk.metadata.deletionTimestamp === undefined) {
    const unused = await untilUnused(volumes, disk, call)
    try {
      await volumes.remove(unused, true, call)
    } catch (error) {
      // Somebody has published it, or its status has changed: it is looked at anew.
      if (hasCode(error, 'Conflict')) return await deleteVolume(volumes, volumeId, call)
      if (!hasCode(error, 'NotFound')) throw error
    }
  }
  await volumes.untilGone(disk, readiness, call)
  return {}
}

/**
 * Connections in a status are some seconds old: so long, in ms, is waited for it to say that a volume's last client has
 * left. Less than what passes between two looks at a disk without news.
 */
const LEAVE_MS = 4500

/**
 * The disk in a state in which nobody has it. A node that has just given the volume back is not counted for long, and who
 * deletes the volume then, as csi-sanity does, may not ask again.
 * @throws RpcError FAILED_PRECONDITION, naming who has the volume
 */
async function untilUnused(volumes: Volumes, disk: OnDemandDisk, call: Call): Promise<OnDemandDisk> {
  const deadline = performance.now() + LEAVE_MS
  return await volumes.until(
    disk,
    latest => {
      const [publication] = publicationsOf(latest)
      if (publication) {
        throw new RpcError('FAILED_PRECONDITION', `The volume is published to the node ${publication.node}.`)
      }
      if ((latest.status?.connections ?? 0) === 0) return latest
      if (performance.now() < deadline) return undefined
      throw new RpcError('FAILED_PRECONDITION', usedBy(latest))
    },
    usedBy,
    call,
  )
}

function usedBy({ status }: OnDemandDisk): string {
  return `The volume is in use by ${status?.clients?.join(', ') || 'a client'}.`
}

/** @throws RpcError INVALID_ARGUMENT for a volume that this driver could not follow */
function checkNamespace(ref: VolumeRef, own: string | undefined): void {
  if (own === undefined || ref.namespace === own) return
  throw new RpcError(
    'INVALID_ARGUMENT',
    `Parameter poolNamespace: this driver works in the namespace ${own} only.`,
  )
}
