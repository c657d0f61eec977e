/** Workers that bring the world to what objects say, one key at a time, until it is so. */
import { Histogram } from '../../server/metrics/histogram.ts'
import { hasCode, KubeError } from './kube-error.ts'
import { type KubeLog, reasonOf } from './log.ts'
import type { WorkQueue } from './queue.ts'

/** What a reconciler may ask for. Nothing: it is called again when something changes. */
export interface ReconcileResult {
  readonly requeueAfterMs?: number
}

/**
 * Brings the world one or more steps nearer to what the object of this key says. Is called for every change and may
 * be called at any time: it has to look at the state there is, not at what changed. What it throws makes the key
 * come back, later each time.
 */
export type Reconcile = (key: string, signal: AbortSignal) => Promise<ReconcileResult | undefined>

export interface ControllerTerms {
  readonly name: string
  readonly queue: WorkQueue
  readonly workers: number
  readonly reconcile: Reconcile
  readonly log?: KubeLog
  /** A reconciliation that takes longer is aborted, in ms. Default: 120 s. */
  readonly timeoutMs?: number
}

/** What is counted of a controller. */
export interface ControllerMeter {
  readonly name: string
  readonly workers: number
  readonly queue: WorkQueue
  active: number
  readonly results: Record<'success' | 'error' | 'requeue_after', number>
  /** Seconds. */
  readonly times: Histogram
}

export interface Controller {
  readonly meter: ControllerMeter
  /** Takes no more work, aborts what is under way after `graceMs`, and resolves when all has ended. */
  stop(graceMs?: number): Promise<void>
}

const TIMEOUT_MS = 120_000
const GRACE_MS = 10_000

/** Seconds, as controller-runtime has them. */
const SECONDS = [
  0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.25, 1.5,
  1.75, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 40, 50, 60,
]

/** Starts the workers. */
export function startController(terms: ControllerTerms): Controller {
  const { name, queue, workers, reconcile, log, timeoutMs = TIMEOUT_MS } = terms
  const meter: ControllerMeter = {
    name,
    workers,
    queue,
    active: 0,
    results: { success: 0, error: 0, requeue_after: 0 },
    times: new Histogram(SECONDS),
  }
  const stopped = new AbortController()

  async function work(key: string): Promise<void> {
    const startedAt = performance.now()
    meter.active++
    const own = new AbortController()
    const abort = () => own.abort(stopped.signal.reason)
    stopped.signal.addEventListener('abort', abort, { once: true })
    const timer = setTimeout(
      () => own.abort(new KubeError('RequestTimeout', `Took longer than ${timeoutMs / 1000} s.`)),
      timeoutMs,
    )
    try {
      const result = await reconcile(key, own.signal)
      queue.forget(key)
      if (result?.requeueAfterMs === undefined) {
        meter.results.success++
      } else {
        meter.results.requeue_after++
        queue.addAfter(key, result.requeueAfterMs)
      }
    } catch (error) {
      meter.results.error++
      if (!stopped.signal.aborted) report(key, error)
      queue.retry(key)
    } finally {
      clearTimeout(timer)
      stopped.signal.removeEventListener('abort', abort)
      meter.active--
      meter.times.observe((performance.now() - startedAt) / 1000)
      queue.done(key)
    }
  }

  function report(key: string, error: unknown): void {
    const fields = { controller: name, key, failures: queue.failures(key) + 1 }
    // The world has moved on since the state that was looked at. It happens all day and cures itself.
    if (hasCode(error, 'Conflict')) log?.debug({ ...fields, ...reasonOf(error) }, 'Trying again')
    else if (error instanceof KubeError) log?.warn({ ...fields, ...reasonOf(error) }, 'Trying again later')
    else log?.error({ ...fields, error }, 'Reconciling failed; trying again later')
  }

  const running = Array.from({ length: workers }, async () => {
    for (let key = await queue.take(); key !== undefined; key = await queue.take()) await work(key)
  })
  return {
    meter,
    async stop(graceMs = GRACE_MS) {
      const timer = setTimeout(() => stopped.abort(new Error('The controller is stopping.')), graceMs)
      await queue.drain()
      await Promise.all(running)
      clearTimeout(timer)
    },
  }
}
