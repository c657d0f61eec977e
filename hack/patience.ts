/**
 * Runs in front of every test file. What a test waits for, it waits for as long as a busy machine may need, for only
 * what never comes is a failure; expect.poll has its own from vitest.config.ts, and vi.waitFor has no such setting.
 */
import { vi } from 'vitest'

/** Milliseconds. */
const PATIENCE = 10_000

const { waitFor } = vi
const patientWaitFor: typeof vi.waitFor = (callback, options) =>
  waitFor(callback, typeof options === 'number' ? options : { timeout: PATIENCE, interval: 10, ...options })
// Files that share a process share `vi`.
if (waitFor.name !== patientWaitFor.name) vi.waitFor = patientWaitFor
