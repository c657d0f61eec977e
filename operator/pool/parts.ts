/** What a pool is made of beside its server: claim, Service, the agent's account, NetworkPolicy. */
import type { DiskPool } from '../../crds/diskpool.ts'
import type { KubeObject, OwnerReference } from '../kube/objects.ts'
import { labelsOf, poolNames } from '../terms/names.ts'
import { AGENT_METRICS_PORT, NBD_METRICS_PORT, NBD_PORT, serverSelector } from './server-pod.ts'
import type { PodSettings } from './settings.ts'

/** The pool as the owner of what goes with it. */
export function ownerOf({ apiVersion, kind, metadata }: DiskPool): OwnerReference {
  return {
    apiVersion,
    kind,
    name: metadata.name,
    uid: metadata.uid ?? '',
    controller: true,
    blockOwnerDeletion: true,
  }
}

function meta({ metadata: { name: pool, namespace } }: DiskPool, name: string, owner?: OwnerReference) {
  return {
    name,
    ...(namespace !== undefined && { namespace }),
    labels: labelsOf(pool, owner ? 'server' : 'storage'),
    ...(owner && { ownerReferences: [owner] }),
  }
}

/** Name of the claim that holds the disks. */
export function claimName({ metadata, spec }: DiskPool): string {
  return spec.storage.claimName ?? poolNames(metadata.name).claim
}

/** The claim that the pool gets for itself. It has no owner: data goes only when a person deletes the claim. */
export function claim(pool: DiskPool): KubeObject | undefined {
  const template = pool.spec.storage.claimTemplate
  if (!template) return undefined
  const { storageClassName, accessModes, size, volumeName, annotations } = template
  return {
    apiVersion: 'v1',
    kind: 'PersistentVolumeClaim',
    metadata: { ...meta(pool, claimName(pool)), ...(annotations && { annotations }) },
    spec: {
      accessModes,
      resources: { requests: { storage: String(size) } },
      ...(storageClassName !== undefined && { storageClassName }),
      ...(volumeName !== undefined && { volumeName }),
    },
  } as KubeObject
}

/** Where clients find the pool's server. */
export function service(pool: DiskPool, owner: OwnerReference): KubeObject {
  const { serviceType, externalTrafficPolicy, nodePort, serviceAnnotations } = pool.spec.server
  const names = poolNames(pool.metadata.name)
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: {
      ...meta(pool, names.service, owner),
      ...(serviceAnnotations && { annotations: serviceAnnotations }),
    },
    spec: {
      type: serviceType,
      ...(externalTrafficPolicy && { externalTrafficPolicy }),
      selector: serverSelector(pool.metadata.name),
      ports: [
        {
          name: 'nbd',
          port: NBD_PORT,
          targetPort: 'nbd',
          protocol: 'TCP',
          ...(nodePort !== undefined && { nodePort }),
        },
      ],
    },
  } as KubeObject
}

/** Who the agent is. */
export function serviceAccount(pool: DiskPool, owner: OwnerReference): KubeObject {
  return {
    apiVersion: 'v1',
    kind: 'ServiceAccount',
    metadata: meta(pool, poolNames(pool.metadata.name).agent, owner),
    automountServiceAccountToken: false,
  } as KubeObject
}

/** Gives the agent its rights, in the pool's namespace alone. */
export function roleBinding(
  pool: DiskPool,
  owner: OwnerReference,
  { agentClusterRole }: PodSettings,
): KubeObject {
  const { agent } = poolNames(pool.metadata.name)
  return {
    apiVersion: 'rbac.authorization.k8s.io/v1',
    kind: 'RoleBinding',
    metadata: meta(pool, agent, owner),
    roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: agentClusterRole },
    subjects: [{ kind: 'ServiceAccount', name: agent, namespace: pool.metadata.namespace }],
  } as KubeObject
}

/** Who may reach the server at all is its own business, by the rules of pool and disks; what else the Pod has is not to be reached. */
export function networkPolicy(pool: DiskPool, owner: OwnerReference): KubeObject {
  const ports = [NBD_PORT, NBD_METRICS_PORT, AGENT_METRICS_PORT]
  return {
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: meta(pool, poolNames(pool.metadata.name).networkPolicy, owner),
    spec: {
      podSelector: { matchLabels: serverSelector(pool.metadata.name) },
      policyTypes: ['Ingress'],
      ingress: [{ ports: ports.map(port => ({ protocol: 'TCP', port })) }],
    },
  } as KubeObject
}
