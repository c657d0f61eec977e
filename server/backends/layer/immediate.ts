/**
 * What can be had without waiting. On this path the layer adds one function call and a check of the count; nothing is
 * allocated.
 */
import type { Backend } from '../backend.ts'
import { BackendError, describe, disown, failureOf } from './errors.ts'
import type { Handle } from './handle.ts'

type Now<Inner> = (
  handle: Handle<Inner>,
  buffer: Buffer,
  start: number,
  length: number,
  offset: number,
) => number

const nothing = () => 0

const isCount = (count: number, length: number) => count >= 0 && count < length && Number.isInteger(count)

function nonsense(callback: string, count: unknown, length: number): BackendError {
  disown(count)
  const expected = `a number of bytes from 0 to ${length}`
  return new BackendError('EIO', `The backend's ${callback} returned ${describe(count)}, not ${expected}`)
}

/** Does the layer have to look at each range before the backend may? */
const isPicky = <Inner>(handle: Handle<Inner>, length: number) =>
  handle.minimum > 1 || length > handle.maximum

/** Bytes in whole blocks. Of a part of a block, the whole has to be asked for again. */
const inBlocks = <Inner>(handle: Handle<Inner>, count: number) => count - (count % handle.minimum)

/** The `preadNow` of a filled backend. A failure is kept for the `pread` that has to follow. */
export function immediateRead<Inner>(backend: Backend<Inner>, foreign: boolean): Now<Inner> {
  if (backend.preadNow === undefined) return nothing
  const preadNow = backend.preadNow.bind(backend)

  const read: Now<Inner> = (handle, target, start, length, offset) => {
    try {
      const count = preadNow(handle.inner, target, start, length, offset)
      if (count === length || isCount(count, length)) return count
      handle.readFailure = nonsense('preadNow', count, length)
    } catch (thrown) {
      handle.readFailure = failureOf('preadNow', thrown)
    }
    return 0
  }
  const cautious: Now<Inner> = (handle, target, start, length, offset) => {
    if (length > handle.maximum || !handle.isAligned(length, offset)) return 0
    return inBlocks(handle, read(handle, target, start, length, offset))
  }
  const own: Now<Inner> = (handle, target, start, length, offset) =>
    isPicky(handle, length)
      ? cautious(handle, target, start, length, offset)
      : read(handle, target, start, length, offset)
  if (!foreign) return own
  return (handle, target, start, length, offset) => {
    // What it forgets to fill must not show what other clients read before.
    target.fill(0, start, start + length)
    return own(handle, target, start, length, offset)
  }
}

/** The `pwriteNow` of a filled backend. A failure is kept for the `pwrite` that has to follow. */
export function immediateWrite<Inner>(backend: Backend<Inner>): Now<Inner> {
  if (backend.pwriteNow === undefined) return nothing
  const pwriteNow = backend.pwriteNow.bind(backend)

  const write: Now<Inner> = (handle, source, start, length, offset) => {
    try {
      const count = pwriteNow(handle.inner, source, start, length, offset)
      if (count === length || isCount(count, length)) return count
      handle.writeFailure = nonsense('pwriteNow', count, length)
    } catch (thrown) {
      handle.writeFailure = failureOf('pwriteNow', thrown)
    }
    return 0
  }
  return (handle, source, start, length, offset) => {
    // The pwrite that follows tells why.
    if (!handle.canWrite) return 0
    if (!isPicky(handle, length)) return write(handle, source, start, length, offset)
    if (length > handle.maximum || !handle.isAligned(length, offset)) return 0
    return inBlocks(handle, write(handle, source, start, length, offset))
  }
}
