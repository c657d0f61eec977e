/** The Job that makes disks on a pool's volume. No text of a user stands in it: that is in the ConfigMap's data. */
import type { DiskPool } from '../../crds/diskpool.ts'
import type { KubeObject, OwnerReference } from '../kube/objects.ts'
import { ATTEMPT_LABEL, GENERATION_ANNOTATION, labelsOf } from '../terms/names.ts'
import { claimName } from './parts.ts'
import { commonContainer, commonPodSpec, POOL_MOUNT, poolVolume } from './pods.ts'
import { serverSelector } from './server-pod.ts'
import type { PodSettings } from './settings.ts'

/** Longer than a command may take, with the wait for a node and the image. */
const DEADLINE_SECONDS = 1200

export interface MakeJobTerms {
  readonly pool: DiskPool
  /** Of the Job and of the ConfigMap that has the object as `disk.json`. */
  readonly name: string
  readonly owner: OwnerReference
  /** Further labels of the Job and its Pod. */
  readonly labels: Readonly<Record<string, string>>
  readonly attempt: number
  readonly generation: number
  /** Where the disks are made, and options of `ondemand-disk make`. */
  readonly args: readonly string[]
  /** The volume can be mounted on one node only, that of the pool's server. */
  readonly besideServer: boolean
}

export function makeJob(terms: MakeJobTerms, settings: PodSettings): KubeObject {
  const { pool, name, owner, attempt, generation, args, besideServer } = terms
  const { metadata } = pool
  const labels = { ...labelsOf(metadata.name, 'make'), ...terms.labels, [ATTEMPT_LABEL]: String(attempt) }
  return {
    apiVersion: 'batch/v1',
    kind: 'Job',
    metadata: {
      name,
      ...(metadata.namespace !== undefined && { namespace: metadata.namespace }),
      labels,
      annotations: { [GENERATION_ANNOTATION]: String(generation) },
      ownerReferences: [owner],
    },
    spec: {
      // The operator tries again itself, with delays that outlast a Job and not at all where it cannot help.
      backoffLimit: 0,
      activeDeadlineSeconds: DEADLINE_SECONDS,
      template: {
        metadata: { labels },
        spec: {
          ...commonPodSpec(pool, settings),
          restartPolicy: 'Never',
          ...(besideServer && { affinity: besideServerOf(metadata.name) }),
          containers: [
            {
              name: 'make',
              ...commonContainer(settings),
              command: ['ondemand-disk', 'make'],
              args: [...args, '--manifest', '/manifest/disk.json', '--message-file', '/dev/termination-log'],
              volumeMounts: [
                POOL_MOUNT,
                { name: 'manifest', mountPath: '/manifest', readOnly: true },
                { name: 'tmp', mountPath: '/tmp' },
              ],
              resources: { requests: { cpu: '50m', memory: '96Mi' }, limits: { memory: '1Gi' } },
            },
          ],
          volumes: [
            poolVolume(claimName(pool)),
            { name: 'manifest', configMap: { name } },
            { name: 'tmp', emptyDir: {} },
          ],
        },
      },
    },
  } as KubeObject
}

function besideServerOf(pool: string) {
  const term = { labelSelector: { matchLabels: serverSelector(pool) }, topologyKey: 'kubernetes.io/hostname' }
  return { podAffinity: { requiredDuringSchedulingIgnoredDuringExecution: [term] } }
}

/** The ConfigMap of such a Job; `object` is an OnDemandDisk. */
export function makeConfigMap(
  pool: DiskPool,
  name: string,
  owner: OwnerReference,
  object: unknown,
): KubeObject {
  const { namespace } = pool.metadata
  return {
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: {
      name,
      ...(namespace !== undefined && { namespace }),
      labels: labelsOf(pool.metadata.name, 'make'),
      ownerReferences: [owner],
    },
    data: { 'disk.json': JSON.stringify(object) },
  } as KubeObject
}
