/**
 * Tells when a buffered write may be made on the event loop. The kernel puts a writer to sleep once
 * dirty memory passes the middle between its two thresholds (balance_dirty_pages); near there, and for
 * a while after writes that slept, writes go to the thread pool instead.
 */
import { openSync, readSync } from 'node:fs'
import { voluntarySwitches } from '../../linux/syscalls.ts'
import { SlowWrites } from './slow-writes.ts'

/** Bytes written between two looks at the kernel's counters. */
const SAMPLE_BYTES = 16 * 2 ** 20
/** Share of the kernel's free-running level up to which writes run on the event loop. */
const MARGIN = 0.8

/** Dirty memory counters of /proc/vmstat, in pages. */
export interface DirtyMemory {
  readonly dirty: number
  readonly writeback: number
  readonly threshold: number
  readonly backgroundThreshold: number
}

/** Reads the counters out of the text of /proc/vmstat; undefined if one is missing. */
export function parseVmstat(text: string): DirtyMemory | undefined {
  const counter = (name: string) => Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1] ?? Number.NaN)
  const memory = {
    dirty: counter('nr_dirty'),
    writeback: counter('nr_writeback'),
    threshold: counter('nr_dirty_threshold'),
    backgroundThreshold: counter('nr_dirty_background_threshold'),
  }
  return Object.values(memory).some(Number.isNaN) ? undefined : memory
}

/** Would the kernel let a writer run free at this level? */
export function runsFree(memory: DirtyMemory): boolean {
  const ceiling = (memory.threshold + memory.backgroundThreshold) / 2
  return memory.dirty + memory.writeback < MARGIN * ceiling
}

let vmstat: number | undefined
const text = Buffer.allocUnsafeSlow(16_384)
let sinceSample = SAMPLE_BYTES
let free = true
const slowWrites = new SlowWrites(voluntarySwitches)

function sample(): boolean {
  try {
    vmstat ??= openSync('/proc/vmstat', 'r')
    const memory = parseVmstat(text.toString('latin1', 0, readSync(vmstat, text, 0, text.length, 0)))
    return memory === undefined || runsFree(memory)
  } catch {
    // Without /proc only the time that writes take is left to go by.
    return true
  }
}

/** May this many bytes be written now on the event loop? */
export function mayWriteNow(bytes: number): boolean {
  sinceSample += bytes
  if (sinceSample >= SAMPLE_BYTES) {
    sinceSample = 0
    free = sample()
  }
  return free && slowWrites.mayWrite(performance.now())
}

/** A write on the event loop begins; returns when. */
export function beginWrite(): number {
  const now = performance.now()
  slowWrites.begin(now)
  return now
}

/** It has ended, having begun at `startedAt`. */
export function endWrite(startedAt: number): void {
  // What made it wait may show in the counters by now.
  if (slowWrites.end(startedAt, performance.now())) sinceSample = SAMPLE_BYTES
}
