/** The Node service: volumes become devices and mounts of this node. */
import { statfs } from 'node:fs/promises'
import { isAbsolute, normalize } from 'node:path'
import { type AttachedDisk, growDevice, sizeOf } from '../../../server/attach/attach.ts'
import { formatNbdUri } from '../../../server/client/canonical-uri.ts'
import { UriError } from '../../../server/client/errors.ts'
import { parseNbdUri } from '../../../server/client/uri.ts'
import type { Mount } from '../../../server/fuse/mountinfo.ts'
import { MANY_READERS, modeOf } from '../controller/capability.ts'
import { parseRange } from '../controller/capacity.ts'
import type {
  NodeCapability,
  NodeExpandVolumeRequest,
  NodeMethods,
  NodePublishVolumeRequest,
  NodeStageVolumeRequest,
  StringMap,
  VolumeUsage,
} from '../protocol/messages.ts'
import type { Call, Handlers } from '../rpc/call.ts'
import { exclusively } from '../rpc/exclusive.ts'
import { need, RpcError } from '../rpc/rpc-error.ts'
import { checkFlags, growFilesystem } from './filesystem.ts'
import { deviceOf, mountAt, planPublish, planStage, planUnstage } from './plan.ts'
import {
  bind,
  deviceFailure,
  devicePath,
  gone,
  type Launch,
  observe,
  protect,
  release,
  removePlace,
  stage,
  unmount,
} from './volume.ts'

const CAPABILITIES: readonly NodeCapability[] = [
  'STAGE_UNSTAGE_VOLUME',
  'GET_VOLUME_STATS',
  'EXPAND_VOLUME',
  'SINGLE_NODE_MULTI_WRITER',
]

/** What the service works with. */
export interface NodeTerms {
  /** Name of the node. */
  readonly nodeId: string
  /** How processes that serve disks are started, so that they outlive the driver's pod. */
  readonly launch: Launch | undefined
}

/** The methods of the Node service. For each volume one call is at work at a time. */
export function node({ nodeId, launch }: NodeTerms): Handlers<NodeMethods> {
  const one = exclusively()
  const id = ({ volumeId }: { readonly volumeId: string }) => volumeId
  return {
    NodeStageVolume: one(id, request => stageVolume(request, launch)),
    NodeUnstageVolume: one(id, ({ volumeId, stagingTargetPath }) =>
      unstageVolume(volumeId, stagingTargetPath),
    ),
    NodePublishVolume: one(id, publishVolume),
    NodeUnpublishVolume: one(id, ({ volumeId, targetPath }) => unpublishVolume(volumeId, targetPath)),
    NodeGetVolumeStats: ({ volumeId, volumePath }) => volumeStats(volumeId, volumePath),
    NodeExpandVolume: one(id, expandVolume),
    NodeGetCapabilities: async () => ({ capabilities: CAPABILITIES.map(type => ({ rpc: { type } })) }),
    NodeGetInfo: async () => ({ nodeId, maxVolumesPerNode: '0' }),
  }
}

/** A path as the kernel writes it. */
function pathOf(field: string, text: string): string {
  const path = normalized(field, text)
  if (!isAbsolute(path)) throw new RpcError('INVALID_ARGUMENT', `${field} does not begin with a slash.`)
  return path
}

function normalized(field: string, text: string): string {
  need(field, text)
  return normalize(text).replace(/(?<=.)\/+$/, '')
}

function uriOf({ uri }: StringMap): string {
  if (uri === undefined) {
    throw new RpcError(
      'INVALID_ARGUMENT',
      'publish_context has no uri: publish the volume to this node first.',
    )
  }
  try {
    return formatNbdUri(parseNbdUri(uri))
  } catch (error) {
    if (!(error instanceof UriError)) throw error
    throw new RpcError('INVALID_ARGUMENT', `publish_context: ${error.message}`, { cause: error })
  }
}

async function stageVolume(request: NodeStageVolumeRequest, launch: Launch | undefined): Promise<object> {
  const { volumeId, publishContext, stagingTargetPath, volumeCapability } = request
  need('volume_id', volumeId)
  const place = pathOf('staging_target_path', stagingTargetPath)
  const mode = modeOf(volumeCapability)
  const { mount } = volumeCapability ?? {}
  if (mount) checkFlags(mount.mountFlags)
  const uri = uriOf(publishContext)
  const readOnly =
    publishContext.readonly === 'true' || mode === MANY_READERS || mode === 'SINGLE_NODE_READER_ONLY'
  const path = mount ? place : devicePath(place)
  const steps = planStage(await observe(volumeId), path, { uri, readOnly })
  const type = mount?.fsType || publishContext.filesystem || ''
  await stage(
    { volumeId, path, uri, readOnly, mount: mount ? { type, flags: mount.mountFlags } : undefined },
    steps,
    launch,
  )
  return {}
}

