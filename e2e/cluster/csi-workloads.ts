/** Claims and pods that use volumes of the driver, and what must be left of them: nothing. */
import { readdir } from 'node:fs/promises'
import { attached } from '../../server/attach/attach.ts'
import { readMounts } from '../../server/fuse/mountinfo.ts'
import { eventually } from '../until.ts'
import { RESTRICTED } from './client.ts'
import type { Cluster, KubeObject } from './harness.ts'

/** Milliseconds that anything may take on a machine that is busy with other things. */
export const PATIENCE = 240_000
const EXEC_PATIENCE = 60_000

export const claim = (
  namespace: string,
  name: string,
  {
    size = '64Mi',
    storageClass,
    block = false,
    dataSource,
  }: { size?: string; storageClass: string; block?: boolean; dataSource?: KubeObject },
): KubeObject => ({
  apiVersion: 'v1',
  kind: 'PersistentVolumeClaim',
  metadata: { namespace, name },
  spec: {
    accessModes: ['ReadWriteOnce'],
    storageClassName: storageClass,
    volumeMode: block ? 'Block' : 'Filesystem',
    ...(dataSource && { dataSource }),
    resources: { requests: { storage: size } },
  },
})

/** A container that has the volume `data` at /data, or as the device /dev/data, and does nothing by itself. */
export function podSpec(image: string, { block = false }: { block?: boolean } = {}): KubeObject {
  return {
    automountServiceAccountToken: false,
    terminationGracePeriodSeconds: 0,
    securityContext: { fsGroup: 65534 },
    containers: [
      {
        name: 'main',
        image,
        imagePullPolicy: 'IfNotPresent',
        command: ['sleep', 'infinity'],
        // A device is root's.
        securityContext: { ...RESTRICTED, runAsNonRoot: !block, runAsUser: block ? 0 : 65534 },
        ...(block
          ? { volumeDevices: [{ name: 'data', devicePath: '/dev/data' }] }
          : { volumeMounts: [{ name: 'data', mountPath: '/data' }] }),
      },
    ],
  }
}

/** A pod that uses a claim of its own name. */
export const podOf = (
  namespace: string,
  name: string,
  image: string,
  terms: { block?: boolean } = {},
): KubeObject => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { namespace, name },
  spec: {
    ...podSpec(image, terms),
    volumes: [{ name: 'data', persistentVolumeClaim: { claimName: name } }],
  },
})

/** Waits until the pod runs; tells its events otherwise. */
export async function running(
  cluster: Cluster,
  namespace: string,
  name: string,
  limit = PATIENCE,
): Promise<KubeObject> {
  const path = `/api/v1/namespaces/${namespace}/pods/${name}`
  try {
    return await eventually(`the pod ${name} runs`, limit, async () => {
      const pod = await cluster.get(path)
      const isUp = pod?.status.phase === 'Running' && !pod.metadata.deletionTimestamp
      return isUp && pod.status.containerStatuses.every(({ ready }: KubeObject) => ready) ? pod : undefined
    })
  } catch (error) {
    const events = await cluster.get(`/api/v1/namespaces/${namespace}/events`)
    const told = events?.items.map(({ reason, message }: KubeObject) => `${reason}: ${message}`).join('\n')
    throw new Error(`The pod ${name} does not run:\n${told}`, { cause: error })
  }
}

/**
 * Runs a shell fragment in a pod, and returns what it says. It may be run more than once: for a moment after a pod was made
 * anew the kubelet looks for the container of the one before.
 */
export const inPod = (cluster: Cluster, namespace: string, name: string, command: string): Promise<string> =>
  eventually(`the pod ${name} runs ${command}`, EXEC_PATIENCE, async () => {
    const args = ['exec', '-n', namespace, name, '-c', 'main', '--', 'sh', '-ec', command]
    return { said: await cluster.kubectl(args) }
  }).then(({ said }) => said)

/** What of the driver's volumes this node has. */
export async function onNode(): Promise<{
  readonly disks: number
  readonly mounts: number
  readonly loops: number
}> {
  const disks = (await attached()).filter(({ tag }) => tag?.startsWith('csi-'))
  const mounts = (await readMounts()).filter(
    ({ source, mountpoint }) =>
      /^\/dev\/(?:loop|nbd)\d/.test(source) && mountpoint.startsWith('/var/lib/kubelet'),
  )
  const names = await readdir('/sys/block')
  const loops = await Promise.all(
    names
      .filter(name => name.startsWith('loop'))
      .map(name => readdir(`/sys/block/${name}/loop`).catch(() => [])),
  )
  return {
    disks: disks.length,
    mounts: mounts.length,
    loops: loops.filter(entries => entries.length > 0).length,
  }
}
