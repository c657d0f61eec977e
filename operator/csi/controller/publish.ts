/** ControllerPublishVolume and ControllerUnpublishVolume: one node at a time has a volume that can be written. */
import { randomBytes } from 'node:crypto'
import { NO_FILESYSTEM } from '../../../crds/filesystem-label.ts'
import type { OnDemandDisk } from '../../../crds/ondemanddisk.ts'
import type { KubeClient } from '../../kube/client.ts'
import { conditionOf } from '../../kube/conditions.ts'
import { NODES } from '../../kube/objects.ts'
import type { ControllerPublishVolumeRequest, StringMap } from '../protocol/messages.ts'
import type { Call } from '../rpc/call.ts'
import { need, RpcError } from '../rpc/rpc-error.ts'
import { capabilityProblem, modeOf } from './capability.ts'
import { patchOf, publicationsOf, publish, unpublish } from './publication.ts'
import { parseVolumeId } from './volume-id.ts'
import { filesystemOf, refOfDisk, specOf, type Volumes } from './volumes.ts'

const NODE_NAME = /^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$/

/** Gives the volume to a node, unless another one has it; says where the node finds it. */
export async function publishVolume(
  volumes: Volumes,
  client: KubeClient,
  { volumeId, nodeId, volumeCapability, readonly }: ControllerPublishVolumeRequest,
  call: Call,
): Promise<{ publishContext: StringMap }> {
  need('volume_id', volumeId)
  need('node_id', nodeId)
  const mode = modeOf(volumeCapability)
  const disk = await volumes.get(volumeId, call)
  const isNode =
    NODE_NAME.test(nodeId) && (await client.find(NODES, { name: nodeId }, { signal: call.signal }))
  if (!isNode) throw new RpcError('NOT_FOUND', `There is no node ${nodeId.slice(0, 128)}.`)
  const wanted = { node: nodeId, readonly, mode, ticket: randomBytes(12).toString('hex') }
  const changed = await volumes.change(
    refOfDisk(disk),
    latest => {
      if (latest.metadata.deletionTimestamp !== undefined) {
        throw new RpcError('ABORTED', `The volume ${volumeId} is being deleted.`)
      }
      const spec = specOf(latest)
      const terms = { readOnly: spec.readOnly, filesystem: filesystemOf(latest) }
      const problem = volumeCapability && capabilityProblem(volumeCapability, terms)
      if (problem) throw new RpcError('INVALID_ARGUMENT', `The volume cannot be used so: ${problem}.`)
      const known = publicationsOf(latest)
      const next = publish(known, wanted)
      return next === known ? undefined : patchOf(next)
    },
    call,
  )
  if (!changed) throw new RpcError('NOT_FOUND', `There is no volume ${volumeId}.`)
  const { generation = 0 } = changed.metadata
  const uri = await volumes.until(changed, latest => servedUri(latest, generation), waiting, call)
  const { ticket } = publicationsOf(changed).find(({ node }) => node === nodeId) ?? wanted
  const filesystem = filesystemOf(changed)
  const holds = filesystem === undefined || filesystem === NO_FILESYSTEM ? {} : { filesystem }
  return { publishContext: { uri: `${uri}/${ticket}`, readonly: String(readonly), ...holds } }
}

/** Once the server holds to this generation of the spec: whoever had the volume before has lost it then. */
function servedUri(disk: OnDemandDisk, generation: number): string | undefined {
  const { status, observedGeneration = 0 } = conditionOf(disk, 'Exported') ?? {}
  if (status !== 'True' || observedGeneration < generation) return undefined
  return conditionOf(disk, 'Ready')?.status === 'True' ? disk.status?.uri : undefined
}

function waiting(disk: OnDemandDisk): string {
  const { reason, message } = conditionOf(disk, 'Ready') ?? { reason: 'Unknown', message: '' }
  return `The volume is not served. ${reason}: ${message}`
}

/** Takes the volume from a node, or from all. Whoever has it open keeps it: the server still admits one writer only. */
export async function unpublishVolume(
  volumes: Volumes,
  volumeId: string,
  nodeId: string,
  call: Call,
): Promise<object> {
  const ref = parseVolumeId(volumeId)
  if (!ref) return {}
  await volumes.change(
    ref,
    disk => {
      const known = publicationsOf(disk)
      const next = unpublish(known, nodeId)
      return next.length === known.length ? undefined : patchOf(next)
    },
    call,
  )
  return {}
}
