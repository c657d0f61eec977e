/** ListVolumes: in the order of their ids, page by page. */
import type { OnDemandDisk } from '../../../crds/ondemanddisk.ts'
import { conditionOf } from '../../kube/conditions.ts'
import { keyOf } from '../../kube/store.ts'
import type { ListVolumesResponse } from '../protocol/messages.ts'
import { RpcError } from '../rpc/rpc-error.ts'
import { publicationsOf } from './publication.ts'
import { parseVolumeId, volumeIdOf } from './volume-id.ts'

/**
 * The volumes after the one that the token names; a page that is full is followed by another one.
 * @throws RpcError ABORTED for a token that none of these answers had
 */
export function listVolumes(
  disks: readonly OnDemandDisk[],
  { maxEntries, startingToken }: { readonly maxEntries: number; readonly startingToken: string },
): ListVolumesResponse {
  if (maxEntries < 0) throw new RpcError('INVALID_ARGUMENT', 'max_entries is negative.')
  if (startingToken !== '' && !parseVolumeId(startingToken)) {
    throw new RpcError('ABORTED', 'starting_token is not one of this driver. List anew from the start.')
  }
  const all = disks
    .filter(disk => conditionOf(disk, 'Provisioned')?.status === 'True')
    .map(disk => ({ id: keyOf(disk), disk }))
    .filter(({ id }) => id > startingToken)
    .sort((a, b) => (a.id < b.id ? -1 : 1))
  const page = maxEntries === 0 ? all : all.slice(0, maxEntries)
  return {
    entries: page.map(({ disk }) => entryOf(disk)),
    nextToken: page.length < all.length ? (page.at(-1)?.id ?? '') : '',
  }
}

function entryOf(disk: OnDemandDisk): ListVolumesResponse['entries'][number] {
  const { namespace = '', name } = disk.metadata
  return {
    volume: { volumeId: volumeIdOf({ namespace, name }), capacityBytes: String(disk.status?.size ?? 0) },
    status: { publishedNodeIds: nodesOf(disk) },
  }
}

/** None where somebody has overwritten them: calls for that volume say so, and the list is for all others, too. */
function nodesOf(disk: OnDemandDisk): readonly string[] {
  try {
    return publicationsOf(disk).map(({ node }) => node)
  } catch (error) {
    if (error instanceof RpcError) return []
    throw error
  }
}
