/**
 * PersistentVolumeClaims on a real kubelet: the driver is deployed by the chart, and Kubernetes' own sidecars, whose images
 * cannot be had here, are stood in for by csi-sidecars.ts.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { CLASS, type CsiCluster, nothingLeft, onCsi, useCsi, XFS_CLASS } from './csi-driver.ts'
import { claim, inPod, PATIENCE, podOf, podSpec, running } from './csi-workloads.ts'
import { type Cluster, eventually } from './harness.ts'

const LONG = { timeout: 2 * PATIENCE }

let csi: CsiCluster
let cluster: Cluster
let ns = ''

beforeAll(async () => {
  csi = await useCsi()
  ;({ cluster, namespace: ns } = csi)
}, 2 * PATIENCE)
afterAll(() => csi[Symbol.asyncDispose](), 2 * PATIENCE)
beforeEach(context => onCsi(context, csi))

const path = (kind: string, name: string) => `/api/v1/namespaces/${ns}/${kind}/${name}`
const remove = (kind: string, name: string) => cluster.send('DELETE', path(kind, name))

describe('PersistentVolumeClaims', () => {
  test(
    'a StatefulSet keeps its data when its pod is made anew, and grows while it is used',
    LONG,
    async () => {
      const labels = { app: 'keeper' }
      await cluster.apply({
        apiVersion: 'apps/v1',
        kind: 'StatefulSet',
        metadata: { namespace: ns, name: 'keeper' },
        spec: {
          serviceName: 'keeper',
          selector: { matchLabels: labels },
          template: { metadata: { labels }, spec: podSpec(cluster.clientImage) },
          volumeClaimTemplates: [
            { ...claim(ns, 'data', { storageClass: XFS_CLASS, size: '320Mi' }), metadata: { name: 'data' } },
          ],
        },
      })
      const first = await running(cluster, ns, 'keeper-0')
      await inPod(cluster, ns, 'keeper-0', 'echo kept >/data/file; sync /data/file')
      await cluster.send('DELETE', path('pods', 'keeper-0'))
      await eventually('another pod runs', PATIENCE, async () => {
        const pod = await cluster.get(path('pods', 'keeper-0'))
        return pod && pod.metadata.uid !== first.metadata.uid
      })
      await running(cluster, ns, 'keeper-0')
      expect(await inPod(cluster, ns, 'keeper-0', 'cat /data/file')).toBe('kept\n')

      const blocks = async () => Number(await inPod(cluster, ns, 'keeper-0', 'stat -fc %b /data'))
      const small = await blocks()
      await cluster.send('PATCH', path('persistentvolumeclaims', 'data-keeper-0'), {
        spec: { resources: { requests: { storage: '640Mi' } } },
      })
      await eventually('the filesystem has grown', PATIENCE, async () => (await blocks()) > 1.5 * small)
      expect(await inPod(cluster, ns, 'keeper-0', 'cat /data/file')).toBe('kept\n')

      await cluster.kubectl(['delete', 'statefulset', '-n', ns, 'keeper', '--wait=false'])
      await eventually(
        'the pod is gone',
        PATIENCE,
        async () => (await cluster.get(path('pods', 'keeper-0'))) === undefined,
      )
      await remove('persistentvolumeclaims', 'data-keeper-0')
      await nothingLeft(csi)
    },
  )

  test('a raw block volume', LONG, async () => {
    await cluster.apply(
      claim(ns, 'raw', { storageClass: CLASS, block: true }),
      podOf(ns, 'raw', cluster.clientImage, { block: true }),
    )
    await running(cluster, ns, 'raw')
    const write = 'printf kept | dd of=/dev/data conv=fsync,notrunc bs=512 seek=2048 2>/dev/null'
    await inPod(cluster, ns, 'raw', write)
    await remove('pods', 'raw')
    await eventually(
      'the pod is gone',
      PATIENCE,
      async () => (await cluster.get(path('pods', 'raw'))) === undefined,
    )
    await cluster.apply(podOf(ns, 'raw', cluster.clientImage, { block: true }))
    await running(cluster, ns, 'raw')
    const read = 'dd if=/dev/data bs=512 skip=2048 count=1 2>/dev/null | head -c 4; stat -Lc %F /dev/data'
    expect(await inPod(cluster, ns, 'raw', read)).toBe('keptblock special file\n')
    await remove('pods', 'raw')
    await remove('persistentvolumeclaims', 'raw')
    await nothingLeft(csi)
  })
})
