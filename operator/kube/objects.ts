/** The objects that the API server stores, as they are on the wire, and how each kind is addressed. */
import type {
  V1ConfigMap,
  V1Job,
  V1Lease,
  V1Namespace,
  V1NetworkPolicy,
  V1Node,
  V1PersistentVolumeClaim,
  V1Pod,
  V1RoleBinding,
  V1Service,
  V1ServiceAccount,
  V1StatefulSet,
} from '@kubernetes/client-node'

/** What all objects have. */
export interface KubeObject {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: KubeObjectMeta
}

export interface KubeObjectMeta {
  readonly name: string
  /** Absent: the object belongs to the cluster as a whole. */
  readonly namespace?: string
  readonly uid?: string
  /** Opaque: only equality means anything. */
  readonly resourceVersion?: string
  readonly generation?: number
  /** RFC 3339. */
  readonly creationTimestamp?: string
  /** RFC 3339; the object is being deleted. */
  readonly deletionTimestamp?: string
  readonly finalizers?: readonly string[]
  readonly ownerReferences?: readonly OwnerReference[]
  readonly labels?: Readonly<Record<string, string>>
  readonly annotations?: Readonly<Record<string, string>>
}

export interface OwnerReference {
  readonly apiVersion: string
  readonly kind: string
  readonly name: string
  readonly uid: string
  readonly controller?: boolean
  readonly blockOwnerDeletion?: boolean
}

/**
 * A kind of objects and where the API server keeps them. `T` is what they look like; nothing checks that they
 * do, as nothing but the API server could.
 */
export interface Resource<T extends KubeObject = KubeObject> {
  /** Empty for the core group. */
  readonly group: string
  readonly version: string
  readonly kind: string
  readonly plural: string
  readonly namespaced: boolean
  /** For the type alone; never there. */
  readonly _object?: T
}

/** `apps/v1`, or `v1` for the core group. */
export function groupVersion({ group, version }: Resource): string {
  return group === '' ? version : `${group}/${version}`
}

/**
 * What client-node's type looks like on the wire, which is what this library hands out. Dates are text, and names have
 * no underscore before them. Nothing may be changed in place, since it may stand in a cache.
 */
export type Wire<T> = T extends Date
  ? string
  : T extends readonly (infer Item)[]
    ? readonly Wire<Item>[]
    : T extends object
      ? { readonly [Key in keyof T as Key extends `_${infer Name}` ? Name : Key]: Wire<T[Key]> }
      : T

/** An object of one of Kubernetes' own kinds. */
export type Typed<T> = KubeObject & Omit<Wire<T>, 'apiVersion' | 'kind' | 'metadata'>

export type ConfigMap = Typed<V1ConfigMap>
export type Job = Typed<V1Job>
export type Lease = Typed<V1Lease>
export type Namespace = Typed<V1Namespace>
export type NetworkPolicy = Typed<V1NetworkPolicy>
export type Node = Typed<V1Node>
export type PersistentVolumeClaim = Typed<V1PersistentVolumeClaim>
export type Pod = Typed<V1Pod>
export type RoleBinding = Typed<V1RoleBinding>
export type Service = Typed<V1Service>
export type ServiceAccount = Typed<V1ServiceAccount>
export type StatefulSet = Typed<V1StatefulSet>

function core<T extends KubeObject>(kind: string, plural: string, namespaced = true): Resource<T> {
  return { group: '', version: 'v1', kind, plural, namespaced }
}

function inGroup<T extends KubeObject>(
  group: string,
  kind: string,
  plural: string,
  namespaced = true,
): Resource<T> {
  return { group, version: 'v1', kind, plural, namespaced }
}

export const CONFIG_MAPS = core<ConfigMap>('ConfigMap', 'configmaps')
export const NAMESPACES = core<Namespace>('Namespace', 'namespaces', false)
export const NODES = core<Node>('Node', 'nodes', false)
export const PERSISTENT_VOLUME_CLAIMS = core<PersistentVolumeClaim>(
  'PersistentVolumeClaim',
  'persistentvolumeclaims',
)
export const PODS = core<Pod>('Pod', 'pods')
export const SERVICES = core<Service>('Service', 'services')
export const SERVICE_ACCOUNTS = core<ServiceAccount>('ServiceAccount', 'serviceaccounts')
export const STATEFUL_SETS = inGroup<StatefulSet>('apps', 'StatefulSet', 'statefulsets')
export const JOBS = inGroup<Job>('batch', 'Job', 'jobs')
export const LEASES = inGroup<Lease>('coordination.k8s.io', 'Lease', 'leases')
export const NETWORK_POLICIES = inGroup<NetworkPolicy>(
  'networking.k8s.io',
  'NetworkPolicy',
  'networkpolicies',
)
export const ROLE_BINDINGS = inGroup<RoleBinding>('rbac.authorization.k8s.io', 'RoleBinding', 'rolebindings')
