/**
 * The one layer above all backends. It fills in what a backend leaves out, checks what it says, and keeps what it gets
 * wrong from doing harm, so that the built-in backends and a user's module can be as simple as they like.
 */
import { MAX_SIZE } from '../../crds/quantity.ts'
import type { Backend, LayeredBackend, Listed, OpenContext, Probed, ProbeResult } from './backend.ts'
import { Answers } from './layer/answers.ts'
import { abilitiesOf, presumedCapabilities } from './layer/capabilities.ts'
import { checkedDescription, checkedList, descriptionOf } from './layer/descriptions.ts'
import { BackendError, describe, disown, failureOf, isThenable, UnfinishedError } from './layer/errors.ts'
import { Handle } from './layer/handle.ts'
import { immediateRead, immediateWrite } from './layer/immediate.ts'
import { operationsOf } from './layer/operations.ts'

/** How long to wait for a backend, in ms. */
export interface Limits {
  /** For `open`, which may have to make a disk. May be infinite. */
  readonly openMs: number
  /** For `getSize`, `probe`, `listExports` and `defaultExport`. */
  readonly answerMs: number
  /** For `close`. */
  readonly closeMs: number
  /** For operations that are still under way when their client has left. */
  readonly leaveMs: number
}

export const DEFAULT_LIMITS: Limits = {
  openMs: 600_000,
  answerMs: 30_000,
  closeMs: 30_000,
  leaveMs: 30_000,
}

/** How a backend is to be used. */
export interface FillOptions {
  /** Nobody may write, whatever the backend says. */
  readonly readOnly: boolean
  /** Told of what a backend does against the rules where no client can be told. It has done no harm. */
  readonly onProblem: (problem: Error) => void
  /** The code comes from outside this project: memory that it is to fill is cleared before. Default: no. */
  readonly foreign?: boolean
  /** Default: DEFAULT_LIMITS. */
  readonly limits?: Partial<Limits>
}

/** Disks with calls that never ended, from which on a backend opens no more: each may hold the buffers of a connection. */
const MAX_UNFINISHED = 32

/**
 * Makes a backend complete. `open` throws what the backend's threw, or a BackendError that tells what is wrong with
 * the disk; nothing is left open then.
 */
