/** A backend in memory that fails, or takes its time, where a test wants it to. */
import { API_VERSION, type Completion, type FilledBackend, PENDING } from '../backends/backend.ts'

/** An error with a code, as a backend's are. */
export const failure = (code: string, message = `It is said to be ${code}.`) =>
  Object.assign(new Error(message), { code })

/** All operations work on this memory at once; `changes` replaces some of them. */
export function memoryBackend(data: Buffer, changes: Partial<FilledBackend> = {}): FilledBackend {
  return {
    apiVersion: API_VERSION,
    open: () => ({}),
    getSize: () => data.length,
    probe: () => ({ size: data.length }),
    listExports: () => [''],
    preadNow: () => 0,
    pwriteNow: () => 0,
    pread: (_, target, start, length, offset) => {
      data.copy(target, start, offset, offset + length)
    },
    pwrite: (_, source, start, length, offset) => {
      source.copy(data, offset, start, start + length)
    },
    flush: () => {},
    trim: () => {},
    zero: (_, length, offset) => {
      data.fill(0, offset, offset + length)
    },
    canFastZero: () => true,
    cache: () => {},
    endBatch: () => {},
    extents: (_, length) => [{ length, hole: false, zero: false }],
    close: () => {},
    ...changes,
  }
}

/** Operations that wait until the test lets them end. */
export function gate() {
  const waiting: Completion[] = []
  return {
    waiting,
    /** What a held operation returns. */
    hold(completion: Completion): typeof PENDING {
      waiting.push(completion)
      return PENDING
    },
    /** Ends all that wait. */
    open(error?: unknown): void {
      for (const completion of waiting.splice(0)) completion.complete(error)
    },
  }
}
