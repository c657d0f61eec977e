/** Disks, in bulk. */
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import type { KubeClient } from '../kube/client.ts'
import { DISKS } from '../pool/world.ts'
import { ACCEPTED_ANNOTATION, FINALIZER, POOL_LABEL } from '../terms/names.ts'

/** Runs so many of them at once. */
export async function inParallel(
  count: number,
  atOnce: number,
  run: (index: number) => Promise<unknown>,
): Promise<void> {
  let next = 0
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      while (next < count) await run(next++)
    }),
  )
}

/** A disk of the pool `lab`. */
export const diskObject = (namespace: string, name: string, metadata: object = {}) =>
  ({
    apiVersion: 'ondemanddisk.dev/v1alpha1',
    kind: 'OnDemandDisk',
    metadata: { namespace, name, ...metadata },
    spec: { poolName: 'lab', size: '8Mi', filesystem: { type: 'ext4' } },
  }) as unknown as OnDemandDisk

/** The status of a disk that has been made and is served. */
function readyStatus(name: string) {
  const condition = (type: string, reason: string, message: string) => ({
    ...{ type, status: 'True', reason, message, observedGeneration: 1 },
    lastTransitionTime: '2026-01-01T00:00:00Z',
  })
  const made = 'The disk has been made. It will never be formatted again.'
  return {
    ...{ observedGeneration: 1, attempts: 1, size: 8 * 2 ** 20, connections: 0, filesystem: 'ext4' },
    uri: `nbd://stub/${name}`,
    conditions: [
      condition('Provisioned', 'Formatted', made),
      condition('Formatted', 'Formatted', made),
      condition('Ready', 'Ready', 'Clients can use the disk.'),
      condition('Exported', 'Serving', 'Clients can connect.'),
    ],
  }
}

/** Disks as the operator and an agent have left them long ago: two requests each. */
export async function makeOldDisks(
  client: KubeClient,
  namespace: string,
  prefix: string,
  count: number,
): Promise<void> {
  const accepted = { poolName: 'lab', mode: 'Persistent', filesystem: { type: 'ext4' } }
  await inParallel(count, 32, async index => {
    const name = `${prefix}-${index}`
    const own = JSON.stringify({ ...accepted, exportName: name })
    const metadata = {
      finalizers: [FINALIZER],
      labels: { [POOL_LABEL]: 'lab' },
      annotations: { [ACCEPTED_ANNOTATION]: own },
    }
    const object = await client.create(DISKS, diskObject(namespace, name, metadata))
    const patch = { status: readyStatus(name) }
    await client.patch(DISKS, object.metadata, 'merge', patch, { subresource: 'status' })
  })
}
