/**
 * Does for a control plane what nodes and the pools' agents would do: volumes are bound, servers run, Jobs succeed,
 * disks are exported and removed. What it made it keeps in a list, as a node keeps files.
 */
import type { DiskPool } from '../../crds/diskpool.ts'
import type { Condition, OnDemandDisk } from '../../crds/ondemanddisk.ts'
import type { KubeClient, RequestOptions } from '../../operator/kube/client.ts'
import { writeStatus } from '../../operator/kube/conditions.ts'
import { startController } from '../../operator/kube/controller.ts'
import {
  JOBS,
  type Job,
  type KubeObject,
  PERSISTENT_VOLUME_CLAIMS,
  type PersistentVolumeClaim,
  PODS,
  type Pod,
  type Resource,
  STATEFUL_SETS,
  type StatefulSet,
} from '../../operator/kube/objects.ts'
import { WorkQueue } from '../../operator/kube/queue.ts'
import { startReflector } from '../../operator/kube/reflector.ts'
import { keyOf, refOf, type Store } from '../../operator/kube/store.ts'
import { DISKS, POOLS } from '../../operator/pool/world.ts'
import { DISK_LABEL, FINALIZER } from '../../operator/terms/names.ts'
import { readyWhenExported } from '../../operator/terms/readiness.ts'

/** How a Job ends. */
export type JobEnd =
  | { readonly kind: 'succeeds' }
  | { readonly kind: 'fails'; readonly exitCode: number; readonly message: string }
  | { readonly kind: 'hangs' }

export interface StubNodeOptions {
  readonly client: KubeClient
  /** Default: each succeeds. */
  readonly endOf?: (job: Job) => JobEnd
  /** Who has a disk open, by its name. Default: nobody. */
  readonly clientsOf?: (disk: OnDemandDisk) => string | undefined
  /** Servers run. Default: true. */
  readonly runsServers?: boolean
  readonly workers?: number
}

export interface StubNode {
  /** How often the file of each uid was made. */
  readonly made: ReadonlyMap<string, number>
  /** Uids of the disks that are there. */
  readonly files: ReadonlySet<string>
  /** Looks at everything once more. */
  poke(): void
  stop(): Promise<void>
}

