/** From a request for a volume to the object that is to be made for it. Pure. */
import { isDeepStrictEqual } from 'node:util'
import { API_GROUP_VERSION, ONDEMANDDISK_KIND, type OnDemandDisk } from '../../../crds/ondemanddisk.ts'
import { quote } from '../../../crds/quote.ts'
import type { CreateVolumeRequest } from '../protocol/messages.ts'
import { need, RpcError } from '../rpc/rpc-error.ts'
import { capabilityProblem, filesystemFor, leastSize } from './capability.ts'
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
  readonly source: ContentSource | undefined
  /** The object to create. */
  readonly disk: object
}

/** What a volume is to be a copy of. */
export interface ContentSource {
  readonly kind: 'DiskSnapshot' | 'OnDemandDisk'
  readonly ref: VolumeRef
  readonly pool: string
  /** Bytes. */
  readonly size: number
  /** `none` on a raw block volume. */
  readonly filesystem: string
}

/** @throws RpcError INVALID_ARGUMENT for a copy that cannot be: copies stay in their pool, and are what they are of */
function checkSource(
  source: ContentSource | undefined,
  { namespace, pool, filesystem }: { namespace: string; pool: string; filesystem: string },
): void {
  if (source === undefined) return
  if (source.ref.namespace !== namespace || source.pool !== pool) {
    const place = `${source.ref.namespace}/${source.pool}`
    throw new RpcError(
      'INVALID_ARGUMENT',
      `volume_content_source: it is in the pool ${place}, and copies stay in their pool.`,
    )
  }
  if (source.filesystem !== filesystem) {
    throw new RpcError(
      'INVALID_ARGUMENT',
      `volume_content_source: it has the filesystem ${source.filesystem}, not ${filesystem}.`,
    )
  }
}

/**
 * @throws RpcError INVALID_ARGUMENT, OUT_OF_RANGE
 * @throws InvalidSpecError for access rules and limits that no disk can have
 */
export function wantedVolume(
  request: CreateVolumeRequest,
  defaultNamespace: string | undefined,
  source?: ContentSource,
): WantedVolume {
  const { name, volumeCapabilities } = request
  const objectName = objectNameOf(name)
  need('volume_capabilities', volumeCapabilities)
  const { pool, poolNamespace, fsType, annotations, mutable } = parseParameters(
    request.parameters,
    defaultNamespace,
  )
  // A copy has what its source has, and is used as that where nothing else is asked for.
  const filesystem = filesystemFor(volumeCapabilities, source?.filesystem ?? fsType)
  checkSource(source, { namespace: poolNamespace, pool, filesystem })
  const range = parseRange(request.capacityRange)
  const asked = Math.max(range.least, source?.size ?? 0)
  const least = source?.size ?? leastSize(filesystem)
  const size = sizeIn(range, Math.max(asked === 0 ? DEFAULT_SIZE : asked, least))
  if (size < least) {
    const why =
      source === undefined
        ? `${filesystem} cannot be made on fewer than ${least} bytes.`
        : `the source has ${least} bytes, and a copy of it cannot have fewer.`
    throw new RpcError('OUT_OF_RANGE', `capacity_range: ${why}`)
  }
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
      ...(source === undefined
        ? { filesystem: { type: filesystem } }
        : { source: { kind: source.kind, name: source.ref.name } }),
      ...withoutNulls(merged(mutable, ofAttributes)),
    },
  }
  const spec = specOf(disk)
  for (const capability of volumeCapabilities) {
    const problem = capabilityProblem(capability, { readOnly: spec.readOnly, filesystem })
    if (problem) throw new RpcError('INVALID_ARGUMENT', `volume_capabilities: ${problem}.`)
  }
  return { name, ref, pool, range, filesystem, source, disk }
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
export function checkSame(found: OnDemandDisk, wanted: WantedVolume): void {
  const { name, pool, range, filesystem, source } = wanted
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
  const asked = source && { kind: source.kind, name: source.ref.name }
  if (!isDeepStrictEqual(spec.source, asked)) {
    const what =
      spec.source === undefined ? 'not a copy' : `a copy of the ${spec.source.kind} ${spec.source.name}`
    throw new RpcError('ALREADY_EXISTS', `The volume ${quote(name)} is there, and is ${what}.`)
  }
  if (spec.poolName !== pool || (source === undefined && spec.filesystem?.type !== filesystem)) {
    throw new RpcError(
      'ALREADY_EXISTS',
      `The volume ${quote(name)} is there, in the pool ${spec.poolName} and with the filesystem ${spec.filesystem?.type}.`,
    )
  }
}
