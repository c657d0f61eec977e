/**
 * For tests: an API server in memory, as far as a disk's reconciler uses it, and the rest of a cluster around it: a
 * volume, Pods that make disks, the garbage collector, an agent. Everything happens in steps that the test chooses.
 */
import { isDeepStrictEqual } from 'node:util'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import type { KubeClient } from '../kube/client.ts'
import { conditionOf, writeStatus } from '../kube/conditions.ts'
import { KubeError } from '../kube/kube-error.ts'
import type { Job, KubeObject, Resource } from '../kube/objects.ts'
import { DISKS } from '../pool/world.ts'
import { DISK_LABEL, FINALIZER } from '../terms/names.ts'

/** A change of an object, in the order of the world. */
export interface Change {
  readonly plural: string
  readonly type: 'set' | 'delete'
  readonly object: KubeObject
}

interface Stored extends KubeObject {
  readonly spec?: unknown
  readonly status?: unknown
}

/** A Pod that makes a disk: what it has begun it ends, unless it is killed. */
interface Making {
  readonly jobUid: string
  readonly diskUid: string
}

const idOf = (plural: string, { namespace, name }: { namespace?: string | undefined; name: string }) =>
  `${plural}/${namespace}/${name}`

function refuse(code: string, status: number): never {
  throw new KubeError(code, `refused: ${code}`, { status })
}

/** RFC 7386. */
function merge(target: unknown, patch: unknown): unknown {
  if (patch === null || typeof patch !== 'object' || Array.isArray(patch)) return patch
  const result: Record<string, unknown> =
    target !== null && typeof target === 'object' && !Array.isArray(target) ? { ...target } : {}
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete result[key]
    else if (value !== undefined) result[key] = merge(result[key], value)
  }
  return result
}

export class TestCluster {
  readonly objects = new Map<string, Stored>()
  readonly changes: Change[] = []
  /** Uids of the files on the volume. */
  readonly files = new Set<string>()
  /** How often each file was made. */
  readonly formats = new Map<string, number>()
  readonly making: Making[] = []
  /** Uids of disks that were gone before a Job was made for them: by an operator that stood still for that long. */
  readonly belated = new Set<string>()
  /** Disks that clients have open, by name. */
  readonly held = new Set<string>()
  now = Date.parse('2026-01-01T00:00:00Z')
  #version = 1
  #uid = 1

  /** `onCall` is waited for before and after each request takes effect; what it throws is what the caller sees. */
  client(onCall: (when: 'before' | 'after') => Promise<void> = async () => {}): KubeClient {
    const answer = async <T>(request: () => T): Promise<T> => {
      await onCall('before')
      const result = request()
      await onCall('after')
      return structuredClone(result)
    }
    const get = (resource: Resource, ref: { namespace?: string | undefined; name: string }) =>
      this.objects.get(idOf(resource.plural, ref))
    return {
      get: (resource: Resource, ref) => answer(() => get(resource, ref) ?? refuse('NotFound', 404)),
      find: (resource: Resource, ref) => answer(() => get(resource, ref)),
      create: (resource: Resource, object: KubeObject) => answer(() => this.create(resource, object)),
      patch: (resource: Resource, ref, _type, patch, options) =>
        answer(() => this.#patch(resource, ref, patch as Stored, options?.subresource === 'status')),
      delete: (resource: Resource, ref, options) => answer(() => this.delete(resource, ref, options)),
    } as KubeClient
  }

  get disks(): OnDemandDisk[] {
    return this.all<OnDemandDisk & Stored>('ondemanddisks')
  }

  all<T extends Stored>(plural: string): T[] {
    return [...this.objects].filter(([id]) => id.startsWith(`${plural}/`)).map(([, object]) => object as T)
  }

  create(resource: Resource, object: KubeObject): Stored {
    if (this.objects.has(idOf(resource.plural, object.metadata))) refuse('AlreadyExists', 409)
    const owner = resource.plural === 'jobs' ? object.metadata.ownerReferences?.[0]?.uid : undefined
    if (owner !== undefined && !this.disks.some(({ metadata }) => metadata.uid === owner))
      this.belated.add(owner)
    const creationTimestamp = new Date(this.now).toISOString()
    const metadata = { ...object.metadata, uid: `uid-${this.#uid++}`, creationTimestamp, generation: 1 }
    return this.#store(resource.plural, { ...object, metadata })
  }

  delete(
    resource: Resource,
    ref: { namespace?: string | undefined; name: string },
    options: { readonly propagationPolicy?: string; readonly preconditions?: { readonly uid?: string } } = {},
  ): undefined {
    const object = this.objects.get(idOf(resource.plural, ref)) ?? refuse('NotFound', 404)
    const { metadata } = object
    if (options.preconditions?.uid !== undefined && options.preconditions.uid !== metadata.uid)
      refuse('Conflict', 409)
    const own = options.propagationPolicy === 'Foreground' ? ['foregroundDeletion'] : []
    const finalizers = [...new Set([...(metadata.finalizers ?? []), ...own])]
    if (finalizers.length === 0) this.#drop(resource.plural, object)
    else {
      const deletionTimestamp = metadata.deletionTimestamp ?? new Date(this.now).toISOString()
      this.#store(resource.plural, { ...object, metadata: { ...metadata, finalizers, deletionTimestamp } })
    }
    return undefined
  }

  #patch(
    resource: Resource,
    ref: { namespace?: string | undefined; name: string },
    patch: Stored,
    ofStatus: boolean,
  ) {
    const old = this.objects.get(idOf(resource.plural, ref)) ?? refuse('NotFound', 404)
    const { resourceVersion, ...metadata } = patch.metadata ?? {}
    if (resourceVersion !== undefined && resourceVersion !== old.metadata.resourceVersion)
      refuse('Conflict', 409)
    const next = (
      ofStatus
        ? { ...old, status: merge(old.status, patch.status) }
        : merge(old, { ...patch, metadata, status: old.status })
    ) as Stored
    if (isDeepStrictEqual(next, old)) return old
    if (next.metadata.deletionTimestamp !== undefined && !next.metadata.finalizers?.length) {
      this.#drop(resource.plural, next)
      return next
    }
    const isChanged = !isDeepStrictEqual(next.spec, old.spec)
    const generation = (old.metadata.generation ?? 1) + (isChanged ? 1 : 0)
    return this.#store(resource.plural, { ...next, metadata: { ...next.metadata, generation } })
  }

