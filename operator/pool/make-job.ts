/**
 * The Job that makes disks on a pool's volume. What it is to make stands in an annotation of its Pods, which the kubelet
 * shows them as a file. So no object beside the Job has to be made and deleted, and no text of a user stands where
 * Kubernetes would expand `$(NAME)`.
 */
import type { DiskPool } from '../../crds/diskpool.ts'
import type { OnDemandDiskSpec } from '../../crds/ondemanddisk.ts'
import type { Job, KubeObject, OwnerReference } from '../kube/objects.ts'
import { ATTEMPT_LABEL, GENERATION_ANNOTATION, labelsOf, OBJECT_ANNOTATION } from '../terms/names.ts'
import { claimName } from './parts.ts'
import { commonContainer, commonPodSpec, POOL_MOUNT, poolVolume } from './pods.ts'
import { serverSelector } from './server-pod.ts'
import type { PodSettings } from './settings.ts'

/** Longer than a command may take, with the wait for a node and the image. */
const DEADLINE_SECONDS = 1200

export interface MakeJobTerms {
  readonly pool: DiskPool
  readonly name: string
  /** The OnDemandDisk, as `makeObject` has written it. */
  readonly object: string
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

/** The Job for one attempt at making disks. */
export function makeJob(terms: MakeJobTerms, settings: PodSettings): KubeObject {
  const { pool, name, object, owner, attempt, generation, args, besideServer } = terms
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
        metadata: { labels, annotations: { [OBJECT_ANNOTATION]: object } },
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
            { name: 'manifest', downwardAPI: { items: [OBJECT_FILE] } },
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

const OBJECT_FILE = {
  path: 'disk.json',
  fieldRef: { fieldPath: `metadata.annotations['${OBJECT_ANNOTATION}']` },
}

/** All annotations of an object have 256 KiB; the rest is for what admission adds. */
const MAX_OBJECT = 240 * 1024

/** What a Job is to make, as JSON. Who may connect is not the Job's business. */
export function makeObject(
  { apiVersion, kind, metadata }: Pick<KubeObject, 'apiVersion' | 'kind' | 'metadata'>,
  { access: _, ...spec }: Partial<OnDemandDiskSpec>,
): string {
  return JSON.stringify({ apiVersion, kind, metadata, spec })
}

/**
 * Why an object does not fit the Job, with the name of the field; undefined where it does. Only variables can be so
 * long: all other text together has 130 KiB at most, however it is escaped.
 */
export function objectProblem(object: string, spec: string): string | undefined {
  const bytes = Buffer.byteLength(object)
  if (bytes <= MAX_OBJECT) return undefined
  return `${spec}.variables: The object takes ${bytes} bytes as JSON, and at most ${MAX_OBJECT} reach the Job. Give less text in variables and command.`
}

/** Does a Job read its object from a ConfigMap of its name? Those of earlier operators do. */
export function readsConfigMap(job: Job | undefined): boolean {
  return job?.spec?.template.spec?.volumes?.some(({ configMap }) => configMap !== undefined) === true
}
