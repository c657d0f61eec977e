/** What a disk can do: what its backend says, what follows from the callbacks that are there, and what the layer adds. */
import type { Backend, BlockSizes, Capabilities } from '../backend.ts'
import { BackendError, describe, disown, failureOf } from './errors.ts'

/** Bounds of block sizes (proto.md, "Block size constraints"), in bytes. */
const MAX_MINIMUM = 2 ** 16
const MIN_PREFERRED = 512
const MAX_PREFERRED = 2 ** 25
/** A maximum of this says that there is none. */
export const NO_MAXIMUM = 2 ** 32 - 1

/** Where a backend does not mind: pages are best. */
const ANY_SIZE: BlockSizes = { minimum: 1, preferred: 4096, maximum: NO_MAXIMUM }

type Question = Extract<keyof Backend, `can${string}` | 'isRotational'>

/** What a backend says of itself, before the layer adds its part. */
interface Answers {
  readonly can: (question: Question, fallback: boolean) => boolean
  readonly blockSizes: () => BlockSizes
}

/** What can be done with an open disk, and whether the backend's own `zero` and `cache` may be called. */
export interface Abilities {
  readonly capabilities: Capabilities
  readonly zeroIsNative: boolean
  readonly cacheIsNative: boolean
}

/**
 * Asks a backend what it can do with a handle.
 * @throws BackendError if its answers make no sense, or what a callback threw
 */
export function abilitiesOf<Inner>(
  backend: Backend<Inner>,
  inner: Inner,
  size: number,
  readOnly: boolean,
): Abilities {
  const ask = (question: Question | 'blockSizes'): unknown => {
    try {
      const answer: unknown = backend[question]?.(inner)
      disown(answer)
      return answer
    } catch (thrown) {
      throw failureOf(question, thrown)
    }
  }
  return abilities(backend, readOnly, {
    can(question, fallback) {
      if (backend[question] === undefined) return fallback
      const answer = ask(question)
      if (typeof answer === 'boolean') return answer
      throw new BackendError(
        'EIO',
        `The backend's ${question} returned ${describe(answer)}, neither true nor false`,
      )
    },
    blockSizes: () =>
      backend.blockSizes === undefined ? ANY_SIZE : checkedBlockSizes(ask('blockSizes'), size),
  })
}

/**
 * What is to be expected of a disk of `size` bytes that is not opened: what opening it would tell, or INFO and GO would
 * differ. `known` are the answers that its backend gives beforehand; the callbacks, which need a handle, would all say yes.
 * @throws BackendError if the answers make no sense
 */
export function presumedCapabilities<Inner>(
  backend: Backend<Inner>,
  size: number,
  readOnly: boolean,
  known: Partial<Capabilities> = {},
): Capabilities {
  const { capabilities } = abilities(backend, readOnly, {
    can(question, fallback) {
      const told: unknown = known[question]
      if (told === undefined) return backend[question] !== undefined || fallback
      if (typeof told === 'boolean') return told
      throw new BackendError(
        'EIO',
        `The backend's probe told ${describe(told)} for ${question}, neither true nor false`,
      )
    },
    blockSizes: () => (known.blockSizes === undefined ? ANY_SIZE : checkedBlockSizes(known.blockSizes, size)),
  })
  return capabilities
}

function abilities<Inner>(
  backend: Backend<Inner>,
  readOnly: boolean,
  { can, blockSizes }: Answers,
): Abilities {
  const has = (callback: 'pwrite' | 'flush' | 'trim' | 'zero' | 'cache') => backend[callback] !== undefined
  const canWrite = has('pwrite') && !readOnly && can('canWrite', true)
  const canFlush = has('flush') && can('canFlush', true)
  const fuaIsNative = canWrite && can('canFua', false)
  const zeroIsNative = canWrite && has('zero') && can('canZero', true)
  const capabilities = {
    canWrite,
    canFlush,
    canFua: fuaIsNative || canFlush,
    fuaIsNative,
    canTrim: has('trim') && can('canTrim', true),
    // Without a zero of the backend's, it is written, or refused at once where it has to be fast.
    canZero: true,
    canFastZero: zeroIsNative ? can('canFastZero', false) : true,
    canCache: true,
    canMultiConn: can('canMultiConn', false),
    isRotational: can('isRotational', false),
    blockSizes: blockSizes(),
  }
  const cacheIsNative = has('cache') && can('canCache', true)
  return { capabilities: masked(capabilities, !canWrite), zeroIsNative, cacheIsNative }
}

/** Where nothing may be written, nothing that changes the disk is announced. */
function masked(capabilities: Capabilities, readOnly: boolean): Capabilities {
  if (!readOnly) return capabilities
  const not = { canWrite: false, canFua: false, fuaIsNative: false, canTrim: false, canZero: false }
  return { ...capabilities, ...not, canFastZero: false }
}

const isPowerOfTwo = (value: number) => Number.isInteger(Math.log2(value))

function checkedBlockSizes(told: unknown, size: number): BlockSizes {
  const sizes = (told ?? {}) as Partial<Record<keyof BlockSizes, unknown>>
  const { minimum, preferred, maximum } = sizes
  if (typeof minimum !== 'number' || !isPowerOfTwo(minimum) || minimum < 1 || minimum > MAX_MINIMUM) {
    throw impossible('minimum', minimum, `a power of two from 1 to ${MAX_MINIMUM}`)
  }
  const least = Math.max(MIN_PREFERRED, minimum)
  if (
    typeof preferred !== 'number' ||
    !isPowerOfTwo(preferred) ||
    preferred < least ||
    preferred > MAX_PREFERRED
  ) {
    throw impossible('preferred', preferred, `a power of two from ${least} to ${MAX_PREFERRED}`)
  }
  const isPossible =
    typeof maximum === 'number' &&
    maximum >= preferred &&
    maximum <= NO_MAXIMUM &&
    (maximum === NO_MAXIMUM || maximum % minimum === 0)
  if (!isPossible) {
    throw impossible(
      'maximum',
      maximum,
      `a multiple of ${minimum} from ${preferred} on, or ${NO_MAXIMUM} for none`,
    )
  }
  if (size % minimum !== 0) {
    throw new BackendError(
      'EIO',
      `The backend's disk has ${size} bytes, which its minimum block size of ${minimum} does not divide`,
    )
  }
  return { minimum, preferred, maximum }
}

function impossible(which: keyof BlockSizes, told: unknown, expected: string): BackendError {
  return new BackendError(
    'EIO',
    `The backend's blockSizes told ${describe(told)} for the ${which}; it has to be ${expected}`,
  )
}
