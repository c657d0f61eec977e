/** How a volume is to be used, and whether it can be. */
import { NO_FILESYSTEM } from '../../../crds/filesystem-label.ts'
import { quote } from '../../../crds/quote.ts'
import type { AccessMode, StringMap, VolumeCapability } from '../protocol/messages.ts'
import { need, RpcError } from '../rpc/rpc-error.ts'

/** Filesystems that nodes can mount, check and grow. */
export const FILESYSTEMS = ['ext2', 'ext3', 'ext4', 'xfs', 'btrfs'] as const
const DEFAULT_FILESYSTEM = 'ext4'

const MIB = 2 ** 20
/** Bytes that their mkfs wants at least, or somewhat more: xfs from xfsprogs 6 on, btrfs 109 MiB. */
const LEAST_SIZES: Readonly<Record<string, number>> = {
  ...{ ext2: MIB, ext3: MIB, ext4: MIB },
  xfs: 300 * MIB,
  btrfs: 128 * MIB,
}

/** Bytes that a volume with this filesystem has at least. */
export const leastSize = (filesystem: string): number => LEAST_SIZES[filesystem] ?? 0

const SINGLE_NODE: readonly AccessMode[] = [
  'SINGLE_NODE_WRITER',
  'SINGLE_NODE_READER_ONLY',
  'SINGLE_NODE_SINGLE_WRITER',
  'SINGLE_NODE_MULTI_WRITER',
]
/** One node writes, or many read, which needs a disk that nobody can write. */
export const MANY_READERS: AccessMode = 'MULTI_NODE_READER_ONLY'

const MAX_FLAGS_BYTES = 4096

/**
 * The access mode of a capability that is complete.
 * @throws RpcError INVALID_ARGUMENT
 */
export function modeOf(capability: VolumeCapability | null): AccessMode {
  if (!capability) throw invalid('It is missing')
  const { block, mount, accessMode } = capability
  if (!block && !mount) throw invalid('Give block or mount')
  if (!accessMode || accessMode.mode === 'UNKNOWN') throw invalid('access_mode is missing')
  if (mount && Buffer.byteLength(mount.mountFlags.join('')) > MAX_FLAGS_BYTES) {
    throw invalid(`mount_flags has more than ${MAX_FLAGS_BYTES} bytes`)
  }
  return accessMode.mode
}

/**
 * Why a volume cannot be used so; undefined where it can.
 * @throws RpcError INVALID_ARGUMENT for a capability that is not complete
 */
export function capabilityProblem(
  capability: VolumeCapability,
  disk: { readonly readOnly: boolean; readonly filesystem: string | undefined },
): string | undefined {
  const mode = modeOf(capability)
  if (mode === MANY_READERS && !disk.readOnly) {
    return `${mode} needs the parameter readOnly: "true": a disk has one writer or many readers`
  }
  if (mode !== MANY_READERS && !SINGLE_NODE.includes(mode)) {
    return `${mode} cannot be had: a disk has one writer or many readers`
  }
  const fsType = capability.mount?.fsType
  if (capability.mount && disk.filesystem === NO_FILESYSTEM) {
    return 'it is a raw block volume, on which no filesystem has been made'
  }
  if (fsType && fsType !== disk.filesystem) {
    return `its filesystem is ${disk.filesystem ?? 'what a command has made'}, not ${quote(fsType)}`
  }
  return undefined
}

/** Keys that Kubernetes' own parts add to the context of a volume: who provisioned it, which pod it is for. */
const OF_KUBERNETES = /^(?:storage\.kubernetes\.io|csi\.storage\.k8s\.io)\//

/**
 * Why a volume_context is not that of a volume; undefined where it is. CreateVolume gives none: all that there is to know
 * of a volume is in its object.
 */
export function contextProblem(context: StringMap): string | undefined {
  const key = Object.keys(context).find(name => !OF_KUBERNETES.test(name))
  return key === undefined ? undefined : `CreateVolume has given no ${quote(key)} in its volume_context`
}

/**
 * The filesystem of a new volume that is to be used in all these ways.
 * @param ofClass What the StorageClass says.
 * @throws RpcError INVALID_ARGUMENT
 */
export function filesystemFor(
  capabilities: readonly VolumeCapability[],
  ofClass: string | undefined,
): string {
  need('volume_capabilities', capabilities)
  const mounts = capabilities.filter(capability => modeOf(capability) && capability.mount)
  if (mounts.length === 0) return NO_FILESYSTEM
  const types = new Set(mounts.map(({ mount }) => mount?.fsType || ofClass || DEFAULT_FILESYSTEM))
  const [type = DEFAULT_FILESYSTEM, another] = types
  if (another !== undefined) throw invalid(`A volume cannot have both ${quote(type)} and ${quote(another)}`)
  if (!FILESYSTEMS.some(known => known === type)) {
    throw invalid(`${quote(type)} is none of the filesystems ${FILESYSTEMS.join(', ')}`)
  }
  return type
}

function invalid(reason: string): RpcError {
  return new RpcError('INVALID_ARGUMENT', `volume_capability: ${reason}.`)
}
