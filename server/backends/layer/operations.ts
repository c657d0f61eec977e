/**
 * The operations of a disk with all that a backend may leave out or get wrong: ranges and blocks are checked, large
 * transfers split, what is missing is made of what there is.
 */
import type { Passage } from '../../linux/passage.ts'
import { type Backend, type Completion, type Extent, PENDING, type ZeroFlags } from '../backend.ts'
import type { Step } from './call.ts'
import { type Calls, guardedCalls } from './calls.ts'
import { BackendError } from './errors.ts'
import { clipExtents } from './extents.ts'
import type { Handle } from './handle.ts'
import { inSequence, type Steps } from './sequence.ts'

/** Most zeroes that are written at once, in bytes. A handle has one such piece at a time. */
export const ZERO_PIECE = 2 ** 18

const isUnsupported = (error: unknown) => {
  const code = (error as { code?: unknown } | undefined)?.code
  return code === 'ENOTSUP' || code === 'EOPNOTSUPP'
}

/** The data operations of a filled backend. They return when they have ended, throw, or complete later. */
export function operationsOf<Inner>(backend: Backend<Inner>, foreign: boolean) {
  const calls = guardedCalls(backend, foreign)

  function checkWritable(handle: Handle<Inner>): void {
    if (!handle.canWrite) throw new BackendError('EROFS', 'The disk is read-only')
  }

  /** Has the operation be followed by a flush? */
  function needsFlush(handle: Handle<Inner>, fua: boolean): boolean {
    if (!fua || handle.capabilities.fuaIsNative) return false
    checkCan(handle.capabilities.canFlush, 'make a write durable')
    return true
  }

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
      const failure = handle.readFailure
      if (failure !== undefined) {
        handle.readFailure = undefined
        throw failure
      }
      handle.check(length, offset, 'EINVAL')
      if (length <= handle.maximum) {
        return calls.pread(handle, target, start, length, offset, completion, passage)
      }
      return inSequence(readInPieces(calls, handle, target, start, length, offset), completion)
    },

    pwrite(
      handle: Handle<Inner>,
      source: Buffer,
      start: number,
      length: number,
      offset: number,
      completion: Completion,
      fua = false,
    ): Step {
      const failure = handle.writeFailure
      if (failure !== undefined) {
        handle.writeFailure = undefined
        throw failure
      }
      checkWritable(handle)
      handle.check(length, offset, 'ENOSPC')
      const flushes = needsFlush(handle, fua)
      if (length <= handle.maximum && !flushes) {
        return calls.pwrite(handle, source, start, length, offset, completion, fua)
      }
      const pieces = writeInPieces(calls, handle, source, start, length, offset, fua && !flushes)
      return inSequence(flushes ? thenFlush(calls, handle, pieces) : pieces, completion)
    },

    flush(handle: Handle<Inner>, completion: Completion): Step {
      checkCan(handle.capabilities.canFlush, 'flush')
      return calls.flush(handle, completion)
    },

    trim(handle: Handle<Inner>, length: number, offset: number, completion: Completion, fua = false): Step {
      checkWritable(handle)
      checkCan(handle.capabilities.canTrim, 'trim')
      handle.check(length, offset, 'EINVAL')
      const flushes = needsFlush(handle, fua)
      const advice = asAdvice(next => calls.trim(handle, length, offset, next, fua && !flushes))
      return inSequence(flushes ? thenFlush(calls, handle, advice) : advice, completion)
    },

    zero(
      handle: Handle<Inner>,
      length: number,
      offset: number,
      flags: ZeroFlags,
      completion: Completion,
      fua = false,
    ): Step {
      checkWritable(handle)
      handle.check(length, offset, 'ENOSPC')
      if (flags.fast && !(handle.zeroIsNative && handle.capabilities.canFastZero)) {
        throw new BackendError('ENOTSUP', 'Zeroing is no faster here than writing zeroes')
      }
      const flushes = needsFlush(handle, fua)
      const steps = zeroSteps(calls, handle, length, offset, flags, fua && !flushes)
      return inSequence(flushes ? thenFlush(calls, handle, steps) : steps, completion)
    },

    cache(handle: Handle<Inner>, length: number, offset: number, completion: Completion): Step {
      handle.check(length, offset, 'EINVAL')
      if (!handle.cacheIsNative) return undefined
      return inSequence(
        asAdvice(next => calls.cache(handle, length, offset, next)),
        completion,
      )
    },

    async extents(handle: Handle<Inner>, length: number, offset: number, limit: number): Promise<Extent[]> {
      handle.check(length, offset, 'EINVAL')
      if (backend.extents === undefined) return [{ length, hole: false, zero: false }]
      const told = await calls.extents(handle, length, offset, limit)
      return clipExtents(told, { toDiskEnd: handle.size - offset, limit, block: handle.minimum })
    },
  }
}

function checkCan(can: boolean, what: string): void {
  if (!can) throw new BackendError('EINVAL', `This disk cannot ${what}`)
}

function* readInPieces<Inner>(
  calls: Calls<Inner>,
  handle: Handle<Inner>,
  target: Buffer,
  start: number,
  length: number,
  offset: number,
): Steps {
  for (let done = 0; done < length; done += handle.maximum) {
    const piece = Math.min(handle.maximum, length - done)
    yield next => calls.pread(handle, target, start + done, piece, offset + done, next)
  }
}

function* writeInPieces<Inner>(
  calls: Calls<Inner>,
  handle: Handle<Inner>,
  source: Buffer,
  start: number,
  length: number,
  offset: number,
  fua: boolean,
): Steps {
  for (let done = 0; done < length; done += handle.maximum) {
    const piece = Math.min(handle.maximum, length - done)
    yield next => calls.pwrite(handle, source, start + done, piece, offset + done, next, fua)
  }
}

function* thenFlush<Inner>(calls: Calls<Inner>, handle: Handle<Inner>, steps: Steps): Steps {
  yield* steps
  yield next => calls.flush(handle, next)
}

/** A backend that does not support what is mere advice has followed it well enough. */
function* asAdvice(start: (completion: Completion) => Step): Steps {
  try {
    yield start
  } catch (error) {
    if (!isUnsupported(error)) throw error
  }
}

function* zeroSteps<Inner>(
  calls: Calls<Inner>,
  handle: Handle<Inner>,
  length: number,
  offset: number,
  flags: ZeroFlags,
  fua: boolean,
): Steps {
  if (handle.zeroIsNative) {
    try {
      yield next => calls.zero(handle, length, offset, flags, next, fua)
      return
    } catch (error) {
      if (flags.fast || !isUnsupported(error)) throw error
    }
  }
  yield next => inTurn(handle, next)
  try {
    const largest = Math.min(ZERO_PIECE, handle.maximum)
    const zeroes = Buffer.alloc(Math.min(length, largest))
    for (let done = 0; done < length; done += largest) {
      const piece = Math.min(largest, length - done)
      // A backend that changes what it is given to write must not spoil what comes after.
      if (done > 0) zeroes.fill(0)
      yield next => calls.pwrite(handle, zeroes, 0, piece, offset + done, next, fua)
    }
  } finally {
    nextTurn(handle)
  }
}

/** Waits until the zeroings before this one have ended: each needs memory. */
function inTurn<Inner>(handle: Handle<Inner>, next: Completion): Step {
  handle.zeroings.push(() => next.complete())
  return handle.zeroings.length === 1 ? undefined : PENDING
}

function nextTurn<Inner>(handle: Handle<Inner>): void {
  handle.zeroings.shift()
  const next = handle.zeroings[0]
  if (next !== undefined) setImmediate(next)
}
