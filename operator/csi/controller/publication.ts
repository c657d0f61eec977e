/** On which nodes a volume is: kept with the disk, so that every controller sees the same. */

import { API_GROUP } from '../../../crds/object.ts'
import type { OnDemandDisk } from '../../../crds/ondemanddisk.ts'
import type { AccessMode } from '../protocol/messages.ts'
import { RpcError } from '../rpc/rpc-error.ts'
import { MANY_READERS } from './capability.ts'

/** On a disk: its publications, as JSON. */
export const PUBLISHED_ANNOTATION = `${API_GROUP}/published`

export interface Publication {
  readonly node: string
  readonly readonly: boolean
  readonly mode: AccessMode
}

/**
 * @throws RpcError INTERNAL where somebody has written something else there: who may have the volume is not known then
 */
export function publicationsOf({ metadata }: Pick<OnDemandDisk, 'metadata'>): readonly Publication[] {
  const text = metadata.annotations?.[PUBLISHED_ANNOTATION]
  if (text === undefined) return []
  try {
    const value: unknown = JSON.parse(text)
    if (Array.isArray(value) && value.every(isPublication)) return value
  } catch {
    // As bad as any other text.
  }
  throw new RpcError(
    'FAILED_PRECONDITION',
    `The annotation ${PUBLISHED_ANNOTATION} of ${metadata.namespace}/${metadata.name} cannot be read. If no node has the volume, remove it.`,
  )
}

function isPublication(value: unknown): value is Publication {
  if (value === null || typeof value !== 'object') return false
  const { node, readonly, mode } = value as Record<string, unknown>
  return typeof node === 'string' && typeof readonly === 'boolean' && typeof mode === 'string'
}

/**
 * The publications when this one has been added; the very list that was given where it is there already.
 * @throws RpcError FAILED_PRECONDITION where another node has the volume, ALREADY_EXISTS where this one has it otherwise
 */
export function publish(known: readonly Publication[], wanted: Publication): readonly Publication[] {
  const own = known.find(({ node }) => node === wanted.node)
  if (own) {
    if (own.readonly === wanted.readonly && own.mode === wanted.mode) return known
    throw new RpcError(
      'ALREADY_EXISTS',
      `The volume is published to ${own.node} already, as ${own.mode}${own.readonly ? ', read-only' : ''}.`,
    )
  }
  const other = known.find(({ mode }) => mode !== MANY_READERS || wanted.mode !== MANY_READERS)
  if (other) {
    throw new RpcError(
      'FAILED_PRECONDITION',
      `The volume is published to the node ${other.node}, and has to be taken from there first.`,
    )
  }
  return [...known, wanted]
}

/** The publications without those to a node, or without any where no node is named. */
export function unpublish(known: readonly Publication[], node: string): readonly Publication[] {
  if (node === '') return []
  return known.filter(publication => publication.node !== node)
}

/** The annotation as a part of a merge patch. */
export function annotationOf(publications: readonly Publication[]): Record<string, string | null> {
  return { [PUBLISHED_ANNOTATION]: publications.length === 0 ? null : JSON.stringify(publications) }
}
