/**
 * The messages of `csi.proto` as they are in TypeScript: names in camelCase, 64-bit numbers as decimal text (none is
 * rounded), enums by their names. Of a request all fields are there, messages that were not sent are null. Of an answer
 * what is left out has its default.
 */

export type StringMap = Readonly<Record<string, string>>

export type AccessMode =
  | 'UNKNOWN'
  | 'SINGLE_NODE_WRITER'
  | 'SINGLE_NODE_READER_ONLY'
  | 'MULTI_NODE_READER_ONLY'
  | 'MULTI_NODE_SINGLE_WRITER'
  | 'MULTI_NODE_MULTI_WRITER'
  | 'SINGLE_NODE_SINGLE_WRITER'
  | 'SINGLE_NODE_MULTI_WRITER'

export interface MountVolume {
  readonly fsType: string
  readonly mountFlags: readonly string[]
  readonly volumeMountGroup: string
}

export interface VolumeCapability {
  readonly block?: object | null
  readonly mount?: MountVolume | null
  readonly accessMode: { readonly mode: AccessMode } | null
}

export interface CapacityRange {
  /** Bytes; 0: not given. */
  readonly requiredBytes: string
  readonly limitBytes: string
}

export interface VolumeContentSource {
  readonly snapshot?: { readonly snapshotId: string } | null
  readonly volume?: { readonly volumeId: string } | null
}

export interface Volume {
  readonly capacityBytes: string
  readonly volumeId: string
  readonly volumeContext?: StringMap
  readonly contentSource?: VolumeContentSource
}

export interface PluginCapability {
  readonly service?: { readonly type: 'CONTROLLER_SERVICE' }
  readonly volumeExpansion?: { readonly type: 'ONLINE' | 'OFFLINE' }
}

export interface IdentityMethods {
  GetPluginInfo: [object, { readonly name: string; readonly vendorVersion: string }]
  GetPluginCapabilities: [object, { readonly capabilities: readonly PluginCapability[] }]
  Probe: [object, { readonly ready: { readonly value: boolean } }]
}

/** The field `secrets`, which some of the requests have too, is left out: nothing here needs it, so nothing can show it. */
export interface CreateVolumeRequest {
  readonly name: string
  readonly capacityRange: CapacityRange | null
  readonly volumeCapabilities: readonly VolumeCapability[]
  readonly parameters: StringMap
  readonly volumeContentSource: VolumeContentSource | null
  readonly mutableParameters: StringMap
}

export interface ControllerPublishVolumeRequest {
  readonly volumeId: string
  readonly nodeId: string
  readonly volumeCapability: VolumeCapability | null
  readonly readonly: boolean
}

export interface ValidateVolumeCapabilitiesRequest {
  readonly volumeId: string
  readonly volumeContext: StringMap
  readonly volumeCapabilities: readonly VolumeCapability[]
  readonly parameters: StringMap
  readonly mutableParameters: StringMap
}

export interface ValidateVolumeCapabilitiesResponse {
  readonly confirmed?: {
    readonly volumeContext: StringMap
    readonly volumeCapabilities: readonly VolumeCapability[]
    readonly parameters: StringMap
    readonly mutableParameters: StringMap
  }
  readonly message?: string
}

export interface ListVolumesResponse {
  readonly entries: readonly {
    readonly volume: Volume
    readonly status: { readonly publishedNodeIds: readonly string[] }
  }[]
  readonly nextToken: string
}

export interface GetCapacityRequest {
  readonly volumeCapabilities: readonly VolumeCapability[]
  readonly parameters: StringMap
}

export interface GetCapacityResponse {
  readonly availableCapacity: string
  readonly maximumVolumeSize?: { readonly value: string }
}

export interface Snapshot {
  readonly sizeBytes: string
  readonly snapshotId: string
  readonly sourceVolumeId: string
  readonly creationTime: { readonly seconds: string; readonly nanos: number }
  readonly readyToUse: boolean
}

export interface CreateSnapshotRequest {
  readonly sourceVolumeId: string
  readonly name: string
  readonly parameters: StringMap
}

export interface ListSnapshotsRequest {
  readonly maxEntries: number
  readonly startingToken: string
  readonly sourceVolumeId: string
  readonly snapshotId: string
}

