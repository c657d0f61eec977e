import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Kubectl } from './kubectl.ts'

const FOLDER = join(process.env.XDG_CACHE_HOME ?? '/var/cache', 'ondemand-disk/cluster/volumes')
/** One a pool; a volume is not used twice. */
const COUNT = 40
const CLASS = 'ondemand-disk-e2e'

/**
 * Gives hack/cluster's node volumes for the pools of the tests, by a default StorageClass: it has no
 * provisioner. Local volumes, not hostPath, because the kubelet gives those to the pod's fsGroup as it does
 * real disks.
 */
export async function addVolumes(kubectl: Kubectl): Promise<void> {
  const names = Array.from({ length: COUNT }, (_, index) => `e2e-${index}`)
  for (const name of names) await mkdir(join(FOLDER, name), { recursive: true })
  const storageClass = {
    apiVersion: 'storage.k8s.io/v1',
    kind: 'StorageClass',
    metadata: { name: CLASS, annotations: { 'storageclass.kubernetes.io/is-default-class': 'true' } },
    provisioner: 'kubernetes.io/no-provisioner',
    volumeBindingMode: 'WaitForFirstConsumer',
  }
  const volumes = names.map(name => ({
    apiVersion: 'v1',
    kind: 'PersistentVolume',
    metadata: { name },
    spec: {
      capacity: { storage: '50Gi' },
      accessModes: ['ReadWriteOnce', 'ReadWriteMany'],
      storageClassName: CLASS,
      persistentVolumeReclaimPolicy: 'Retain',
      local: { path: join(FOLDER, name) },
      nodeAffinity: {
        required: {
          nodeSelectorTerms: [
            { matchExpressions: [{ key: 'kubernetes.io/hostname', operator: 'In', values: ['node1'] }] },
          ],
        },
      },
    },
  }))
  const list = { apiVersion: 'v1', kind: 'List', items: [storageClass, ...volumes] }
  await kubectl(['apply', '-f', '-'], { input: JSON.stringify(list) })
}