async function unstageVolume(volumeId: string, stagingTargetPath: string): Promise<object> {
  need('volume_id', volumeId)
  const place = pathOf('staging_target_path', stagingTargetPath)
  const observed = await observe(volumeId)
  const path = mountAt(observed.mounts, place) ? place : devicePath(place)
  const { disk } = observed
  for (const step of planUnstage(observed, path)) {
    if (step === 'unmount') await unmount(path)
    else await release(disk, disk?.via === 'fuse')
  }
  if (path !== place) await removePlace(path)
  if (disk) await gone(disk)
  return {}
}

async function publishVolume(request: NodePublishVolumeRequest): Promise<object> {
  const { volumeId, stagingTargetPath, targetPath, volumeCapability } = request
  need('volume_id', volumeId)
  const target = pathOf('target_path', targetPath)
  const mode = modeOf(volumeCapability)
  if (stagingTargetPath === '') {
    throw new RpcError('FAILED_PRECONDITION', 'staging_target_path is missing: a volume is staged first.')
  }
  const place = pathOf('staging_target_path', stagingTargetPath)
  const isBlock = Boolean(volumeCapability?.block)
  const staging = isBlock ? devicePath(place) : place
  const observed = await observe(volumeId)
  if (isBlock && request.readonly && observed.disk?.readOnly === false) {
    throw new RpcError(
      'INVALID_ARGUMENT',
      'A raw block volume is read-only only if it is published so to the node.',
    )
  }
  const steps = planPublish(observed, {
    staging,
    target,
    readOnly: request.readonly && !isBlock,
    exclusive: mode === 'SINGLE_NODE_SINGLE_WRITER',
  })
  for (const step of steps) {
    if (step === 'bind') await bind(staging, target, isBlock ? 'file' : 'directory')
    else await protect(target)
  }
  return {}
}

async function unpublishVolume(volumeId: string, targetPath: string): Promise<object> {
  need('volume_id', volumeId)
  const target = pathOf('target_path', targetPath)
  await unmount(target)
  await removePlace(target)
  return {}
}

/**
 * The volume's disk and where it is mounted. A path that is relative is one where nothing is: csi-sanity asks for `some/path`.
 * @throws RpcError NOT_FOUND
 */
async function volumeAt(volumeId: string, volumePath: string): Promise<{ disk: AttachedDisk; mount: Mount }> {
  need('volume_id', volumeId)
  const path = normalized('volume_path', volumePath)
  const { mounts, disk } = await observe(volumeId)
  if (disk === undefined)
    throw new RpcError('NOT_FOUND', `The volume ${volumeId.slice(0, 128)} is not on this node.`)
  const mount = mountAt(mounts, path) ?? mountAt(mounts, devicePath(path))
  if (mount === undefined || deviceOf(mount) !== disk.device) {
    throw new RpcError('NOT_FOUND', `The volume is not at ${path}.`)
  }
  return { disk, mount }
}

const isDeviceFile = ({ root }: Mount) => root !== '/'

async function volumeStats(volumeId: string, volumePath: string): Promise<{ usage: readonly VolumeUsage[] }> {
  const { disk, mount } = await volumeAt(volumeId, volumePath)
  if (isDeviceFile(mount)) {
    const total = String(await sizeOf(disk.device))
    return { usage: [{ total, available: '0', used: '0', unit: 'BYTES' }] }
  }
  const { bsize, blocks, bfree, bavail, files, ffree } = await statfs(mount.mountpoint)
  const text = String
  return {
    usage: [
      {
        unit: 'BYTES',
        total: text(blocks * bsize),
        available: text(bavail * bsize),
        used: text((blocks - bfree) * bsize),
      },
      { unit: 'INODES', total: text(files), available: text(ffree), used: text(files - ffree) },
    ],
  }
}

async function expandVolume(
  request: NodeExpandVolumeRequest,
  call: Call,
): Promise<{ capacityBytes: string }> {
  const { volumeId, volumePath, capacityRange } = request
  const { disk, mount } = await volumeAt(volumeId, volumePath)
  const { least } = parseRange(capacityRange)
  const growth = { wanted: least, signal: call.signal }
  const size = await growDevice(disk, growth).catch((error: unknown) => {
    throw deviceFailure('The volume cannot grow in use.', error)
  })
  if (size < least) {
    throw new RpcError('OUT_OF_RANGE', `The volume has ${size} bytes. Expand it by the controller first.`)
  }
  if (!isDeviceFile(mount) && !disk.readOnly) await growFilesystem(disk.device, mount.type, mount.mountpoint)
  return { capacityBytes: String(size) }
}
