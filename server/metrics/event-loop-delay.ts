/** How late the event loop is, by a timer that ought to fire at even intervals. */
import type { Family } from './exposition.ts'
import { DELAY_SECONDS, Histogram } from './histogram.ts'

/** Milliseconds between two looks. */
const INTERVAL_MS = 50

/** A measurement that goes on until it is closed. */
export interface EventLoopDelay {
  readonly family: Family
  close(): void
}

/** Begins to measure. It does not keep the process alive. */
export function measureEventLoopDelay(): EventLoopDelay {
  const delays = new Histogram(DELAY_SECONDS)
  let last = performance.now()
  const timer = setInterval(() => {
    const now = performance.now()
    // Less than a millisecond is the timer's own rounding.
    delays.observe(Math.max(0, now - last - INTERVAL_MS) / 1000)
    last = now
  }, INTERVAL_MS)
  timer.unref()
  return {
    family: {
      name: 'ondemand_disk_event_loop_delay_seconds',
      type: 'histogram',
      labels: [],
      help: 'How late the event loop was, looked at 20 times a second.',
      samples: () => [{ labels: [], value: delays }],
    },
    close: () => clearInterval(timer),
  }
}
