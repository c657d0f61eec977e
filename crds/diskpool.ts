import { isDeepStrictEqual } from 'node:util'
import { InvalidSpecError } from './invalid-spec-error.ts'
import type { API_GROUP_VERSION, Condition, ObjectMeta } from './object.ts'
import { checkedCopy } from './object.ts'
import type { LimitsSpec, OnDemandDiskSpec } from './ondemanddisk.ts'
import { formatSize } from './quantity.ts'
import { quote } from './quote.ts'
import { compileCrdSchema, type ObjectValidator } from './schema.ts'
import { checkAccess, resolveBytes, resolveLimits, resolveSpec, type UncheckedSpec } from './spec-checks.ts'

export const DISKPOOL_KIND = 'DiskPool'

/** A volume of disks and their server, its defaults filled in, its sizes in bytes. It is itself a valid object. */
export interface DiskPool {
  readonly apiVersion: typeof API_GROUP_VERSION
  readonly kind: typeof DISKPOOL_KIND
  readonly metadata: ObjectMeta
  readonly spec: DiskPoolSpec
  readonly status?: DiskPoolStatus
}

/** The fields are described in `diskpool.yaml`. */
export interface DiskPoolSpec {
  readonly storage: StorageSpec
  readonly server: ServerSpec
  readonly tls: TlsSpec
  readonly access: PoolAccessSpec
  readonly exportNames: 'Strict' | 'Relaxed'
  readonly onDemand: OnDemandSpec
  /** Bytes. Absent: no limit. */
  readonly quota?: number
}

/** Exactly one of the two. */
export interface StorageSpec {
  readonly claimName?: string
  readonly claimTemplate?: ClaimTemplateSpec
}

export interface ClaimTemplateSpec {
  /** Absent: the cluster's default class. Empty: none. */
  readonly storageClassName?: string
  readonly accessModes: readonly ('ReadWriteOnce' | 'ReadWriteMany')[]
  /** Bytes. */
  readonly size: number
  readonly volumeName?: string
  readonly annotations?: Readonly<Record<string, string>>
}

export interface ServerSpec {
  readonly serviceType: 'ClusterIP' | 'NodePort' | 'LoadBalancer'
  /** With NodePort and LoadBalancer only. */
  readonly externalTrafficPolicy?: 'Cluster' | 'Local'
  /** With NodePort and LoadBalancer only. */
  readonly nodePort?: number
  readonly serviceAnnotations?: Readonly<Record<string, string>>
  readonly resources: {
    readonly requests?: Readonly<Record<string, string | number>>
    readonly limits?: Readonly<Record<string, string | number>>
  }
  readonly nodeSelector?: Readonly<Record<string, string>>
  readonly tolerations: readonly Toleration[]
  /** As in a Pod; the API server checks it with the Pod. */
  readonly affinity?: Readonly<Record<string, unknown>>
  readonly priorityClassName?: string
  readonly podLabels?: Readonly<Record<string, string>>
  readonly podAnnotations?: Readonly<Record<string, string>>
}

export interface Toleration {
  readonly key?: string
  readonly operator?: 'Exists' | 'Equal'
  readonly value?: string
  readonly effect?: 'NoSchedule' | 'PreferNoSchedule' | 'NoExecute'
  readonly tolerationSeconds?: number
}

export interface TlsSpec {
  readonly mode: 'Off' | 'On' | 'Require'
  /** Present unless the mode is Off. */
  readonly secretName?: string
}

export interface PoolAccessSpec {
  readonly allow: readonly string[]
  readonly deny: readonly string[]
  /** Absent: no limit. */
  readonly maxConnections?: number
  /** Absent: no limit. */
  readonly maxConnectionsPerClient?: number
  readonly limits: LimitsSpec
}

/** What a disk that is made on demand is like. */
export type DiskTemplate = Omit<OnDemandDiskSpec, 'poolName' | 'exportName'>

export interface OnDemandSpec {
  readonly enabled: boolean
  /** Present where enabled. */
  readonly template?: DiskTemplate
  /** Bytes. Absent: clients cannot choose a size. */
  readonly maxSize?: number
  /** Absent: no limit. */
  readonly maxDisks?: number
  readonly spares: number
}

