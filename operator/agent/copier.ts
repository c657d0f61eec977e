/** Copies that are being made on the pool's volume: snapshots of disks, and disks of snapshots and of disks. */
import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { SPACE_PROBLEMS } from '../../server/backends/disks/errors.ts'
import { Slots } from '../../server/backends/disks/slots.ts'
import { copyOfNow } from '../../server/backends/file/point-copy.ts'
import { SocketError } from '../../server/control/unix-http.ts'
import { codeOf, toError } from '../../server/linux/errno.ts'
import { type KubeLog, reasonOf } from '../kube/log.ts'
import type { ServerMirror } from './server-mirror.ts'
import type { Place, Volume } from './volume.ts'

/** What is to become what. */
export interface CopyOrder {
  readonly from: { readonly place: Place; readonly uid: string }
  readonly to: { readonly place: Place; readonly uid: string }
}

/** How it goes with the copy that is to be the object of a uid. */
export type CopyView =
  | { readonly state: 'none' }
  | { readonly state: 'running' }
  | { readonly state: 'done'; readonly method: 'reflink' | 'copy' }
  /** `retryAt`: ms since 1970. */
  | { readonly state: 'failed'; readonly message: string; readonly retryAt: number }

/** What has been reached when a copy is made, in this order. */
export const COPY_STEPS = ['begun', 'copied', 'published'] as const
export type CopyStep = (typeof COPY_STEPS)[number]

export interface Copier {
  view(uid: string): CopyView
  /** Begins, unless it is under way. */
  start(order: CopyOrder): void
  /** Is something being made of this at this moment? */
  isSource(place: Place, uid: string): boolean
  /** Resolves when nothing is at work on it, and forgets it. */
  callOff(uid: string): Promise<void>
  stop(): Promise<void>
}

export interface CopierTerms {
  readonly volume: Volume
  readonly mirror: Pick<ServerMirror, 'copy'>
  /** Told of each order that has ended, well or not. */
  readonly onEnd: (order: CopyOrder) => void
  readonly log: KubeLog
  /** Waited for after each step, so that a test can die between any two. */
  readonly onStep?: (step: CopyStep) => Promise<void>
}

interface Running {
  readonly order: CopyOrder
  readonly abort: AbortController
  readonly done: Promise<void>
}

/** Waits before a copy is tried again, in ms: they double. A server that is away comes back soon. */
const FIRST_RETRY_MS = 2000
const MAX_RETRY_MS = 300_000
const AWAY_RETRY_MS = 1000

/** Copies compete for the volume with the clients of all disks. */
const MAX_AT_ONCE = 4

/** Makes copies on the volume, some at once; the others wait for their turn. */
export function createCopier({ volume, mirror, onEnd, log, onStep }: CopierTerms): Copier {
  const running = new Map<string, Running>()
  const ended = new Map<string, CopyView>()
  const failures = new Map<string, number>()
  const slots = new Slots(MAX_AT_ONCE)

  async function make({ from, to }: CopyOrder, signal: AbortSignal): Promise<'reflink' | 'copy'> {
    const release = await slots.acquire(signal)
    try {
      const path = await volume.copyPath(to.uid)
      await onStep?.('begun')
      const { method } =
        from.place === 'disks'
          ? await mirror.copy(from.uid, path, signal)
          : await copyUnchanging(volume.snapshotPath(from.uid), path, signal)
      await onStep?.('copied')
      await volume.publishCopy(to.uid, to.place)
      await onStep?.('published')
      return method
    } finally {
      release()
      await volume.dropCopy(to.uid)
    }
  }

  async function run(order: CopyOrder, signal: AbortSignal): Promise<void> {
    const { uid } = order.to
    try {
      const method = await make(order, signal)
      ended.set(uid, { state: 'done', method })
      failures.delete(uid)
      log.info({ uid, source: order.from.uid, method }, 'Copy made')
    } catch (error) {
      if (signal.aborted) return
      const count = (failures.get(uid) ?? 0) + 1
      failures.set(uid, count)
      const message = messageOf(error)
      const doubled = Math.min(FIRST_RETRY_MS * 2 ** Math.min(count - 1, 20), MAX_RETRY_MS)
      const delay = error instanceof SocketError ? AWAY_RETRY_MS : doubled
      ended.set(uid, { state: 'failed', message, retryAt: Date.now() + delay })
      log.warn({ uid, source: order.from.uid, ...reasonOf(error) }, 'A copy could not be made')
    }
  }

  return {
    view: uid => (running.has(uid) ? { state: 'running' } : (ended.get(uid) ?? { state: 'none' })),

    start(order) {
      const { uid } = order.to
      if (running.has(uid)) return
      ended.delete(uid)
      const abort = new AbortController()
      const done = run(order, abort.signal).finally(() => {
        running.delete(uid)
        onEnd(order)
      })
      running.set(uid, { order, abort, done })
    },

    isSource(place, uid) {
      for (const { order } of running.values()) {
        if (order.from.place === place && order.from.uid === uid) return true
      }
      return false
    },

    async callOff(uid) {
      const found = running.get(uid)
      found?.abort.abort(new Error('The copy was called off.'))
      await found?.done
      ended.delete(uid)
      failures.delete(uid)
    },

    async stop() {
      for (const { abort } of running.values()) abort.abort(new Error('The agent stops.'))
      await Promise.allSettled([...running.values()].map(({ done }) => done))
    },
  }
}

function messageOf(error: unknown): string {
  const space = SPACE_PROBLEMS[codeOf(error) ?? '']
  if (space !== undefined) return 'No space is left for the copy on the pool’s volume.'
  return toError(error).message
}

/** Nobody writes a snapshot. */
async function copyUnchanging(from: string, to: string, signal: AbortSignal) {
  const source = await open(from, constants.O_RDONLY | constants.O_NOFOLLOW)
  try {
    const target = await open(
      to,
      constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW,
      0o600,
    )
    try {
      const { size } = await source.stat()
      const still = { fd: source.fd, size, setBarrier: () => {}, changes: () => 0 }
      return await copyOfNow(still, target.fd, signal)
    } finally {
      await target.close()
    }
  } finally {
    await source.close()
  }
}