export async function startStubNode(options: StubNodeOptions): Promise<StubNode> {
  const {
    client,
    endOf = () => ({ kind: 'succeeds' }),
    clientsOf = () => undefined,
    runsServers = true,
  } = options
  const made = new Map<string, number>()
  const files = new Set<string>()
  const stops: (() => Promise<unknown>)[] = []
  const pokes: (() => void)[] = []
  const synced: Promise<void>[] = []

  function each<T extends KubeObject>(
    resource: Resource<T>,
    act: (object: T, store: Store<T>) => Promise<void>,
  ) {
    const queue = new WorkQueue()
    const reflector = startReflector({ client, resource, onEvent: ({ object }) => queue.add(keyOf(object)) })
    const controller = startController({
      name: resource.plural,
      queue,
      workers: options.workers ?? 4,
      async reconcile(key) {
        const { namespace, name } = refOf(key)
        const object = reflector.store.get(namespace, name)
        if (object) await act(object, reflector.store)
        return undefined
      },
    })
    synced.push(reflector.synced)
    pokes.push(() => reflector.store.list().forEach(object => void queue.add(keyOf(object))))
    stops.push(async () => {
      await controller.stop(0)
      await reflector.stop()
    })
  }

  const setStatus = <T extends KubeObject>(
    resource: Resource<T>,
    object: T,
    status: object,
    terms?: RequestOptions,
  ) => client.patch(resource, object.metadata, 'merge', { status }, { ...terms, subresource: 'status' })

  each<PersistentVolumeClaim>(PERSISTENT_VOLUME_CLAIMS, async claim => {
    if (claim.status?.phase !== 'Bound') await setStatus(PERSISTENT_VOLUME_CLAIMS, claim, { phase: 'Bound' })
  })

  each<StatefulSet>(STATEFUL_SETS, async set => {
    if (!runsServers || set.metadata.deletionTimestamp) return
    const { namespace, name, uid = '' } = set.metadata
    if (await client.find(PODS, { namespace, name: `${name}-0` })) return
    const template = set.spec?.template
    const owner = { apiVersion: 'apps/v1', kind: 'StatefulSet', name, uid, controller: true }
    const pod = await client.create(PODS, {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: {
        namespace,
        name: `${name}-0`,
        labels: template?.metadata?.labels,
        ownerReferences: [owner],
      },
      spec: { ...template?.spec, nodeName: 'stub' },
    } as unknown as Pod)
    await setStatus(PODS, pod, { phase: 'Running', conditions: [{ type: 'Ready', status: 'True' }] })
  })

  each<Job>(JOBS, async job => {
    if (job.status?.conditions?.length || job.metadata.deletionTimestamp) return
    const end = endOf(job)
    if (end.kind === 'hangs') return
    const lastTransitionTime = `${new Date().toISOString().slice(0, 19)}Z`
    const uid = job.metadata.labels?.[DISK_LABEL]
    if (end.kind === 'succeeds') {
      if (uid !== undefined && !files.has(uid)) {
        files.add(uid)
        made.set(uid, (made.get(uid) ?? 0) + 1)
      }
      const condition = { type: 'Complete', status: 'True', lastTransitionTime }
      await setStatus(JOBS, job, {
        succeeded: 1,
        completionTime: lastTransitionTime,
        conditions: [condition],
      })
      return
    }
    const { namespace, name, labels, uid: jobUid = '' } = job.metadata
    const owner = { apiVersion: 'batch/v1', kind: 'Job', name, uid: jobUid, controller: true }
    const pod = await client.create(PODS, {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { namespace, generateName: `${name}-`, labels, ownerReferences: [owner] },
      spec: { ...job.spec?.template.spec, nodeName: 'stub' },
    } as unknown as Pod)
    const terminated = { exitCode: end.exitCode, message: end.message }
    const container = {
      name: 'make',
      image: 'x',
      imageID: '',
      ready: false,
      restartCount: 0,
      state: { terminated },
    }
    await setStatus(PODS, pod, { phase: 'Failed', containerStatuses: [container] })
    const condition = { type: 'Failed', status: 'True', reason: 'BackoffLimitExceeded', lastTransitionTime }
    await setStatus(JOBS, job, { failed: 1, conditions: [{ ...condition, message: 'Job has failed' }] })
  })

  each<OnDemandDisk>(DISKS, async disk => {
    const { metadata, status } = disk
    const { uid = '', generation } = metadata
    const condition = (type: string) => status?.conditions?.find(found => found.type === type)
    const say = (state: 'True' | 'False', reason: string, message: string, fields = {}) => {
      const seen = generation === undefined ? {} : { observedGeneration: generation }
      const exported = { type: 'Exported', status: state, reason, message, ...seen } satisfies Omit<
        Condition,
        'lastTransitionTime'
      >
      const ready = state === 'True' && reason === 'Serving' ? readyWhenExported(disk) : undefined
      return writeStatus(client, DISKS, disk, { conditions: [exported, ...(ready ? [ready] : [])], fields })
    }
    if (metadata.deletionTimestamp !== undefined) {
      if (!metadata.finalizers?.includes(FINALIZER) || condition('Ready')?.reason !== 'Deleting') return
      const clients =
        metadata.annotations?.['ondemanddisk.dev/force-delete'] === 'true' ? undefined : clientsOf(disk)
      if (clients !== undefined) {
        await say('True', 'InUse', `In use by ${clients}.`)
        return
      }
      files.delete(uid)
      await say('False', 'Removed', 'The disk is gone.')
      return
    }
    if (condition('Provisioned')?.status !== 'True') return
    if (disk.spec.mode !== 'Temporary' && !disk.spec.upstream && !files.has(uid)) {
      await say('False', 'DataMissing', 'The file of the disk is missing.')
      return
    }
    const size = parseSize(disk.spec.size)
    await say('True', 'Serving', 'Clients can connect.', {
      uri: `nbd://stub/${metadata.name}`,
      size,
      connections: 0,
    })
  })

  each<DiskPool>(POOLS, async () => {})

  await Promise.all(synced)
  return {
    made,
    files,
    poke: () => pokes.forEach(poke => void poke()),
    async stop() {
      await Promise.all(stops.map(stop => stop()))
    },
  }
}

/** Sizes of tests are plain numbers, or so many Mi. */
function parseSize(size: unknown): number | undefined {
  if (typeof size === 'number') return size
  const [, count] = /^(\d+)Mi$/.exec(String(size)) ?? []
  return count === undefined ? undefined : Number(count) * 2 ** 20
}
