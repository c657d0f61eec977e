/**
 * Stands in for Kubernetes' snapshot controller and the sidecar external-snapshotter, whose images cannot be had here: kinds
 * of the same names with the fields that are used, and the same calls at the driver. What it does not have: secrets,
 * snapshots that were made elsewhere, validation.
 */
import type { Cluster, KubeObject } from './harness.ts'

const GROUP = 'snapshot.storage.k8s.io'
const API = `/apis/${GROUP}/v1`
const FINALIZER = `${GROUP}/volumesnapshot-bound-protection`

type Call = (method: string, request: object) => Promise<KubeObject>

const definition = (kind: string, scope: 'Namespaced' | 'Cluster'): KubeObject => {
  const singular = kind.toLowerCase()
  const plural = kind.endsWith('s') ? `${singular}es` : `${singular}s`
  const schema = { type: 'object', 'x-kubernetes-preserve-unknown-fields': true }
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: {
      name: `${plural}.${GROUP}`,
      // Only what Kubernetes' own developers approved may be called so, or what says that it was not.
      annotations: { 'api-approved.kubernetes.io': 'unapproved, stands in for the real one in a test' },
    },
    spec: {
      group: GROUP,
      names: { kind, listKind: `${kind}List`, plural, singular },
      scope,
      versions: [{ name: 'v1', served: true, storage: true, schema: { openAPIV3Schema: schema } }],
    },
  }
}

/** The kinds of the API group. */
export const SNAPSHOT_KINDS: readonly KubeObject[] = [
  definition('VolumeSnapshot', 'Namespaced'),
  definition('VolumeSnapshotClass', 'Cluster'),
  definition('VolumeSnapshotContent', 'Cluster'),
]

export const volumeSnapshot = (
  namespace: string,
  name: string,
  className: string,
  claim: string,
): KubeObject => ({
  apiVersion: `${GROUP}/v1`,
  kind: 'VolumeSnapshot',
  metadata: { namespace, name },
  spec: { volumeSnapshotClassName: className, source: { persistentVolumeClaimName: claim } },
})

export const volumeSnapshotPath = (namespace: string, name: string) =>
  `${API}/namespaces/${namespace}/volumesnapshots/${name}`

const contentPath = (snapshot: KubeObject) =>
  `${API}/volumesnapshotcontents/snapcontent-${snapshot.metadata.uid}`

/** All snapshots that there are, or were; none where the kinds are not known. */
export const volumeSnapshots = async (cluster: Cluster): Promise<KubeObject[]> =>
  (await cluster.get(`${API}/volumesnapshots`))?.items ?? []

/** The volume of a claim, by the driver's own name for it. Throws while it is not bound. */
async function handleOf(cluster: Cluster, namespace: string, claim: string): Promise<string> {
  const found = await cluster.get(`/api/v1/namespaces/${namespace}/persistentvolumeclaims/${claim}`)
  const volume = await cluster.get(`/api/v1/persistentvolumes/${found?.spec.volumeName}`)
  if (volume === undefined) throw new Error(`The claim ${claim} is not bound.`)
  return volume.spec.csi.volumeHandle
}

/** What a new volume is to be made of, by the data source of its claim. Throws while that is not ready. */
export async function contentSource(
  cluster: Cluster,
  { metadata: { namespace }, spec: { dataSource } }: KubeObject,
): Promise<object | undefined> {
  if (!dataSource) return undefined
  const { kind, name } = dataSource
  if (kind === 'PersistentVolumeClaim') {
    return { volume: { volumeId: await handleOf(cluster, namespace, name) } }
  }
  const snapshot = await cluster.get(volumeSnapshotPath(namespace, name))
  const content = snapshot && (await cluster.get(contentPath(snapshot)))
  if (!content?.status.readyToUse) throw new Error(`The snapshot ${name} is not ready to use.`)
  return { snapshot: { snapshotId: content.status.snapshotHandle } }
}

/** Takes a snapshot that is asked for, or removes one that is deleted; to be called again until there is nothing to do. */
export async function reconcileSnapshot(cluster: Cluster, call: Call, snapshot: KubeObject): Promise<void> {
  const { namespace, name, uid, deletionTimestamp, finalizers = [] } = snapshot.metadata
  const path = volumeSnapshotPath(namespace, name)
  const content = await cluster.get(contentPath(snapshot))
  if (deletionTimestamp !== undefined) {
    if (content !== undefined) {
      await call('DeleteSnapshot', { snapshotId: content.status.snapshotHandle })
      await cluster.send('DELETE', contentPath(snapshot))
    }
    await cluster.send('PATCH', path, { metadata: { finalizers: null } })
    return
  }
  if (snapshot.status?.readyToUse) return
  if (!finalizers.includes(FINALIZER)) {
    await cluster.send('PATCH', path, { metadata: { finalizers: [FINALIZER] } })
  }
  const { volumeSnapshotClassName, source } = snapshot.spec
  const { driver, deletionPolicy } = await cluster.get(
    `${API}/volumesnapshotclasses/${volumeSnapshotClassName}`,
  )
  const volumeHandle = await handleOf(cluster, namespace, source.persistentVolumeClaimName)
  const made = (await call('CreateSnapshot', { sourceVolumeId: volumeHandle, name: `snapshot-${uid}` }))
    .snapshot
  const status = { readyToUse: made.readyToUse, restoreSize: Number(made.sizeBytes) }
  await cluster.apply({
    apiVersion: `${GROUP}/v1`,
    kind: 'VolumeSnapshotContent',
    metadata: { name: `snapcontent-${uid}` },
    spec: {
      ...{ driver, deletionPolicy, volumeSnapshotClassName, source: { volumeHandle } },
      volumeSnapshotRef: { kind: 'VolumeSnapshot', namespace, name, uid },
    },
    status: { ...status, snapshotHandle: made.snapshotId },
  })
  await cluster.send('PATCH', path, {
    status: { ...status, boundVolumeSnapshotContentName: `snapcontent-${uid}` },
  })
}