export interface ListSnapshotsResponse {
  readonly entries: readonly { readonly snapshot: Snapshot }[]
  readonly nextToken: string
}

export type ControllerCapability =
  | 'CREATE_DELETE_VOLUME'
  | 'PUBLISH_UNPUBLISH_VOLUME'
  | 'LIST_VOLUMES'
  | 'GET_CAPACITY'
  | 'CREATE_DELETE_SNAPSHOT'
  | 'LIST_SNAPSHOTS'
  | 'CLONE_VOLUME'
  | 'PUBLISH_READONLY'
  | 'EXPAND_VOLUME'
  | 'LIST_VOLUMES_PUBLISHED_NODES'
  | 'SINGLE_NODE_MULTI_WRITER'
  | 'MODIFY_VOLUME'

export interface ControllerExpandVolumeRequest {
  readonly volumeId: string
  readonly capacityRange: CapacityRange | null
  readonly volumeCapability: VolumeCapability | null
}

export interface ControllerModifyVolumeRequest {
  readonly volumeId: string
  readonly mutableParameters: StringMap
}

export type NodeCapability =
  | 'STAGE_UNSTAGE_VOLUME'
  | 'GET_VOLUME_STATS'
  | 'EXPAND_VOLUME'
  | 'SINGLE_NODE_MULTI_WRITER'

export interface NodeStageVolumeRequest {
  readonly volumeId: string
  readonly publishContext: StringMap
  readonly stagingTargetPath: string
  readonly volumeCapability: VolumeCapability | null
  readonly volumeContext: StringMap
}

export interface NodePublishVolumeRequest extends NodeStageVolumeRequest {
  readonly targetPath: string
  readonly readonly: boolean
}

export interface VolumeUsage {
  readonly available: string
  readonly total: string
  readonly used: string
  readonly unit: 'BYTES' | 'INODES'
}

export interface NodeExpandVolumeRequest {
  readonly volumeId: string
  readonly volumePath: string
  readonly capacityRange: CapacityRange | null
  readonly stagingTargetPath: string
  readonly volumeCapability: VolumeCapability | null
}

export interface NodeMethods {
  NodeStageVolume: [NodeStageVolumeRequest, object]
  NodeUnstageVolume: [{ readonly volumeId: string; readonly stagingTargetPath: string }, object]
  NodePublishVolume: [NodePublishVolumeRequest, object]
  NodeUnpublishVolume: [{ readonly volumeId: string; readonly targetPath: string }, object]
  NodeGetVolumeStats: [
    { readonly volumeId: string; readonly volumePath: string; readonly stagingTargetPath: string },
    { readonly usage: readonly VolumeUsage[] },
  ]
  NodeExpandVolume: [NodeExpandVolumeRequest, { readonly capacityBytes: string }]
  NodeGetCapabilities: [
    object,
    { readonly capabilities: readonly { readonly rpc: { readonly type: NodeCapability } }[] },
  ]
  NodeGetInfo: [object, { readonly nodeId: string; readonly maxVolumesPerNode: string }]
}

export interface ControllerMethods {
  CreateVolume: [CreateVolumeRequest, { readonly volume: Volume }]
  DeleteVolume: [{ readonly volumeId: string }, object]
  ControllerPublishVolume: [ControllerPublishVolumeRequest, { readonly publishContext: StringMap }]
  ControllerUnpublishVolume: [{ readonly volumeId: string; readonly nodeId: string }, object]
  ValidateVolumeCapabilities: [ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse]
  ListVolumes: [{ readonly maxEntries: number; readonly startingToken: string }, ListVolumesResponse]
  CreateSnapshot: [CreateSnapshotRequest, { readonly snapshot: Snapshot }]
  DeleteSnapshot: [{ readonly snapshotId: string }, object]
  ListSnapshots: [ListSnapshotsRequest, ListSnapshotsResponse]
  GetCapacity: [GetCapacityRequest, GetCapacityResponse]
  ControllerGetCapabilities: [
    object,
    { readonly capabilities: readonly { readonly rpc: { readonly type: ControllerCapability } }[] },
  ]
  ControllerExpandVolume: [
    ControllerExpandVolumeRequest,
    { readonly capacityBytes: string; readonly nodeExpansionRequired: boolean },
  ]
  ControllerModifyVolume: [ControllerModifyVolumeRequest, object]
}
