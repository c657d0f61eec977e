/** Disks that clients want: one object for each, as many as the pool may have, and a wait until it is there. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { DiskPool } from '../../crds/diskpool.ts'
import { InvalidSpecError, type OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { quote } from '../../crds/quote.ts'
import { ON_DEMAND_DISKS } from '../../crds/resources.ts'
import type { AskAnswer, AskedDisk } from '../../server/control/ask.ts'
import { RequestError } from '../../server/control/unix-http.ts'
import type { KubeClient } from '../kube/client.ts'
import { hasCode } from '../kube/kube-error.ts'
import { type KubeLog, reasonOf } from '../kube/log.ts'
import type { Claimant } from '../terms/allotment.ts'
import { conditionOf } from '../terms/conditions.ts'
import { spareKey } from '../terms/spares.ts'
import { admit, onDemandObject, placeOf } from './admit.ts'
import { claimantOf, nameRules, parseDisk, placeOfSnapshots } from './disk-reconciler.ts'
import { manifestName } from './manifest-directory.ts'
import { objectNames } from './object-name.ts'
import type { PoolView } from './pool-view.ts'
import type { Volume } from './volume.ts'

export interface OnDemandTerms {
  readonly client: KubeClient
  readonly namespace: string
  readonly poolName: string
  readonly view: PoolView
  readonly volume: Volume
  /** Is the disk's manifest written? */
  readonly isDeclared: (uid: string) => boolean
  /** All that there was at the start is known. */
  readonly isSynced: () => boolean
  readonly counted: Record<'made' | 'refused' | 'spares', number>
  readonly log: KubeLog
}

export interface OnDemand {
  answer(asked: AskedDisk, signal: AbortSignal): Promise<AskAnswer>
  /** Something about a disk has changed: those who wait look again. */
  changed(): void
}

/** An answer is held back for so long at most, in ms; the server asks again. */
const HOLD_MS = 4000

/** Reasons of Ready that pass by themselves; with any other the client is told. */
const PASSING: readonly (string | undefined)[] = [
  undefined,
  'Provisioning',
  'PoolNotReady',
  'WaitingForServer',
  'Ready',
  'Serving',
  'Unknown',
]

