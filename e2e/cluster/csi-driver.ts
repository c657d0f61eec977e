/** The driver on the cluster: deployed by the chart, with what stands in for its sidecars, and a pool for its volumes. */
import type { TestContext } from 'vitest'
import { eventually } from '../until.ts'
import { noClientImage } from './client.ts'
import { DRIVER, type Sidecars, startSidecars } from './csi-sidecars.ts'
import { SNAPSHOT_KINDS, volumeSnapshots } from './csi-snapshotter.ts'
import { onNode, PATIENCE } from './csi-workloads.ts'
import { filesOfPool, GROUP, pool, poolPath, ready } from './disks.ts'
import { type Cluster, type KubeObject, newNamespace, onCluster, useCluster } from './harness.ts'
import { install, RELEASE_NAMESPACE } from './release.ts'

/** Name of the VolumeSnapshotClass, and of StorageClasses: ext4, and xfs, which grows in use also where the kernel grants nobody CAP_SYS_RESOURCE. */
export const CLASS = 'ondemand-disk-csi'
export const XFS_CLASS = `${CLASS}-xfs`

export interface CsiCluster extends AsyncDisposable {
  readonly cluster: Cluster
  readonly namespace: string
  readonly sidecars: Sidecars | undefined
  /** What the node had before any volume. */
  readonly before: Awaited<ReturnType<typeof onNode>>
}

/** Why the driver cannot be tried on this cluster. */
function obstacle(cluster: Cluster): string | undefined {
  const noPods = cluster.unavailable ?? noClientImage(cluster)
  if (noPods !== undefined) return noPods
  return cluster.own ? undefined : 'the kubelet of another machine cannot be reached'
}

export async function useCsi(): Promise<CsiCluster> {
  const cluster = await useCluster()
  if (obstacle(cluster) !== undefined) {
    return {
      cluster,
      namespace: '',
      sidecars: undefined,
      before: await onNode(),
      [Symbol.asyncDispose]: () => cluster[Symbol.asyncDispose](),
    }
  }
  const namespace = await newNamespace(cluster, 'e2e-csi')
  const { name } = namespace
  await cluster.apply(pool(name, 'lab'))
  await ready(cluster, poolPath(name, 'lab'))
  const classes = [
    [CLASS, 'ext4'],
    [XFS_CLASS, 'xfs'],
  ].flatMap(([className, filesystem], index) =>
    Object.entries({ name: className, pool: 'lab', poolNamespace: name, filesystem }).map(
      ([key, value]) => `csi.storageClasses[${index}].${key}=${value}`,
    ),
  )
  await cluster.apply(...SNAPSHOT_KINDS)
  for (const { metadata } of SNAPSHOT_KINDS) {
    await cluster.kubectl(['wait', '--for=condition=Established', `crd/${metadata.name}`, '--timeout=60s'])
  }
  classes.push(`csi.snapshotClasses[0].name=${CLASS}`)
  await install(cluster, 'csi.enabled=true', 'csi.logLevel=debug', ...classes)
  const before = await onNode()
  const sidecars = await startSidecars(cluster)
  await eventually('the kubelet knows the driver', PATIENCE, async () => {
    const node = await cluster.get('/apis/storage.k8s.io/v1/csinodes/node1')
    return node?.spec.drivers?.some(({ name: driver }: KubeObject) => driver === DRIVER)
  })
  return {
    ...{ cluster, namespace: name, sidecars, before },
    async [Symbol.asyncDispose]() {
      // Of a test that failed: who uses a volume goes before the server of its disk does, for which it would wait.
      const users = ['delete', 'pods', '-n', name, '-l', '!app.kubernetes.io/component', '--timeout=100s']
      await cluster.kubectl(users).catch((error: unknown) => process.stderr.write(`${error}\n`))
      await namespace[Symbol.asyncDispose]()
      await sidecars[Symbol.asyncDispose]()
      await install(cluster, 'csi.enabled=false')
      const kinds = SNAPSHOT_KINDS.map(({ metadata }) => `crd/${metadata.name}`)
      await cluster.kubectl(['delete', ...kinds])
      await cluster[Symbol.asyncDispose]()
    },
  }
}

/** Skips the test where the driver cannot be tried, and keeps what is known when it fails. */
export function onCsi(context: TestContext, { cluster, namespace, sidecars }: CsiCluster): void {
  const reason = obstacle(cluster)
  context.skip(reason !== undefined, reason)
  onCluster(context, cluster, namespace, RELEASE_NAMESPACE)
  context.onTestFailed(() => {
    process.stderr.write(`${sidecars?.failures.slice(-10).join('\n')}\n`)
  })
}

/** Nothing is left of any volume: no claim, volume, disk or attachment, no file of the pool, no device, no mount. */
export async function nothingLeft({ cluster, namespace, before }: CsiCluster): Promise<void> {
  let left: unknown
  try {
    await eventually('nothing is left', PATIENCE, async () => {
      const items = async (where: string): Promise<KubeObject[]> => (await cluster.get(where))?.items ?? []
      const names = (objects: readonly KubeObject[]) => objects.map(({ metadata }) => metadata.name)
      const claims = `/api/v1/namespaces/${namespace}/persistentvolumeclaims?labelSelector=!ondemanddisk.dev/pool`
      const objects = [
        ...names(await items(claims)),
        ...names((await items('/api/v1/persistentvolumes')).filter(({ spec }) => spec.csi)),
        ...names(await items(`${GROUP}/namespaces/${namespace}/ondemanddisks`)),
        ...names(await items(`${GROUP}/namespaces/${namespace}/disksnapshots`)),
        ...names(await items('/apis/storage.k8s.io/v1/volumeattachments')),
        ...names(await volumeSnapshots(cluster)),
      ]
      const files = objects.length === 0 ? await filesOfPool(cluster, namespace) : []
      const now = await onNode()
      left = { objects, files, now }
      const isTidy = objects.length === 0 && files.length === 0
      return isTidy && JSON.stringify(now) === JSON.stringify(before)
    })
  } catch (error) {
    throw new Error(`There is left: ${JSON.stringify(left)}; before there was: ${JSON.stringify(before)}`, {
      cause: error,
    })
  }
}
