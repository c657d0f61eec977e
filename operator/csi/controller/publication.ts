/** On which nodes a volume is: kept with the disk, so that every controller sees the same. */
import { API_GROUP } from '../../../crds/object.ts'
import type { OnDemandDisk } from '../../../crds/ondemanddisk.ts'
import type { AccessMode } from '../protocol/messages.ts'
import { RpcError } from '../rpc/rpc-error.ts'
import { MANY_READERS } from './capability.ts'
import type { Change } from './volumes.ts'

/** On a disk: its publications, as JSON. */
const PUBLISHED_ANNOTATION = `${API_GROUP}/published`

export interface Publication {
  readonly node: string
  readonly readonly: boolean
  readonly mode: AccessMode
  /** By which the node opens the disk (`spec.access.tickets`); each publication has another one. */
  readonly ticket: string
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
  const { node, readonly, mode, ticket } = value as Record<string, unknown>
  const isWhole = typeof node === 'string' && typeof mode === 'string' && typeof ticket === 'string'
  return isWhole && typeof readonly === 'boolean'
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

/**
 * The publications as a merge patch: who has the volume, and by which tickets it can be opened. A node that has lost
 * the volume, and may not know it, is disconnected and kept out by the pool's server from then on.
 */
export function patchOf(publications: readonly Publication[]): Change {
  const text = publications.length === 0 ? null : JSON.stringify(publications)
  return {
    metadata: { annotations: { [PUBLISHED_ANNOTATION]: text } },
    spec: { access: { tickets: publications.map(({ ticket }) => ticket) } },
  }
}
