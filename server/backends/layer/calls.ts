/** The operations of a backend, each one guarded call: nothing is checked, split or emulated here. */
import type { Passage } from '../../linux/passage.ts'
import type { Backend, Completion, Extent, ZeroFlags } from '../backend.ts'
import { NO_BYTES, type Step } from './call.ts'
import { BackendError, isThenable } from './errors.ts'
import type { Handle } from './handle.ts'

/** Guarded calls; each returns when it has ended, throws, or completes later. */
export type Calls<Inner> = ReturnType<typeof guardedCalls<Inner>>

const missing = (callback: string) => new BackendError('EINVAL', `The backend has no ${callback}`)

/** Wraps the operations of a backend. What is foreign finds only zeroes in the memory that it is to fill. */
export function guardedCalls<Inner>(backend: Backend<Inner>, foreign: boolean) {
  return {
    pread(
      handle: Handle<Inner>,
      target: Buffer,
      start: number,
      length: number,
      offset: number,
      completion: Completion,
      passage?: Passage,
    ): Step {
      const call = handle.begin('pread', completion, length)
      // What it forgets to fill must not show what other clients read before.
      if (foreign) target.fill(0, start, start + length)
      let outcome: unknown
      try {
        outcome = backend.pread(handle.inner, target, start, length, offset, call, passage)
      } catch (thrown) {
        return call.threw(thrown)
      }
      return call.returned(outcome)
    },

    pwrite(
      handle: Handle<Inner>,
      source: Buffer,
      start: number,
      length: number,
      offset: number,
      completion: Completion,
      fua: boolean,
    ): Step {
      if (backend.pwrite === undefined) throw missing('pwrite')
      const call = handle.begin('pwrite', completion, length)
      let outcome: unknown
      try {
        outcome = backend.pwrite(handle.inner, source, start, length, offset, call, fua)
      } catch (thrown) {
        return call.threw(thrown)
      }
      return call.returned(outcome)
    },

    flush(handle: Handle<Inner>, completion: Completion): Step {
      if (backend.flush === undefined) throw missing('flush')
      const call = handle.begin('flush', completion, NO_BYTES)
      let outcome: unknown
      try {
        outcome = backend.flush(handle.inner, call)
      } catch (thrown) {
        return call.threw(thrown)
      }
      return call.returned(outcome)
    },

    trim(handle: Handle<Inner>, length: number, offset: number, completion: Completion, fua: boolean): Step {
      if (backend.trim === undefined) throw missing('trim')
      const call = handle.begin('trim', completion, NO_BYTES)
      let outcome: unknown
      try {
        outcome = backend.trim(handle.inner, length, offset, call, fua)
      } catch (thrown) {
        return call.threw(thrown)
      }
      return call.returned(outcome)
    },

    zero(
      handle: Handle<Inner>,
      length: number,
      offset: number,
      flags: ZeroFlags,
      completion: Completion,
      fua: boolean,
    ): Step {
      if (backend.zero === undefined) throw missing('zero')
      const call = handle.begin('zero', completion, NO_BYTES)
      let outcome: unknown
      try {
        outcome = backend.zero(handle.inner, length, offset, flags, call, fua)
      } catch (thrown) {
        return call.threw(thrown)
      }
      return call.returned(outcome)
    },

    cache(handle: Handle<Inner>, length: number, offset: number, completion: Completion): Step {
      if (backend.cache === undefined) throw missing('cache')
      const call = handle.begin('cache', completion, NO_BYTES)
      let outcome: unknown
      try {
        outcome = backend.cache(handle.inner, length, offset, call)
      } catch (thrown) {
        return call.threw(thrown)
      }
      return call.returned(outcome)
    },

    /** What the backend tells, whatever that is. */
    extents(handle: Handle<Inner>, length: number, offset: number, limit: number): Promise<unknown> {
      return new Promise((resolve, reject) => {
        let told: readonly Extent[] | undefined
        const complete = (error?: unknown) => (error === undefined ? resolve(told) : reject(error))
        const call = handle.begin('extents', { complete }, NO_BYTES)
        let answer: unknown
        try {
          answer = backend.extents?.(handle.inner, length, offset, limit)
        } catch (thrown) {
          return call.threw(thrown)
        }
        const keep = (value: unknown) => {
          told = value as readonly Extent[]
        }
        if (isThenable(answer)) call.returned(Promise.resolve(answer).then(keep))
        else {
          call.returned(undefined)
          resolve(answer)
        }
      })
    },
  }
}
