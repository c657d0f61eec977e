/** From a request for a volume to the object that is to be made for it. Pure. */
import { isDeepStrictEqual } from 'node:util'
import { API_GROUP_VERSION, ONDEMANDDISK_KIND, type OnDemandDisk } from '../../../crds/ondemanddisk.ts'
import { quote } from '../../../crds/quote.ts'
import type { CreateVolumeRequest } from '../protocol/messages.ts'
import { RpcError } from '../rpc/rpc-error.ts'
import { capabilityProblem, filesystemFor } from './capability.ts'
import { DEFAULT_SIZE, isIn, parseRange, type SizeRange, sizeIn } from './capacity.ts'
import { type MutableSpec, parseMutableParameters, parseParameters } from './parameters.ts'
import { objectNameOf, type VolumeRef } from './volume-id.ts'
import { specOf, VOLUME_LABEL, VOLUME_NAME_ANNOTATION } from './volumes.ts'

export interface WantedVolume {
  readonly name: string
  readonly ref: VolumeRef
  readonly pool: string
  readonly range: SizeRange
  readonly filesystem: string
  /** The object to create. */
  readonly disk: object
}

/**
 * @throws RpcError INVALID_ARGUMENT, OUT_OF_RANGE
 * @throws InvalidSpecError for access rules and limits that no disk can have
 */
export function wantedVolume(
  request: CreateVolumeRequest,
  defaultNamespace: string | undefined,
): WantedVolume {
  const { name, volumeCapabilities, volumeContentSource } = request
  const objectName = objectNameOf(name)
  if (volumeCapabilities.length === 0) {
    throw new RpcError('INVALID_ARGUMENT', 'volume_capabilities is missing.')
  }
  if (volumeContentSource) {
    throw new RpcError(
      'INVALID_ARGUMENT',
      'volume_content_source: volumes cannot be made of snapshots or other volumes.',
    )
  }
  const { pool, poolNamespace, fsType, annotations, mutable } = parseParameters(
    request.parameters,
    defaultNamespace,
  )
  const filesystem = filesystemFor(volumeCapabilities, fsType)
  const range = parseRange(request.capacityRange)
  const size = sizeIn(range, range.least === 0 ? DEFAULT_SIZE : range.least)
  const ofAttributes = parseMutableParameters(request.mutableParameters)
  const ref = { namespace: poolNamespace, name: objectName }
  const disk = {
    apiVersion: API_GROUP_VERSION,
    kind: ONDEMANDDISK_KIND,
    metadata: {
      ...ref,
      labels: { [VOLUME_LABEL]: '' },
      annotations: { ...annotations, [VOLUME_NAME_ANNOTATION]: name },
    },
    spec: {
      poolName: pool,
      size,
      filesystem: { type: filesystem },
      ...withoutNulls(merged(mutable, ofAttributes)),
    },
  }
  const spec = specOf(disk)
  for (const capability of volumeCapabilities) {
    const problem = capabilityProblem(capability, { readOnly: spec.readOnly, filesystem })
    if (problem) throw new RpcError('INVALID_ARGUMENT', `volume_capabilities: ${problem}.`)
  }
  return { name, ref, pool, range, filesystem, disk }
}

/** What a VolumeAttributesClass says goes before what the StorageClass says. */
function merged(first: MutableSpec, second: MutableSpec): MutableSpec {
  const access = { ...first.access, ...second.access }
  const limits = { ...first.limits, ...second.limits }
  return { ...first, ...second, access, limits }
}

/** A limit that is lifted is one that a new disk has not. */
function withoutNulls({ limits = {}, ...spec }: MutableSpec): object {
  return { ...spec, limits: Object.fromEntries(Object.entries(limits).filter(([, value]) => value !== null)) }
}

/**
 * Is this the volume that is wanted, as an earlier call with the same name has made it?
 * @throws RpcError ALREADY_EXISTS where it is another one
 */
export function checkSame(found: OnDemandDisk, { name, pool, range, filesystem }: WantedVolume): void {
  const { metadata } = found
  const where = `${metadata.namespace}/${metadata.name}`
  if (metadata.annotations?.[VOLUME_NAME_ANNOTATION] !== name) {
    throw new RpcError('ALREADY_EXISTS', `The disk ${where} has not been made for the volume ${quote(name)}.`)
  }
  const spec = specOf(found)
  if (!isIn(range, spec.size ?? 0)) {
    throw new RpcError(
      'ALREADY_EXISTS',
      `The volume ${quote(name)} is there with ${spec.size} bytes, which is not in the capacity_range.`,
    )
  }
  if (spec.poolName !== pool || !isDeepStrictEqual(spec.filesystem?.type, filesystem)) {
    throw new RpcError(
      'ALREADY_EXISTS',
      `The volume ${quote(name)} is there, in the pool ${spec.poolName} and with the filesystem ${spec.filesystem?.type}.`,
    )
  }
}
