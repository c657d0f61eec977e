/** The disks that are volumes: looked up, changed without losing anybody's change, and waited for. */
import { API_GROUP } from '../../../crds/object.ts'
import { type OnDemandDisk, type OnDemandDiskSpec, parseOnDemandDisk } from '../../../crds/ondemanddisk.ts'
import { ON_DEMAND_DISKS } from '../../../crds/resources.ts'
import type { KubeClient } from '../../kube/client.ts'
import { hasCode } from '../../kube/kube-error.ts'
import type { KubeLog } from '../../kube/log.ts'
import type { Resource } from '../../kube/objects.ts'
import { startReflector } from '../../kube/reflector.ts'
import { keyFor, keyOf, type Store } from '../../kube/store.ts'
import type { Call } from '../rpc/call.ts'
import { RpcError } from '../rpc/rpc-error.ts'
import { parseVolumeId, type VolumeRef, volumeIdOf } from './volume-id.ts'

const DISKS: Resource<OnDemandDisk> = ON_DEMAND_DISKS

/** On each disk that the driver has to do with: such disks are followed. */
export const VOLUME_LABEL = `${API_GROUP}/volume`
/** On a disk that the driver has made: the name that it was asked for. */
export const VOLUME_NAME_ANNOTATION = `${API_GROUP}/volume-name`

/** What a change of a disk is, as a merge patch without metadata that says which; undefined: none. */
export interface Change {
  readonly metadata?: { readonly annotations?: Readonly<Record<string, string | null>> }
  readonly spec?: object
}

export interface Volumes {
  readonly store: Store<OnDemandDisk>
  readonly synced: Promise<void>
  readonly isSynced: boolean
  /** As the API server has it now. */
  find(ref: VolumeRef, call: Call): Promise<OnDemandDisk | undefined>
  /** @throws RpcError NOT_FOUND, or INVALID_ARGUMENT without an id */
  get(volumeId: string, call: Call): Promise<OnDemandDisk>
  create(disk: object, call: Call): Promise<OnDemandDisk>
  /** Decides on the latest state of the disk, and decides anew when that has changed meanwhile. */
  change(
    ref: VolumeRef,
    decide: (disk: OnDemandDisk) => Change | undefined,
    call: Call,
  ): Promise<OnDemandDisk | undefined>
  /** Refused with `Conflict` where the disk is no longer this one, or in this state. */
  remove(disk: OnDemandDisk, exactState: boolean, call: Call): Promise<void>
  /**
   * Waits until `result` is something of the disk with this uid; it is asked of each state, at first of the one given.
   * When the call ends before that, the message says what `waitsFor` says.
   * @throws RpcError, also NOT_FOUND where the disk is gone
   */
  until<T>(
    disk: OnDemandDisk,
    result: (disk: OnDemandDisk) => Promise<T | undefined> | T | undefined,
    waitsFor: (disk: OnDemandDisk) => string,
    call: Call,
  ): Promise<T>
  /** Waits until the disk is gone. */
  untilGone(disk: OnDemandDisk, waitsFor: (disk: OnDemandDisk) => string, call: Call): Promise<void>
  stop(): Promise<void>
}

/** Each change by somebody else costs a try; a disk is not changed that often. */
const MAX_TRIES = 20
/** News of a disk may be late: so often, in ms, it is asked for. */
const ASK_MS = 5000

/**
 * The spec of a disk, its defaults filled in. Which names a pool allows is for the operator to say.
 * @throws InvalidSpecError
 */
export function specOf(disk: object): OnDemandDiskSpec {
  return parseOnDemandDisk(disk, { names: 'relaxed' }).spec
}

/** The filesystem of a volume; of a copy, which has that of its source, known once it is being made. */
export function filesystemOf(disk: OnDemandDisk): string | undefined {
  const { source, filesystem } = specOf(disk)
  return source === undefined ? filesystem?.type : disk.status?.filesystem
}

/** The volume that this disk is, by its object. */
export function refOfDisk({ metadata }: OnDemandDisk): VolumeRef {
  return { namespace: metadata.namespace ?? '', name: metadata.name }
}

