/** When a disk is ready, told by whoever sees it first. */
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { DISK_REASONS } from './reasons.ts'

/**
 * The operator decides on Ready. Where it has said that all is done but for the server, the agent says both at one
 * stroke, that the disk is exported and that it is ready, in the operator's own words: that saves each new disk a write.
 * Undefined: not for this state of the disk.
 */
export function readyWhenExported({ metadata: { generation }, status }: OnDemandDisk) {
  const find = (wanted: string) => status?.conditions?.find(({ type }) => type === wanted)
  const ready = find('Ready')
  const isDone = find('Provisioned')?.status === 'True'
  if (!isDone || ready?.reason !== 'WaitingForServer' || ready.observedGeneration !== generation) {
    return undefined
  }
  return readyNow(generation)
}

/** The operator's word that a disk can be used. */
export const readyNow = (generation: number | undefined) =>
  ({
    type: 'Ready',
    status: 'True',
    reason: 'Ready',
    message: DISK_REASONS.Ready.meaning,
    ...(generation !== undefined && { observedGeneration: generation }),
  }) as const
