/** The pool as a whole: the server's policy, the spares, and the numbers in the pool's status. */
import { mkdir } from 'node:fs/promises'
import { basename, dirname } from 'node:path'
import type { DiskPool } from '../../crds/diskpool.ts'
import { DISK_POOLS } from '../../crds/resources.ts'
import type { KubeClient } from '../kube/client.ts'
import { writeStatus } from '../kube/conditions.ts'
import type { ReconcileResult } from '../kube/controller.ts'
import type { KubeLog } from '../kube/log.ts'
import { spareKey } from '../terms/spares.ts'
import { writeWhole } from './manifest-directory.ts'
import { policyText, poolFields } from './pool-plan.ts'
import type { PoolView } from './pool-view.ts'
import type { ServerMirror } from './server-mirror.ts'
import type { Volume } from './volume.ts'

export interface PoolReconcilerTerms {
  readonly client: KubeClient
  readonly view: Pick<PoolView, 'pool'>
  /** The pool's object as it was last seen. */
  readonly known: () => DiskPool | undefined
  readonly volume: Volume
  readonly mirror: ServerMirror
  readonly policyPath: string
  readonly counted: { statusWrites: number }
  readonly log: KubeLog
}

/** The volume fills without notice, and Jobs make spares without a word: so often is looked, in ms. */
const LOOK_MS = 5000

/** Makes what brings the server's policy and the pool's status to what holds. */
export function createPoolReconciler(terms: PoolReconcilerTerms) {
  const { client, view, known, volume, mirror, policyPath, counted, log } = terms
  let policy: string | undefined
  let writtenAt = Number.NEGATIVE_INFINITY

  /** Clients that may not stay are disconnected before this returns. */
  async function writePolicy(text: string): Promise<void> {
    if (text === policy) return
    await mkdir(dirname(policyPath), { recursive: true })
    await writeWhole(dirname(policyPath), basename(policyPath), text)
    policy = text
    await mirror.rescan([])
  }

  return {
    async reconcile(signal: AbortSignal): Promise<ReconcileResult | undefined> {
      const { pool } = view
      const object = known()
      // Without a pool there is nothing that could be more right than what holds now.
      if (pool === undefined || object === undefined) return undefined
      await writePolicy(policyText(pool))
      const { template, enabled, spares: wanted } = pool.spec.onDemand
      const key = template && enabled && wanted > 0 ? spareKey(template) : undefined
      const dropped = await volume.dropSpares(key)
      if (dropped.length > 0) log.info({ spares: dropped }, 'Removed spares that are not wanted any more')
      const { fields, requeueAfterMs = LOOK_MS } = poolFields(
        {
          spares: (await volume.spares(key)).length,
          connections: mirror.connections,
          ...(await volume.space()),
          sinceWriteMs: performance.now() - writtenAt,
        },
        object.status,
      )
      const written = await writeStatus(client, DISK_POOLS, object, { fields }, { retries: 2, signal })
      if (written !== object) {
        counted.statusWrites++
        writtenAt = performance.now()
      }
      return { requeueAfterMs: Math.min(requeueAfterMs, LOOK_MS) }
    },
  }
}
