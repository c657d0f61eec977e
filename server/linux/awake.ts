/**
 * Keeps the event loop from going to sleep for a moment, because something is about to come: to be woken up costs 70 us
 * on a processor that has gone to sleep as well. The loop goes on as ever, and serves whoever comes meanwhile.
 */
import { yieldProcessor } from './syscalls.ts'

let until = 0
let isAwake = false

function look(): void {
  isAwake = performance.now() < until
  if (!isAwake) return
  // Who is waited for may need this very processor.
  yieldProcessor()
  setImmediate(look)
}

/** Stays awake up to this moment, in ms of `performance.now()`, or longer where somebody else has asked for that. */
export function stayAwake(moment: number): void {
  until = Math.max(until, moment)
  if (isAwake) return
  isAwake = true
  setImmediate(look)
}

/** The loop does not go to sleep now. */
export const isStayingAwake = (): boolean => isAwake
