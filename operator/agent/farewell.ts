/** Disks that are not among those that are followed any more: most are gone, but not all. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { ON_DEMAND_DISKS } from '../../crds/resources.ts'
import type { KubeClient } from '../kube/client.ts'
import { type KubeLog, reasonOf } from '../kube/log.ts'
import type { ManifestDirectory } from './manifest-directory.ts'

export interface FarewellTerms {
  readonly client: KubeClient
  readonly poolName: string
  readonly manifests: Pick<ManifestDirectory, 'text' | 'remove'>
  /** Is the disk among those that are followed? */
  readonly isFollowed: (uid: string) => boolean
  /** Told when the manifest of a disk has been removed. */
  readonly onGone: (uid: string) => void
  readonly log: KubeLog
}

export interface Farewell {
  /** Has a disk not served any more, once the API server says that it is gone. */
  leave(uid: string): void
  stop(): Promise<void>
}

/** How long until an object without its label, or an API server without an answer, is looked at again, in ms. */
const AGAIN_MS = 5000

/**
 * A disk is followed by its label, and `kubectl replace` with a file that has none takes it away. The operator puts it
 * back as soon as it can; until then the clients of the disk must not be disconnected for that.
 */
export function createFarewell(terms: FarewellTerms): Farewell {
  const { client, poolName, manifests, isFollowed, onGone, log } = terms
  const stopped = new AbortController()
  const { signal } = stopped
  const leaving = new Map<string, Promise<void>>()

  async function isThere(uid: string, text: string): Promise<boolean> {
    const { metadata } = JSON.parse(text) as OnDemandDisk
    const found = await client.find<OnDemandDisk>(ON_DEMAND_DISKS, metadata, { signal })
    return found?.metadata.uid === uid && found.spec.poolName === poolName
  }

  async function run(uid: string): Promise<void> {
    let isTold = false
    while (!signal.aborted) {
      const text = manifests.text(uid)
      if (text === undefined || isFollowed(uid)) return
      try {
        if (!(await isThere(uid, text))) {
          if (isFollowed(uid)) return
          log.warn({ uid }, 'A disk is gone from the API; it is not served any more, and its file stays')
          await manifests.remove(uid)
          onGone(uid)
          return
        }
        if (!isTold)
          log.warn({ uid }, 'A disk has lost its label; it is served as before until it has it again')
        isTold = true
      } catch (error) {
        if (signal.aborted) return
        log.error(
          { uid, ...reasonOf(error) },
          'Whether a disk is gone is not known yet; it is served as before',
        )
      }
      await sleep(AGAIN_MS, undefined, { signal }).catch(() => {})
    }
  }

  return {
    leave(uid) {
      if (leaving.has(uid)) return
      leaving.set(
        uid,
        run(uid).finally(() => leaving.delete(uid)),
      )
    },
    async stop() {
      stopped.abort(new Error('The agent stops.'))
      await Promise.allSettled([...leaving.values()])
    },
  }
}