export function fillIn<Inner>(backend: Backend<Inner>, options: FillOptions): LayeredBackend {
  const { onProblem, foreign = false } = options
  const limits = { ...DEFAULT_LIMITS, ...options.limits }
  const answers = new Answers(onProblem)
  let unfinished = 0

  function ask<Value>(callback: string, call: () => Value | PromiseLike<Value>): Promise<Value> {
    return answers.of(callback, call, { ms: limits.answerMs })
  }

  function closeInner(inner: Inner, ms: number): Promise<void> {
    return answers.of('close', () => backend.close?.(inner), { ms })
  }

  /** Closes what nobody waits for. */
  function discard(inner: Inner): Promise<void> {
    return closeInner(inner, Number.POSITIVE_INFINITY).catch(onProblem)
  }

  async function handleOf(inner: Inner, readOnly: boolean): Promise<Handle<Inner>> {
    const size = checkedSize('getSize', await ask('getSize', () => backend.getSize(inner)))
    const abilities = abilitiesOf(backend, inner, size, readOnly)
    const description = descriptionOf(backend, inner)
    return new Handle({ inner, size, description, ...abilities, misbehaved: onProblem })
  }

  /** The name that the empty one stands for. */
  async function defaultName(): Promise<string> {
    if (backend.defaultExport === undefined) return ''
    const name: unknown = await ask('defaultExport', () => backend.defaultExport?.())
    if (typeof name === 'string') return name
    throw new BackendError('EIO', `The backend's defaultExport returned ${describe(name)}, not a name`)
  }

  async function open(exportName: string, context: OpenContext): Promise<Handle<Inner>> {
    if (unfinished >= MAX_UNFINISHED) {
      throw new BackendError(
        'ETIMEDOUT',
        `The backend is still at work on ${MAX_UNFINISHED} disks whose clients have left`,
      )
    }
    const readOnly = options.readOnly || context.readOnly
    const name = exportName === '' ? await defaultName() : exportName
    context.signal.throwIfAborted()
    const inner = await answers.of('open', () => backend.open(name, { ...context, readOnly }), {
      ms: limits.openMs,
      signal: context.signal,
      late: discard,
    })
    try {
      return await handleOf(inner, readOnly)
    } catch (error) {
      if (error instanceof UnfinishedError) void error.settled.then(() => discard(inner))
      else await closeInner(inner, limits.closeMs).catch(onProblem)
      throw error
    }
  }

  /** Counts a disk that the backend does not let go of until it does. */
  function leaveUnfinished(error: UnfinishedError): UnfinishedError {
    unfinished++
    void error.settled.then(() => unfinished--)
    return error
  }

  async function closeOnce(handle: Handle<Inner>): Promise<void> {
    const { inner, waiting } = handle
    const idle = handle.idle()
    if (waiting > 0) {
      const what = waiting === 1 ? '1 operation' : `${waiting} operations`
      const settled = idle.then(() => discard(inner))
      throw leaveUnfinished(
        new UnfinishedError(`The backend still has ${what} of this disk under way`, settled),
      )
    }
    try {
      await closeInner(inner, limits.closeMs)
    } catch (error) {
      throw error instanceof UnfinishedError ? leaveUnfinished(error) : error
    }
  }

  function endBatch(handle: Handle<Inner>, isLone: boolean): void {
    const failed = (thrown: unknown) => onProblem(failureOf('endBatch', thrown))
    try {
      const ended: unknown = backend.endBatch?.(handle.inner, isLone)
      if (isThenable(ended)) Promise.resolve(ended).then(undefined, failed)
    } catch (thrown) {
      failed(thrown)
    }
  }

  function renewSize(handle: Handle<Inner>): number {
    if (backend.sizeNow === undefined) return handle.size
    try {
      const size: unknown = backend.sizeNow(handle.inner)
      disown(size)
      handle.growTo(checkedSize('sizeNow', size))
    } catch (thrown) {
      onProblem(failureOf('sizeNow', thrown))
    }
    return handle.size
  }

  const filled = {
    ...operationsOf(backend, foreign),
    apiVersion: backend.apiVersion,
    usesPassages: !foreign && backend.usesPassages === true,
    preadNow: immediateRead(backend, foreign),
    pwriteNow: immediateWrite(backend),
    open,
    getSize: (handle: Handle<Inner>) => handle.size,
    renewSize,
    endBatch,
    capabilities: (handle: Handle<Inner>) => handle.capabilities,
    description: (handle: Handle<Inner>) => handle.description,
    leave: (handle: Handle<Inner>) => handle.leave(limits.leaveMs),
    close(handle: Handle<Inner>): Promise<void> {
      handle.closed ??= closeOnce(handle)
      return handle.closed
    },

    async probe(exportName: string, requestedSize?: number, readOnly = false): Promise<Probed | undefined> {
      if (backend.probe === undefined) return undefined
      const name = exportName === '' ? await defaultName() : exportName
      const told = await ask('probe', () => backend.probe?.(name, requestedSize))
      if (told === undefined) return undefined
      const size = checkedSize('probe', (told as Partial<ProbeResult> | null)?.size)
      const capabilities = presumedCapabilities(
        backend,
        size,
        readOnly || options.readOnly,
        told.capabilities ?? {},
      )
      return { size, capabilities, description: checkedDescription('probe', told.description) }
    },

    async listExports(): Promise<readonly Listed[]> {
      return checkedList(await ask('listExports', () => backend.listExports?.() ?? []))
    },

    defaultExport: defaultName,
  }
  // Only handles that its own `open` made come back to it.
  return filled as LayeredBackend
}

function checkedSize(callback: 'getSize' | 'sizeNow' | 'probe', told: unknown): number {
  if (typeof told === 'number' && Number.isInteger(told) && told >= 0 && told <= MAX_SIZE) return told
  throw new BackendError(
    'EIO',
    `The backend's ${callback} told a size of ${describe(told)}, not a whole number of bytes from 0 to ${MAX_SIZE}`,
  )
}