/** Makes what answers the server when a client asks for a disk that nobody has declared. */
export function createOnDemand(terms: OnDemandTerms): OnDemand {
  const { client, namespace, poolName, view, volume, isDeclared, isSynced, counted, log } = terms
  /** Places of disks whose objects are being made, by export name. */
  const reserved = new Map<string, Claimant>()
  /** Spares that are promised to objects that are being made. */
  const promised = new Set<string>()
  const waiting = new Set<() => void>()

  function refused(kind: 'unknown' | 'policy' | 'limit' | 'failed', message: string): AskAnswer {
    counted.refused++
    return { result: 'refused', kind, message }
  }

  /** What becomes of a disk that there is; undefined: not decided yet. */
  function stateOf(disk: OnDemandDisk): AskAnswer | undefined {
    const { uid = '', deletionTimestamp } = disk.metadata
    if (deletionTimestamp !== undefined) return refused('unknown', 'The disk is being deleted.')
    if (isDeclared(uid)) return { result: 'declared', manifest: manifestName(uid) }
    const ready = conditionOf(disk, 'Ready')
    if (ready?.status === 'False' && !PASSING.includes(ready.reason)) return refused('failed', ready.message)
    return undefined
  }

  /** Who counts against the pool's limits; nobody where it has none. */
  function claimants({ quota, onDemand }: DiskPool['spec']): Claimant[] {
    if (quota === undefined && onDemand.maxDisks === undefined) return []
    const names = nameRules(view.pool)
    const known = [...view.disks()].map(disk => claimantOf(disk, parseDisk(disk, names)))
    // One whose object has come by the watch before its request was answered must not count twice.
    const making = [...reserved].filter(([name]) => view.byExport(name) === undefined)
    return [...known, ...making.map(([, claimant]) => claimant)]
  }

  async function spareFor(size: number | undefined): Promise<string | undefined> {
    const template = view.pool?.spec.onDemand.template
    if (template === undefined || size !== template.size) return undefined
    const all = await volume.spares(spareKey(template))
    return all.find(name => !promised.has(name))
  }

  async function make(asked: AskedDisk): Promise<AskAnswer | undefined> {
    const { pool } = view
    if (pool === undefined) return refused('failed', 'The pool is not valid. See its condition Ready.')
    const admission = admit(asked, pool, claimants(pool.spec), placeOfSnapshots(view))
    if ('message' in admission) return refused(admission.kind, admission.message)
    const { spec } = admission
    // From here to the reservation nothing else runs, so that no two clients get the same last place.
    reserved.set(asked.name, {
      uid: `\ufffe${asked.name}`,
      createdAt: '\ufffe',
      size: placeOf(spec),
      started: true,
    })
    let spare: string | undefined
    try {
      spare = await spareFor(spec.size)
      if (spare !== undefined) promised.add(spare)
      const problem = await createObject(asked.name, spec, spare)
      if (problem !== undefined) return problem
      counted.made++
      if (spare !== undefined) counted.spares++
      return undefined
    } catch (error) {
      log.warn({ export: asked.name, ...reasonOf(error) }, 'A disk could not be made on demand')
      return refused(
        'failed',
        'The disk cannot be made now, because the API server does not answer. Try again.',
      )
    } finally {
      reserved.delete(asked.name)
      if (spare !== undefined) promised.delete(spare)
      for (const wake of waiting) wake()
    }
  }

  /** Makes the object; where its name is taken by another disk, under its other name. */
  async function createObject(
    exportName: string,
    spec: Parameters<typeof onDemandObject>[2],
    spare: string | undefined,
  ): Promise<AskAnswer | undefined> {
    for (const name of objectNames(exportName)) {
      try {
        const object = onDemandObject(name, namespace, spec, nameRules(view.pool), spare)
        const made = await client.create<OnDemandDisk>(ON_DEMAND_DISKS, object)
        reserved.delete(exportName)
        view.add(made)
        log.info({ export: exportName, object: name, spare }, 'Disk made on demand')
        return undefined
      } catch (error) {
        if (hasCode(error, 'AlreadyExists')) {
          const existing = await client.find<OnDemandDisk>(ON_DEMAND_DISKS, { namespace, name })
          const isIt =
            existing?.spec.poolName === poolName && (existing.spec.exportName ?? name) === exportName
          if (existing !== undefined && isIt) {
            reserved.delete(exportName)
            view.add(existing)
            return undefined
          }
        } else if (hasCode(error, 'Invalid') || hasCode(error, 'Forbidden')) {
          const { message } = error as Error
          log.error({ export: exportName, reason: message }, 'The API server refuses a disk made on demand')
          return refused(
            'failed',
            'The API server refuses the disk. The log of the pool’s agent has the reason.',
          )
        } else throw error
      }
    }
    return refused('failed', `The names of the object for ${quote(exportName)} are taken by other disks.`)
  }

  function change(signal: AbortSignal): Promise<void> {
    return new Promise(resolve => {
      const wake = () => {
        waiting.delete(wake)
        signal.removeEventListener('abort', wake)
        resolve()
      }
      waiting.add(wake)
      signal.addEventListener('abort', wake)
    })
  }

  return {
    async answer(asked, signal) {
      if (!isSynced()) {
        await Promise.race([sleep(HOLD_MS, undefined, { signal }).catch(() => {}), change(signal)])
        if (!isSynced())
          return refused('failed', 'The pool’s agent does not know the API server’s disks yet. Try again.')
      }
      if (!asked.create) return look(asked)
      const held = AbortSignal.any([signal, AbortSignal.timeout(HOLD_MS)])
      let refusal: AskAnswer | undefined
      let isMaking = false
      for (;;) {
        const disk = view.byExport(asked.name)
        const answer = disk === undefined ? refusal : stateOf(disk)
        if (answer !== undefined) return answer
        // The object may come by the watch, and the disk be declared, before the request for it is answered.
        if (disk === undefined && !isMaking && !reserved.has(asked.name)) {
          isMaking = true
          make(asked)
            .then(problem => {
              refusal = problem
            })
            .catch((error: unknown) => {
              log.error({ export: asked.name, ...reasonOf(error) }, 'A disk could not be made on demand')
              refusal = refused(
                'failed',
                'The disk cannot be made. The log of the pool’s agent has the reason.',
              )
            })
            .finally(() => {
              isMaking = false
              for (const wake of waiting) wake()
            })
        }
        if (held.aborted) return { result: 'waiting' }
        const known = view.byExport(asked.name)
        if (known !== undefined && isDeclared(known.metadata.uid ?? '')) continue
        await change(held)
      }
    },

    changed() {
      for (const wake of waiting) wake()
    },
  }

  function look(asked: AskedDisk): AskAnswer {
    const { pool } = view
    const disk = view.byExport(asked.name)
    if (disk !== undefined) {
      const parsed = parseDisk(disk, nameRules(pool))
      if (parsed instanceof InvalidSpecError) return refused('failed', parsed.message)
      return { result: 'size', size: parsed.spec.size ?? 0 }
    }
    if (pool === undefined) return refused('failed', 'The pool is not valid. See its condition Ready.')
    const admission = admit(asked, pool, claimants(pool.spec), placeOfSnapshots(view))
    if ('message' in admission) return refused(admission.kind, admission.message)
    return { result: 'size', size: admission.spec.size ?? 0 }
  }
}

/** A question as it came over the socket. @throws RequestError */
export function askedDisk(body: unknown): AskedDisk {
  const { name, size, client, create } = (body ?? {}) as Readonly<Record<string, unknown>>
  const isSize = size === undefined || (Number.isSafeInteger(size) && (size as number) > 0)
  if (typeof name === 'string' && typeof client === 'string' && typeof create === 'boolean' && isSize) {
    return { name, client, create, ...(size !== undefined && { size: size as number }) }
  }
  throw new RequestError(400, 'Give name, client, create, and size if the client asked for one.')
}
