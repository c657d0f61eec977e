/** What a backend tells people of its disks: nothing that it says may break the handshake. */
import type { Backend, Listed } from '../backend.ts'
import { BackendError, describe, disown, failureOf } from './errors.ts'

/** Most names of a list, and most bytes of each (proto.md, "String length"). */
const MAX_LISTED = 10_000
const MAX_LISTED_BYTES = 4096

/**
 * What a backend says of a disk that it has opened.
 * @throws BackendError if that is no text, or what the callback threw
 */
export function descriptionOf<Inner>(backend: Backend<Inner>, inner: Inner): string | undefined {
  let told: unknown
  try {
    told = backend.exportDescription?.(inner)
  } catch (thrown) {
    throw failureOf('exportDescription', thrown)
  }
  disown(told)
  return checkedDescription('exportDescription', told)
}

/** @throws BackendError if it is neither a text nor left out */
export function checkedDescription(callback: keyof Backend, told: unknown): string | undefined {
  // proto.md, "String formatting": no NUL.
  if (told === undefined || (typeof told === 'string' && !told.includes('\0'))) return told
  throw new BackendError(
    'EIO',
    `The backend's ${callback} gave ${describe(told)} for a description, which is no text`,
  )
}

/**
 * A list of names, some with descriptions. Names that no client could ask for are left out.
 * @throws BackendError if it is something else
 */
export function checkedList(told: unknown): readonly Listed[] {
  if (!Array.isArray(told)) {
    throw new BackendError('EIO', `The backend's listExports returned ${describe(told)}, not a list of names`)
  }
  return told
    .map(checkedListed)
    .filter(({ name }) => Buffer.byteLength(name) <= MAX_LISTED_BYTES && !name.includes('\0'))
    .slice(0, MAX_LISTED)
    .map(({ name, description }) => (description === undefined ? name : { name, description }))
}

function checkedListed(told: unknown): { name: string; description: string | undefined } {
  if (typeof told === 'string') return { name: told, description: undefined }
  const { name, description } = (told ?? {}) as { name?: unknown; description?: unknown }
  if (typeof name === 'string') return { name, description: checkedDescription('listExports', description) }
  throw new BackendError('EIO', `The backend's listExports told of ${describe(told)}, which is not a name`)
}
