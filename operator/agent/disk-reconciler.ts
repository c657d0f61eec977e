/** One disk at a time: looks at it, and takes the steps of its plan. */
import type { DiskPool } from '../../crds/diskpool.ts'
import type { NameRules } from '../../crds/export-name.ts'
import { InvalidSpecError, orInvalid } from '../../crds/invalid-spec-error.ts'
import { type OnDemandDisk, parseOnDemandDisk } from '../../crds/ondemanddisk.ts'
import { ON_DEMAND_DISKS } from '../../crds/resources.ts'
import type { KubeClient } from '../kube/client.ts'
import { writeStatus } from '../kube/conditions.ts'
import type { ReconcileResult } from '../kube/controller.ts'
import type { EventRecorder } from '../kube/events.ts'
import { hasCode } from '../kube/kube-error.ts'
import { changedField } from '../terms/accepted.ts'
import { allot, type Claimant } from '../terms/allotment.ts'
import { hasBegun } from '../terms/attempts.ts'
import { isTrue } from '../terms/conditions.ts'
import { SPARE_ANNOTATION } from '../terms/names.ts'
import { disksMadeOf, placeOfSnapshot, snapshotsTakenOf } from '../terms/snapshots.ts'
import { placeOf } from './admit.ts'
import type { Copier } from './copier.ts'
import { eventsOf, refusalEvent } from './events.ts'
import type { ManifestDirectory } from './manifest-directory.ts'
import type { AgentAction, AgentObserved } from './observed.ts'
import { planDisk } from './plan.ts'
import type { PoolView } from './pool-view.ts'
import type { ServerMirror } from './server-mirror.ts'
import { isUid, type Volume } from './volume.ts'

export interface ReconcilerTerms {
  readonly client: KubeClient
  readonly view: Pick<PoolView, 'pool' | 'disk' | 'disks' | 'snapshots'>
  readonly volume: Volume
  readonly manifests: ManifestDirectory
  readonly mirror: ServerMirror
  readonly copier: Copier
  /** Where clients find the server. */
  readonly uri: () => string | undefined
  readonly counted: { statusWrites: number }
  /** Tells users. */
  readonly record: EventRecorder['record']
  /** A disk's manifest, file or status is another one now. */
  readonly onStep: () => void
}

export interface DiskReconciler {
  reconcile(key: string, signal: AbortSignal): Promise<ReconcileResult | undefined>
  /** A disk that the API server does not have any more. */
  forget(uid: string): void
}

/** A status that has changed meanwhile is looked at anew so often: conditions of others do not matter to ours. */
const STATUS_RETRIES = 4

type Parsed = OnDemandDisk | InvalidSpecError

/** Objects never change; a client that waits for its disk has all of the pool's looked at. */
const parsedDisks: Readonly<Record<NameRules, WeakMap<OnDemandDisk, Parsed>>> = {
  strict: new WeakMap(),
  relaxed: new WeakMap(),
}

/** The object checked by the pool's rules for names, or what is wrong with it. */
export function parseDisk(disk: OnDemandDisk, names: NameRules): Parsed {
  const known = parsedDisks[names].get(disk)
  if (known !== undefined) return known
  const parsed = orInvalid(() => parseOnDemandDisk(disk, { names }))
  parsedDisks[names].set(disk, parsed)
  return parsed
}

/** Which export names a pool allows; where it is not known, the fewest. */
export const nameRules = (pool: DiskPool | undefined): NameRules =>
  pool?.spec.exportNames === 'Relaxed' ? 'relaxed' : 'strict'

/** The disk as `allot` wants it. */
export function claimantOf(disk: OnDemandDisk, parsed: OnDemandDisk | InvalidSpecError): Claimant {
  const { uid = '', creationTimestamp = '' } = disk.metadata
  return {
    uid,
    createdAt: creationTimestamp,
    size: parsed instanceof InvalidSpecError ? 0 : placeOf(parsed.spec),
    currentSize: disk.status?.size,
    started: hasBegun(disk),
  }
}

/** Bytes of the quota that the pool's snapshots have. */
export function placeOfSnapshots(view: Pick<PoolView, 'snapshots'>): number {
  let sum = 0
  for (const snapshot of view.snapshots()) sum += placeOfSnapshot(snapshot)
  return sum
}