export interface DiskPoolStatus {
  readonly observedGeneration?: number
  readonly conditions?: readonly Condition[]
  /** Where the server is, without an export name: `nbd://HOST:PORT`. */
  readonly uri?: string
  readonly disks?: number
  /** Formatted disks in store. */
  readonly spares?: number
  readonly connections?: number
  /** Bytes: the sum of the disks' sizes. */
  readonly provisioned?: number
  /** Bytes of the volume. */
  readonly capacity?: number
  /** Bytes of the volume. */
  readonly free?: number
}

let validator: ObjectValidator | undefined

/**
 * Checks an object, as it was read from Kubernetes, against the CRD's schema and against what a schema cannot
 * say, and fills in the defaults. The object itself is left as it is.
 * @throws InvalidSpecError for the first bad field
 */
export function parseDiskPool(object: unknown): DiskPool {
  validator ??= compileCrdSchema(new URL('./diskpool.yaml', import.meta.url))
  const pool = checkedCopy(object, DISKPOOL_KIND, validator) as UncheckedPool
  const { metadata, spec } = pool
  checkName(metadata.name)
  checkServer(spec.server)
  checkTls(spec)
  checkAccess(spec)
  return {
    ...pool,
    spec: {
      ...spec,
      storage: resolveStorage(spec.storage),
      access: { ...spec.access, limits: resolveAt('spec.access', () => resolveLimits(spec.access.limits)) },
      onDemand: resolveOnDemand(spec),
      ...(spec.quota !== undefined && { quota: resolveBytes('spec.quota', spec.quota) }),
    } as DiskPoolSpec,
  }
}

type Quantity = string | number

/** What the schema has let through: sizes are still quantities, and fields may exclude each other. */
interface UncheckedPool extends Omit<DiskPool, 'spec'> {
  readonly spec: UncheckedPoolSpec
}

interface UncheckedPoolSpec extends Omit<DiskPoolSpec, 'storage' | 'access' | 'onDemand' | 'quota'> {
  readonly storage: {
    readonly claimName?: string
    readonly claimTemplate?: Omit<ClaimTemplateSpec, 'size'> & { readonly size: Quantity }
  }
  readonly access: Omit<PoolAccessSpec, 'limits'> & { readonly limits: UncheckedSpec['limits'] }
  readonly onDemand: Omit<OnDemandSpec, 'template' | 'maxSize'> & {
    readonly template?: Omit<UncheckedSpec, 'poolName' | 'exportName'>
    readonly maxSize?: Quantity
  }
  readonly quota?: Quantity
}

/** The pool's Service has its name, and Services' names are stricter than those of other objects. */
function checkName(name: string): void {
  if (name.length > 63 || !/^[a-z]([-a-z0-9]*[a-z0-9])?$/.test(name)) {
    throw new InvalidSpecError(
      'metadata.name',
      `${quote(name)} is no name for a pool. Give at most 63 lower-case letters, digits and "-", a letter first.`,
    )
  }
}

function resolveStorage({ claimName, claimTemplate }: UncheckedPoolSpec['storage']): StorageSpec {
  if ((claimName === undefined) === (claimTemplate === undefined)) {
    throw new InvalidSpecError('spec.storage', 'Give exactly one of claimName and claimTemplate.')
  }
  if (claimTemplate === undefined) return claimName === undefined ? {} : { claimName }
  const size = resolveBytes('spec.storage.claimTemplate.size', claimTemplate.size)
  return { claimTemplate: { ...claimTemplate, size } }
}

function checkServer(server: ServerSpec): void {
  if (server.serviceType !== 'ClusterIP') return
  for (const field of ['nodePort', 'externalTrafficPolicy'] as const) {
    if (server[field] !== undefined) {
      throw new InvalidSpecError(
        `spec.server.${field}`,
        'Remove it, or make spec.server.serviceType NodePort or LoadBalancer.',
      )
    }
  }
}

function checkTls({ tls, access }: UncheckedPoolSpec): void {
  if (tls.mode !== 'Off') {
    if (tls.secretName !== undefined) return
    throw new InvalidSpecError(
      'spec.tls.secretName',
      `This field is required with the mode ${tls.mode}. Name the Secret with tls.crt and tls.key.`,
    )
  }
  for (const list of ['allow', 'deny'] as const) {
    const index = access[list].findIndex(rule => rule.startsWith('dn:'))
    if (index >= 0) {
      throw new InvalidSpecError(
        `spec.access.${list}[${index}]`,
        'A rule that begins with dn: needs TLS. Remove it, or make spec.tls.mode On or Require.',
      )
    }
  }
}

