/** The Controller service: volumes are OnDemandDisk objects. */
import type { KubeClient } from '../../kube/client.ts'
import type {
  ControllerCapability,
  ControllerMethods,
  CreateVolumeRequest,
  ValidateVolumeCapabilitiesRequest,
  ValidateVolumeCapabilitiesResponse,
} from '../protocol/messages.ts'
import type { Call, Handlers } from '../rpc/call.ts'
import { exclusively } from '../rpc/exclusive.ts'
import { need, RpcError } from '../rpc/rpc-error.ts'
import { capabilityProblem, contextProblem } from './capability.ts'
import { getCapacity } from './capacity-of-pools.ts'
import { createVolume, deleteVolume } from './create.ts'
import { expandVolume, modifyVolume } from './edit.ts'
import { listVolumes } from './list.ts'
import { parametersProblem, parseMutableParameters } from './parameters.ts'
import { publishVolume, unpublishVolume } from './publish.ts'
import { createSnapshot, deleteSnapshot, listSnapshots } from './snapshots.ts'
import { objectNameOf } from './volume-id.ts'
import { filesystemOf, refOfDisk, specOf, type Volumes } from './volumes.ts'

const CAPABILITIES: readonly ControllerCapability[] = [
  'CREATE_DELETE_VOLUME',
  'PUBLISH_UNPUBLISH_VOLUME',
  'LIST_VOLUMES',
  'GET_CAPACITY',
  'CREATE_DELETE_SNAPSHOT',
  'LIST_SNAPSHOTS',
  'CLONE_VOLUME',
  'PUBLISH_READONLY',
  'EXPAND_VOLUME',
  'LIST_VOLUMES_PUBLISHED_NODES',
  'SINGLE_NODE_MULTI_WRITER',
  'MODIFY_VOLUME',
]

/** @param namespace The only one to work in; undefined: all. */
export function controller(
  client: KubeClient,
  volumes: Volumes,
  namespace: string | undefined,
): Handlers<ControllerMethods> {
  const one = exclusively()
  const id = ({ volumeId }: { readonly volumeId: string }) => volumeId
  return {
    CreateVolume: one(futureId, (request, call) => createVolume(volumes, client, namespace, request, call)),
    DeleteVolume: one(id, ({ volumeId }, call) => deleteVolume(volumes, volumeId, call)),
    ControllerPublishVolume: one(id, (request, call) => publishVolume(volumes, client, request, call)),
    ControllerUnpublishVolume: one(id, ({ volumeId, nodeId }, call) =>
      unpublishVolume(volumes, volumeId, nodeId, call),
    ),
    ControllerExpandVolume: one(id, (request, call) => expandVolume(volumes, client, request, call)),
    ControllerModifyVolume: one(id, (request, call) => modifyVolume(volumes, request, call)),
    ValidateVolumeCapabilities: (request, call) => validate(volumes, request, call),
    CreateSnapshot: one(
      ({ sourceVolumeId, name }) => `snapshot ${sourceVolumeId.split('/', 1)[0]}/${objectNameOf(name)}`,
      (request, call) => createSnapshot(volumes, client, namespace, request, call),
    ),
    DeleteSnapshot: one(
      ({ snapshotId }) => `snapshot ${snapshotId}`,
      ({ snapshotId }, call) => deleteSnapshot(client, snapshotId, call),
    ),
    ListSnapshots: (request, call) => listSnapshots(client, namespace, request, call),
    GetCapacity: (request, call) => getCapacity(client, namespace, request, call),
    async ListVolumes(request) {
      if (!volumes.isSynced) {
        throw new RpcError('UNAVAILABLE', 'The driver does not know all volumes yet. Try again.')
      }
      return listVolumes(volumes.store.list(), request)
    },
    ControllerGetCapabilities: async () => ({
      capabilities: CAPABILITIES.map(type => ({ rpc: { type } })),
    }),
  }

  /** The id that the volume will have, as far as the request says it. */
  function futureId({ name, parameters }: CreateVolumeRequest): string {
    return `${parameters.poolNamespace ?? namespace ?? ''}/${objectNameOf(name)}`
  }
}

async function validate(
  volumes: Volumes,
  request: ValidateVolumeCapabilitiesRequest,
  call: Call,
): Promise<ValidateVolumeCapabilitiesResponse> {
  const { volumeId, volumeCapabilities, volumeContext, parameters, mutableParameters } = request
  need('volume_id', volumeId)
  need('volume_capabilities', volumeCapabilities)
  const disk = await volumes.get(volumeId, call)
  const spec = specOf(disk)
  const own = { namespace: refOfDisk(disk).namespace, pool: spec.poolName }
  const mismatch = contextProblem(volumeContext) ?? parametersProblem(parameters, own)
  parseMutableParameters(mutableParameters)
  if (mismatch) return { message: `This is another volume: ${mismatch}.` }
  const terms = { readOnly: spec.readOnly, filesystem: filesystemOf(disk) }
  for (const capability of volumeCapabilities) {
    const problem = capabilityProblem(capability, terms)
    if (problem) return { message: `The volume cannot be used so: ${problem}.` }
  }
  return { confirmed: { volumeContext, volumeCapabilities, parameters, mutableParameters } }
}