/** Makes what brings the pool's disks, one at a time, to what their objects say. */
export function createDiskReconciler(terms: ReconcilerTerms): DiskReconciler {
  const { client, view, volume, manifests, mirror, copier, uri, counted, record, onStep } = terms
  const writtenAt = new Map<string, number>()
  /** When each disk's last refusal was that is told, or that an agent before this one has told. */
  const refusedAt = new Map<string, string>()
  const startedAt = new Date().toISOString()

  async function observe(disk: OnDemandDisk, uid: string): Promise<AgentObserved> {
    const parsed = checked(disk)
    const spare = disk.metadata.annotations?.[SPARE_ANNOTATION]
    const isPromised = spare !== undefined && !isTrue(disk, 'Provisioned')
    const [file, isThere] = await Promise.all([volume.disk(uid), isPromised && hasSpare(spare)])
    const mayBeRetained = disk.metadata.deletionTimestamp !== undefined && file === undefined
    return {
      disk,
      parsed,
      allotment: allotmentOf(disk, parsed, file?.size),
      file,
      isRetained: mayBeRetained && (await volume.isRetained(uid)),
      spare: isThere,
      copy: copier.view(uid),
      copiedTo: disk.metadata.deletionTimestamp === undefined ? [] : copiesOf(uid),
      now: Date.now(),
      manifest: manifests.text(uid),
      server: mirror.view(uid),
      uri: uri(),
      sinceWriteMs: performance.now() - (writtenAt.get(uid) ?? Number.NEGATIVE_INFINITY),
    }
  }

  /** Also a change that an API server before 1.25 lets through, and that the disk cannot follow, is none to serve by. */
  function checked(disk: OnDemandDisk): Parsed {
    const parsed = parseDisk(disk, nameRules(view.pool))
    return parsed instanceof InvalidSpecError ? parsed : (changedField(disk, parsed) ?? parsed)
  }

  /** What is being made of a disk, by what the API says, and by what is at work here, which the API may not say any more. */
  function copiesOf(uid: string): string[] {
    const names = [
      ...snapshotsTakenOf(uid, view.snapshots()).map(name => `the DiskSnapshot ${name}`),
      ...disksMadeOf('OnDemandDisk', uid, view.disks()).map(name => `the OnDemandDisk ${name}`),
    ]
    return names.length === 0 && copier.isSource('disks', uid) ? ['one that is being called off'] : names
  }

  /** The name stands in an annotation, which anybody may have written. */
  async function hasSpare(name: string): Promise<boolean> {
    return await volume.hasSpare(name).catch(() => false)
  }

  /** Only a disk that wants to grow in a pool with a quota needs the others looked at. */
  function allotmentOf(
    disk: OnDemandDisk,
    parsed: OnDemandDisk | InvalidSpecError,
    size: number | undefined,
  ) {
    const quota = view.pool?.spec.quota
    if (quota === undefined || size === undefined || parsed instanceof InvalidSpecError) return undefined
    if ((parsed.spec.size ?? 0) <= size || parsed.spec.command !== undefined) return undefined
    const claimants = [...view.disks()].map(other => {
      const claimant = claimantOf(other, parseDisk(other, nameRules(view.pool)))
      return other.metadata.uid === disk.metadata.uid
        ? { ...claimant, currentSize: size, started: true }
        : claimant
    })
    return allot(claimants, { quota, snapshots: placeOfSnapshots(view) }).get(disk.metadata.uid ?? '')
  }

  /** Takes a step; returns the object as it is then. */
  async function take(action: AgentAction, disk: OnDemandDisk, uid: string, signal: AbortSignal) {
    switch (action.kind) {
      case 'take spare':
        await volume.takeSpare(action.spare, uid)
        return disk
      case 'start copy':
        copier.start({ from: action.from, to: { place: 'disks', uid } })
        return disk
      case 'call off copy':
        await copier.callOff(uid)
        return disk
      case 'write manifest':
        await manifests.write(uid, action.text)
        // Whoever asked for one that a spare has become has its server read it; any other is to be read soon.
        if (isTrue(disk, 'Provisioned')) void mirror.rescan([uid])
        return disk
      case 'remove manifest':
        await manifests.remove(uid)
        void mirror.rescan([uid])
        return disk
      case 'remove file':
        await volume.removeDisk(uid)
        return disk
      case 'retain file':
        await volume.retainDisk(uid)
        return disk
      case 'status': {
        const written = await writeStatus(client, ON_DEMAND_DISKS, disk, action.change, {
          retries: STATUS_RETRIES,
          signal,
        })
        if (written !== disk) {
          counted.statusWrites++
          writtenAt.set(uid, performance.now())
          for (const note of eventsOf(disk, action.change.conditions ?? [])) record(written, note)
        }
        return written
      }
    }
  }

  function tellRefusal(disk: OnDemandDisk, uid: string): void {
    const server = mirror.view(uid)
    const last = server.state === 'known' ? server.served?.lastRefusal : undefined
    if (last === undefined || last.at <= (refusedAt.get(uid) ?? startedAt)) return
    refusedAt.set(uid, last.at)
    record(disk, refusalEvent(last))
  }

  /** Takes the steps of a disk's plan, and of the next one if with them the disk was made: a client waits for that. */
  async function carryOut(disk: OnDemandDisk, uid: string, signal: AbortSignal): Promise<number | undefined> {
    const { actions, requeueAfterMs } = planDisk(await observe(disk, uid))
    let latest = disk
    for (const action of actions) {
      latest = await take(action, latest, uid, signal)
      // At once: a client that waits for the manifest must not wait for the status as well.
      onStep()
    }
    const isMade = !isTrue(disk, 'Provisioned') && isTrue(latest, 'Provisioned')
    return isMade ? await carryOut(latest, uid, signal) : requeueAfterMs
  }

  return {
    async reconcile(key, signal) {
      const disk = view.disk(key)
      const uid = disk?.metadata.uid
      // The uid becomes a file's name; an API server makes no other.
      if (disk === undefined || !isUid(uid)) return undefined
      tellRefusal(disk, uid)
      try {
        const requeueAfterMs = await carryOut(disk, uid, signal)
        return requeueAfterMs === undefined ? undefined : { requeueAfterMs }
      } catch (error) {
        // Deleted meanwhile; the news of it comes by itself.
        if (!hasCode(error, 'NotFound')) throw error
        return undefined
      }
    },

    forget(uid) {
      writtenAt.delete(uid)
      refusedAt.delete(uid)
    },
  }
}