  #store(plural: string, object: Stored): Stored {
    const stored = { ...object, metadata: { ...object.metadata, resourceVersion: String(this.#version++) } }
    this.objects.set(idOf(plural, stored.metadata), stored)
    this.changes.push({ plural, type: 'set', object: stored })
    return stored
  }

  #drop(plural: string, object: Stored): void {
    this.objects.delete(idOf(plural, object.metadata))
    this.changes.push({ plural, type: 'delete', object })
  }

  #endJob(job: Job, type: 'Complete' | 'Failed'): void {
    const lastTransitionTime = new Date(this.now).toISOString()
    this.#store('jobs', { ...job, status: { conditions: [{ type, status: 'True', lastTransitionTime }] } })
  }

  /** A step of the Job controller or of a node; `end` says how a Pod that is at work ends. Returns whether there was one. */
  stepJobs(end: 'succeeds' | 'fails' | 'is killed' | 'is killed when all is done'): boolean {
    const jobs = this.all<Job & Stored>('jobs')
    const idle = jobs.find(
      job =>
        job.metadata.deletionTimestamp === undefined &&
        !job.status?.conditions?.length &&
        !this.making.some(({ jobUid }) => jobUid === job.metadata.uid),
    )
    if (idle) {
      this.making.push({ jobUid: idle.metadata.uid ?? '', diskUid: idle.metadata.labels?.[DISK_LABEL] ?? '' })
      return true
    }
    const at = this.making.shift()
    if (!at) return false
    // `ondemand-disk make`: nothing where the file is there, else the whole file or none.
    if ((end === 'succeeds' || end === 'is killed when all is done') && !this.files.has(at.diskUid)) {
      this.files.add(at.diskUid)
      this.formats.set(at.diskUid, (this.formats.get(at.diskUid) ?? 0) + 1)
    }
    const job = jobs.find(({ metadata }) => metadata.uid === at.jobUid)
    if (job) this.#endJob(job, end === 'succeeds' ? 'Complete' : 'Failed')
    return true
  }

  /** A step of the garbage collector: what is deleted in the foreground loses its Pods and goes, then what has no owner. */
  stepGarbage(): boolean {
    for (const [id, object] of this.objects) {
      const plural = id.slice(0, id.indexOf('/'))
      const { finalizers = [], ownerReferences = [] } = object.metadata
      const isOrphan =
        ownerReferences.length > 0 &&
        !ownerReferences.some(({ uid }) =>
          [...this.objects.values()].some(({ metadata }) => metadata.uid === uid),
        )
      if (!finalizers.includes('foregroundDeletion') && !isOrphan) continue
      for (let index = this.making.length - 1; index >= 0; index--) {
        if (this.making[index]?.jobUid === object.metadata.uid) this.making.splice(index, 1)
      }
      this.#drop(plural, object)
      return true
    }
    return false
  }

  /** The agent looks at all disks, as they are now. Returns whether it did something. */
  async stepAgent(): Promise<boolean> {
    const before = this.changes.length
    for (const disk of this.disks) {
      const { uid = '', name, deletionTimestamp, finalizers } = disk.metadata
      const say = (status: 'True' | 'False', reason: string) =>
        writeStatus(this.client(), DISKS, disk, {
          conditions: [{ type: 'Exported', status, reason, message: '' }],
        })
      if (deletionTimestamp !== undefined) {
        if (!finalizers?.includes(FINALIZER) || conditionOf(disk, 'Ready')?.reason !== 'Deleting') continue
        if (this.held.has(name)) await say('True', 'InUse')
        else {
          this.files.delete(uid)
          await say('False', 'Removed')
        }
      } else if (conditionOf(disk, 'Provisioned')?.status === 'True') {
        const isThere = disk.spec.mode === 'Temporary' || this.files.has(uid)
        await say(isThere ? 'True' : 'False', isThere ? 'Serving' : 'DataMissing')
      }
    }
    return this.changes.length > before
  }
}