/** Follows the disks that are volumes. */
export function followVolumes(client: KubeClient, namespace: string | undefined, log: KubeLog): Volumes {
  const listeners = new Map<string, Set<() => void>>()
  const reflector = startReflector<OnDemandDisk>({
    client,
    resource: DISKS,
    namespace,
    labelSelector: VOLUME_LABEL,
    indexers: {
      name: ({ metadata }) => {
        const name = metadata.annotations?.[VOLUME_NAME_ANNOTATION]
        return name === undefined ? [] : [name]
      },
    },
    onEvent: ({ object }) => {
      for (const listener of [...(listeners.get(keyOf(object)) ?? [])]) listener()
    },
    log,
  })

  /** Waits for the next news of a disk, or for the time when it is worth asking. Rejects when the call ends. */
  function news(ref: VolumeRef, call: Call): Promise<void> {
    const key = keyFor(ref.namespace, ref.name)
    const set = listeners.get(key) ?? new Set()
    listeners.set(key, set)
    return new Promise((resolve, reject) => {
      const settle = (error?: unknown) => {
        clearTimeout(timer)
        call.signal.removeEventListener('abort', abort)
        set.delete(wake)
        if (set.size === 0 && listeners.get(key) === set) listeners.delete(key)
        if (error === undefined) resolve()
        else reject(error)
      }
      const wake = () => settle()
      const abort = () => settle(call.signal.reason)
      const timer = setTimeout(wake, ASK_MS)
      set.add(wake)
      call.signal.addEventListener('abort', abort, { once: true })
      if (call.signal.aborted) abort()
    })
  }

  const volumes: Volumes = {
    store: reflector.store,
    synced: reflector.synced,
    get isSynced() {
      return reflector.isSynced
    },

    find: (ref, { signal }) => client.find(DISKS, ref, { signal }),

    async get(volumeId, call) {
      const ref = parseVolumeId(volumeId)
      const disk = ref && (await volumes.find(ref, call))
      if (!disk) throw new RpcError('NOT_FOUND', `There is no volume ${volumeId.slice(0, 128)}.`)
      return disk
    },

    create: (disk, { signal }) => client.create(DISKS, disk as OnDemandDisk, { signal }),

    async change(ref, decide, { signal }) {
      for (let tries = 1; ; tries++) {
        const disk = await client.find(DISKS, ref, { signal })
        if (!disk) return undefined
        const change = decide(disk)
        if (!change) return disk
        const { uid, resourceVersion } = disk.metadata
        const metadata = { ...change.metadata, uid, resourceVersion, labels: { [VOLUME_LABEL]: '' } }
        try {
          return await client.patch(DISKS, ref, 'merge', { ...change, metadata }, { signal })
        } catch (error) {
          if (!hasCode(error, 'Conflict') || tries >= MAX_TRIES) throw error
        }
      }
    },

    async remove(disk, exactState, { signal }) {
      const { uid = '', resourceVersion = '' } = disk.metadata
      const preconditions = { uid, ...(exactState && { resourceVersion }) }
      await client.delete(DISKS, disk.metadata, { signal, preconditions })
    },

    async until(disk, result, waitsFor, call) {
      const ref = refOfDisk(disk)
      let latest = disk
      try {
        for (;;) {
          const found = await result(latest)
          if (found !== undefined) return found
          await news(ref, call)
          latest = await laterState(ref, latest, call)
        }
      } catch (error) {
        throw call.signal.aborted ? endedWaiting(call, waitsFor(latest)) : error
      }
    },

    async untilGone(disk, waitsFor, call) {
      const ref = refOfDisk(disk)
      let latest = disk
      try {
        for (;;) {
          // The store may not have heard of the disk yet: it does not know what is gone.
          const found = reflector.store.get(ref.namespace, ref.name) ?? (await volumes.find(ref, call))
          if (!found || found.metadata.uid !== disk.metadata.uid) return
          latest = found
          await news(ref, call)
        }
      } catch (error) {
        throw call.signal.aborted ? endedWaiting(call, waitsFor(latest)) : error
      }
    },

    stop: () => reflector.stop(),
  }

  /** The latest state of a disk: what the store has, or where it does not know the disk what the API server has. */
  async function laterState(ref: VolumeRef, known: OnDemandDisk, call: Call): Promise<OnDemandDisk> {
    const stored = reflector.store.get(ref.namespace, ref.name)
    const latest = stored?.metadata.uid === known.metadata.uid ? stored : await volumes.find(ref, call)
    if (latest && latest.metadata.uid === known.metadata.uid) return latest
    throw new RpcError('ABORTED', `The volume ${volumeIdOf(ref)} has been deleted meanwhile.`)
  }

  return volumes
}

function endedWaiting({ signal }: Call, what: string): RpcError {
  const { reason } = signal
  return reason instanceof RpcError ? new RpcError(reason.code, `${reason.message} ${what}`) : reason
}
