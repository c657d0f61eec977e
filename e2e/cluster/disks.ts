import { eventually } from '../until.ts'
import type { Cluster, KubeObject } from './harness.ts'

export const GROUP = '/apis/ondemanddisk.dev/v1alpha1'
/** Milliseconds that a change may take on a machine that is busy with other things. */
export const PATIENCE = 90_000

export const pool = (namespace: string, name: string, spec: KubeObject = {}): KubeObject => ({
  apiVersion: 'ondemanddisk.dev/v1alpha1',
  kind: 'DiskPool',
  metadata: { namespace, name },
  spec: { storage: { claimTemplate: { size: '20Gi' } }, ...spec },
})

export const disk = (namespace: string, name: string, spec: KubeObject): KubeObject => ({
  apiVersion: 'ondemanddisk.dev/v1alpha1',
  kind: 'OnDemandDisk',
  metadata: { namespace, name },
  spec,
})

export const diskPath = (namespace: string, name: string) =>
  `${GROUP}/namespaces/${namespace}/ondemanddisks/${name}`
export const poolPath = (namespace: string, name: string) =>
  `${GROUP}/namespaces/${namespace}/diskpools/${name}`

/** A condition of an object: status, reason and message. */
export const condition = (object: KubeObject | undefined, type: string): KubeObject | undefined =>
  object?.status?.conditions?.find((entry: KubeObject) => entry.type === type)

/** Waits until the object at the path is Ready, and returns it; the reason why it is not is told. */
export async function ready(cluster: Cluster, path: string, limit = PATIENCE): Promise<KubeObject> {
  return becomes(cluster, path, 'Ready', found => found.status === 'True', limit)
}

/** Waits until a condition is as wanted, and returns the object. */
export async function becomes(
  cluster: Cluster,
  path: string,
  type: string,
  wanted: (condition: KubeObject) => boolean,
  limit = PATIENCE,
): Promise<KubeObject> {
  let last: KubeObject | undefined
  try {
    return await eventually(`${type} of ${path}`, limit, async () => {
      const object = await cluster.get(path)
      last = condition(object, type)
      return last !== undefined && wanted(last) ? object : undefined
    })
  } catch (error) {
    throw new Error(`${path}: ${type} is ${JSON.stringify(last)}`, { cause: error })
  }
}

/** Waits until there is nothing at the path. */
export const gone = (cluster: Cluster, path: string, limit = PATIENCE): Promise<true> =>
  eventually(`${path} is gone`, limit, async () => (await cluster.get(path)) === undefined)

/** Name of a Service as a client in another namespace writes it. */
export const hostOf = (namespace: string, service: string) => `${service}.${namespace}.svc.cluster.local`

/** URI of a disk as a client in another namespace writes it. */
export const uriOf = (namespace: string, poolName: string, exportName: string) =>
  `nbd://${hostOf(namespace, poolName)}/${exportName}`

/** What there is on the volume of the pool `lab`: disks, spares, snapshots and copies under way, and what is retained. */
export async function filesOfPool(cluster: Cluster, namespace: string): Promise<readonly string[]> {
  const places = ['disks', 'spares', 'retained', 'snapshots', 'copies'].map(name => `/pool/${name}`)
  const said = await cluster.kubectl([
    ...['exec', '-n', namespace, 'lab-0', '-c', 'nbd', '--', 'find', ...places],
    // The staging folder stays, and has nothing in it.
    ...['-mindepth', '1', '-not', '-name', '.ondemand-disk'],
  ])
  return said.split('\n').filter(line => line !== '')
}
