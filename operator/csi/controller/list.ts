/** ListVolumes: in the order of their ids, page by page. */
import type { OnDemandDisk } from '../../../crds/ondemanddisk.ts'
import { conditionOf } from '../../kube/conditions.ts'
import { keyOf } from '../../kube/store.ts'
import type { ListVolumesResponse } from '../protocol/messages.ts'
import { RpcError } from '../rpc/rpc-error.ts'
import { checkPage, type PageRequest, pageOf } from './page.ts'
import { publicationsOf } from './publication.ts'
import { volumeIdOf } from './volume-id.ts'

/**
 * A page of all volumes that are made.
 * @throws RpcError INVALID_ARGUMENT, ABORTED
 */
export function listVolumes(disks: readonly OnDemandDisk[], request: PageRequest): ListVolumesResponse {
  checkPage(request)
  const made = disks.filter(disk => conditionOf(disk, 'Provisioned')?.status === 'True')
  const { page, nextToken } = pageOf(made, keyOf, request)
  return { entries: page.map(entryOf), nextToken }
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
