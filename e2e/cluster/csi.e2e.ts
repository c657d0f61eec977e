/**
 * PersistentVolumeClaims on a real kubelet: the driver is deployed by the chart, and Kubernetes' own sidecars, whose images
 * cannot be had here, are stood in for by csi-sidecars.ts and csi-snapshotter.ts.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { eventually } from '../until.ts'
import { CLASS, type CsiCluster, nothingLeft, onCsi, useCsi, XFS_CLASS } from './csi-driver.ts'
import { volumeSnapshot, volumeSnapshotPath } from './csi-snapshotter.ts'
import { claim, inPod, onNode, PATIENCE, podOf, podSpec, running } from './csi-workloads.ts'
import type { Cluster } from './harness.ts'

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

  test(
    'a raw block volume keeps its data when its pod is made anew, and grows while it is used',
    LONG,
    async () => {
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
      await cluster.send('PATCH', path('persistentvolumeclaims', 'raw'), {
        spec: { resources: { requests: { storage: '96Mi' } } },
      })
      const size = `python3 -c 'import os; print(os.lseek(os.open("/dev/data", os.O_RDONLY), 0, os.SEEK_END))'`
      await eventually(
        'the device has grown',
        PATIENCE,
        async () => Number(await inPod(cluster, ns, 'raw', size)) === 96 * 2 ** 20,
      )
      await remove('pods', 'raw')
      await remove('persistentvolumeclaims', 'raw')
      await nothingLeft(csi)
    },
  )
})

test('a snapshot is restored and a volume is cloned while a pod goes on writing it', LONG, async () => {
  const use = async (name: string, terms: Partial<Parameters<typeof claim>[2]> = {}) => {
    await cluster.apply(
      claim(ns, name, { storageClass: CLASS, ...terms }),
      podOf(ns, name, cluster.clientImage),
    )
    await running(cluster, ns, name)
  }
  const write = (name: string, text: string) =>
    inPod(cluster, ns, name, `echo ${text} >/data/file; sync /data/file`)
  const read = async (name: string) => (await inPod(cluster, ns, name, 'cat /data/file')).trim()

  await use('origin')
  await write('origin', 'first')
  const snapshot = volumeSnapshotPath(ns, 'then')
  await cluster.apply(volumeSnapshot(ns, 'then', CLASS, 'origin'))
  await eventually(
    'the snapshot is ready to use',
    PATIENCE,
    async () => (await cluster.get(snapshot))?.status?.readyToUse,
  )
  await write('origin', 'second')
  const then = { apiGroup: 'snapshot.storage.k8s.io', kind: 'VolumeSnapshot', name: 'then' }
  await use('restored', { dataSource: then, size: '128Mi' })
  await use('cloned', { dataSource: { kind: 'PersistentVolumeClaim', name: 'origin' } })
  await write('origin', 'third')
  expect(await read('restored')).toBe('first')
  expect(await read('cloned')).toBe('second')
  const blocks = async (name: string) => Number(await inPod(cluster, ns, name, 'stat -fc %b /data'))
  expect(await blocks('restored')).toBeGreaterThan(1.5 * (await blocks('cloned')))
  // Neither is any longer tied to what it was made of, nor the snapshot.
  await write('cloned', 'cloned')
  expect(await read('origin')).toBe('third')
  for (const name of ['origin', 'restored', 'cloned']) {
    await remove('pods', name)
    await remove('persistentvolumeclaims', name)
  }
  await cluster.send('DELETE', snapshot)
  await nothingLeft(csi)
})

const COUNT = 50

test('50 claims at once are bound and mounted, and leave nothing when they are deleted at once', {
  timeout: 4 * PATIENCE,
}, async () => {
  const names = Array.from({ length: COUNT }, (_, index) => `many-${index}`)
  await cluster.apply(...names.map(name => claim(ns, name, { size: '16Mi', storageClass: CLASS })))
  // One pod has them all, each mounted: the volumes are what is counted here, not pods.
  const spec = podSpec(cluster.clientImage)
  const [container] = spec.containers
  await cluster.apply({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { namespace: ns, name: 'many' },
    spec: {
      ...spec,
      containers: [{ ...container, volumeMounts: names.map(name => ({ name, mountPath: `/data/${name}` })) }],
      volumes: names.map(name => ({ name, persistentVolumeClaim: { claimName: name } })),
    },
  })
  await running(cluster, ns, 'many', 3 * PATIENCE)
  const written =
    'for d in /data/*; do echo "$d" >"$d/name"; sync "$d/name"; done; cat /data/*/name | sort -u | wc -l'
  expect((await inPod(cluster, ns, 'many', written)).trim()).toBe(String(COUNT))
  expect((await onNode()).disks).toBe(COUNT)
  await remove('pods', 'many')
  await Promise.all(names.map(name => remove('persistentvolumeclaims', name)))
  await nothingLeft(csi)
})