const TEMPLATE = 'spec.onDemand.template'

function resolveOnDemand({ onDemand, exportNames }: UncheckedPoolSpec): OnDemandSpec {
  const { enabled, spares, maxDisks } = onDemand
  if (enabled && !onDemand.template) {
    throw new InvalidSpecError(TEMPLATE, 'This field is required where spec.onDemand.enabled is true.')
  }
  const template = onDemand.template && resolveTemplate(onDemand.template, exportNames)
  if (spares > 0 && template && (template.mode === 'Temporary' || template.upstream)) {
    const why = template.upstream ? 'with upstream' : 'that is Temporary'
    throw new InvalidSpecError(
      'spec.onDemand.spares',
      `Remove it: a disk ${why} cannot be made before it is used.`,
    )
  }
  const maxSize =
    onDemand.maxSize === undefined ? undefined : resolveBytes('spec.onDemand.maxSize', onDemand.maxSize)
  if (maxSize !== undefined && template?.size !== undefined && maxSize < template.size) {
    throw new InvalidSpecError(
      'spec.onDemand.maxSize',
      `Give at least ${template.size} (${formatSize(template.size)}), the size in ${TEMPLATE}.`,
    )
  }
  return {
    enabled,
    spares,
    ...(template && { template }),
    ...(maxSize !== undefined && { maxSize }),
    ...(maxDisks !== undefined && { maxDisks }),
  }
}

function resolveTemplate(
  template: Omit<UncheckedSpec, 'poolName' | 'exportName'>,
  exportNames: 'Strict' | 'Relaxed',
): DiskTemplate {
  const names = exportNames === 'Strict' ? 'strict' : 'relaxed'
  const whole: UncheckedSpec = { ...template, poolName: 'template', exportName: 'template' }
  const {
    poolName: _,
    exportName: __,
    ...resolved
  } = resolveAt(TEMPLATE, () => resolveSpec(whole, 'template', names))
  return resolved
}

/** Runs a check of a disk's spec on one that stands elsewhere, and names the fields as they stand there. */
function resolveAt<T>(path: string, resolve: () => T): T {
  try {
    return resolve()
  } catch (error) {
    if (!(error instanceof InvalidSpecError)) throw error
    const reason = error.reason.replaceAll(/\bspec\./g, `${path}.`)
    throw new InvalidSpecError(error.field.replace(/^spec/, path), reason, { cause: error })
  }
}

/**
 * Checks that a pool may change from one spec to another, by the rules that the CRD's transition rules give to
 * the API server: it keeps its claim, which grows only.
 * @throws InvalidSpecError for the first field that must not change so
 */
export function checkPoolTransition(before: DiskPool, after: DiskPool): void {
  const [old, next] = [before.spec.storage, after.spec.storage]
  for (const field of ['claimName', 'claimTemplate'] as const) {
    if ((old[field] === undefined) !== (next[field] === undefined)) {
      const done = old[field] === undefined ? 'added. Remove it' : 'removed. Give it again'
      throw new InvalidSpecError(`spec.storage.${field}`, `It cannot be ${done}, or make a new pool.`)
    }
  }
  if (old.claimName !== next.claimName) {
    throw new InvalidSpecError(
      'spec.storage.claimName',
      `It cannot be changed. Set it back to ${quote(old.claimName ?? '')}, or make a new pool.`,
    )
  }
  if (!old.claimTemplate || !next.claimTemplate) return
  for (const field of ['storageClassName', 'accessModes', 'volumeName'] as const) {
    if (!isDeepStrictEqual(old.claimTemplate[field], next.claimTemplate[field])) {
      throw new InvalidSpecError(
        `spec.storage.claimTemplate.${field}`,
        'It cannot be changed. Set it back, or make a new pool.',
      )
    }
  }
  if (next.claimTemplate.size < old.claimTemplate.size) {
    throw new InvalidSpecError(
      'spec.storage.claimTemplate.size',
      `A claim cannot shrink. Give at least ${old.claimTemplate.size} (${formatSize(old.claimTemplate.size)}).`,
    )
  }
}
