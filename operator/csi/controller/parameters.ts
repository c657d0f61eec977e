/** The parameters of a StorageClass and of a VolumeAttributesClass. */
import { API_GROUP } from '../../../crds/object.ts'
import { parseQuantity, SizeError } from '../../../crds/quantity.ts'
import { quote } from '../../../crds/quote.ts'
import type { StringMap } from '../protocol/messages.ts'
import { RpcError } from '../rpc/rpc-error.ts'

/** What a parameter says, as a part of the spec of a disk. Null: no such limit. */
export interface MutableSpec {
  readonly readOnly?: boolean
  readonly access?: { allow?: readonly string[]; deny?: readonly string[]; connections?: number }
  readonly limits?: {
    readBytesPerSecond?: number | null
    writeBytesPerSecond?: number | null
    iops?: number | null
  }
}

export interface VolumeParameters {
  readonly pool: string
  readonly poolNamespace: string
  readonly fsType: string | undefined
  /** For people: the claim that the volume is for. */
  readonly annotations: StringMap
  readonly mutable: MutableSpec
}

const FS_TYPE = 'csi.storage.k8s.io/fstype'
/** What the provisioner adds with `--extra-create-metadata`, and the annotations of the disk: those have one slash only. */
const METADATA: ReadonlyMap<string, string> = new Map([
  ['csi.storage.k8s.io/pvc/name', `${API_GROUP}/pvc-name`],
  ['csi.storage.k8s.io/pvc/namespace', `${API_GROUP}/pvc-namespace`],
  ['csi.storage.k8s.io/pv/name', `${API_GROUP}/pv-name`],
])
const LABEL = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/

type Reader = (value: string, key: string) => MutableSpec

const READERS: Readonly<Record<string, Reader>> = {
  allow: value => ({ access: { allow: rules(value) } }),
  deny: value => ({ access: { deny: rules(value) } }),
  connections: (value, key) => ({ access: { connections: count(value, key) } }),
  readOnly: (value, key) => ({ readOnly: truth(value, key) }),
  readBytesPerSecond: (value, key) => ({ limits: { readBytesPerSecond: bytes(value, key) } }),
  writeBytesPerSecond: (value, key) => ({ limits: { writeBytesPerSecond: bytes(value, key) } }),
  iops: (value, key) => ({ limits: { iops: value === '' ? null : count(value, key) } }),
}

/** Parameters that can be changed while the volume is there. */
const MUTABLE_PARAMETERS = Object.keys(READERS)

/**
 * Reads what a VolumeAttributesClass says. Whether the rules and numbers are right is for the check of the whole spec.
 * @throws RpcError INVALID_ARGUMENT, naming the parameter
 */
export function parseMutableParameters(parameters: StringMap): MutableSpec {
  let spec: MutableSpec = {}
  for (const [key, value] of Object.entries(parameters)) {
    const reader = Object.hasOwn(READERS, key) ? READERS[key] : undefined
    if (!reader) throw unknown(key, MUTABLE_PARAMETERS)
    const more = reader(value, key)
    const access = { ...spec.access, ...more.access }
    const limits = { ...spec.limits, ...more.limits }
    spec = { ...spec, ...more, ...(more.access && { access }), ...(more.limits && { limits }) }
  }
  return spec
}

/**
 * Reads what a StorageClass says.
 * @param defaultNamespace The driver's own, if it has one.
 * @throws RpcError INVALID_ARGUMENT, naming the parameter
 */
export function parseParameters(
  parameters: StringMap,
  defaultNamespace: string | undefined,
): VolumeParameters {
  const { pool, poolNamespace = defaultNamespace, [FS_TYPE]: fsType, ...others } = parameters
  const annotations: Record<string, string> = {}
  const mutable: Record<string, string> = {}
  for (const [key, value] of Object.entries(others)) {
    const annotation = METADATA.get(key)
    if (annotation !== undefined) annotations[annotation] = value
    else if (Object.hasOwn(READERS, key)) mutable[key] = value
    else throw unknown(key, ['pool', 'poolNamespace', FS_TYPE, ...MUTABLE_PARAMETERS])
  }
  return {
    pool: label('pool', pool),
    poolNamespace: label('poolNamespace', poolNamespace),
    fsType: fsType === '' ? undefined : fsType,
    annotations,
    mutable: parseMutableParameters(mutable),
  }
}

/**
 * Why a volume was not made with these parameters; undefined where it may have been, or none are given. A filesystem is not
 * looked at: a capability, or the source of a copy, goes before it; nor is what can be changed.
 * @throws RpcError INVALID_ARGUMENT for parameters that no volume is made with
 */
export function parametersProblem(
  parameters: StringMap,
  own: { readonly namespace: string; readonly pool: string },
): string | undefined {
  if (Object.keys(parameters).length === 0) return undefined
  const { pool, poolNamespace } = parseParameters(parameters, own.namespace)
  if (pool === own.pool && poolNamespace === own.namespace) return undefined
  return `it is in the pool ${own.namespace}/${own.pool}, not in ${poolNamespace}/${pool}`
}

function label(key: string, value: string | undefined): string {
  if (value === undefined || value === '') {
    throw invalid(key, 'It is missing. Name the DiskPool, and its namespace, in the StorageClass.')
  }
  if (!LABEL.test(value)) throw invalid(key, `${quote(value)} is no such name.`)
  return value
}

const rules = (value: string) =>
  value
    .split(',')
    .map(rule => rule.trim())
    .filter(rule => rule !== '')

function truth(value: string, key: string): boolean {
  if (value === 'true') return true
  if (value === 'false') return false
  throw invalid(key, `${quote(value)} is neither true nor false.`)
}

function count(value: string, key: string): number {
  if (/^[0-9]{1,10}$/.test(value)) return Number(value)
  throw invalid(key, `${quote(value)} is not a whole number.`)
}

function bytes(value: string, key: string): number | null {
  if (value === '') return null
  try {
    return parseQuantity(value)
  } catch (error) {
    if (!(error instanceof SizeError)) throw error
    throw invalid(key, error.message)
  }
}

function unknown(key: string, known: readonly string[]): RpcError {
  return new RpcError(
    'INVALID_ARGUMENT',
    `There is no parameter ${quote(key)}. There are: ${known.join(', ')}.`,
  )
}

function invalid(key: string, reason: string): RpcError {
  return new RpcError('INVALID_ARGUMENT', `Parameter ${key}: ${reason}`)
}
