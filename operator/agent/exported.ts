/** How a disk is served, as its status says it: the conditions Exported and Resizing, and the numbers. */
import { DEFAULT_NAME } from '../../crds/export-name.ts'
import { hasFile, type OnDemandDisk, type OnDemandDiskStatus } from '../../crds/ondemanddisk.ts'
import { formatSize } from '../../crds/quantity.ts'
import { quote } from '../../crds/quote.ts'
import type { ExportState } from '../../server/control/state.ts'
import type { ConditionChange } from '../kube/conditions.ts'
import { conditionOf, observedGeneration } from '../terms/conditions.ts'
import type { AgentReason } from '../terms/reasons.ts'
import type { AgentObserved } from './observed.ts'

/** Connections change often, and what a disk takes up all the time: so long is waited, in ms, before they are written again. */
const CONNECTIONS_PAUSE_MS = 2000
export const ALLOCATED_PAUSE_MS = 30_000
/** Smaller changes of what a disk takes up are not worth a write. */
const ALLOCATED_STEP = 2 ** 20
const MAX_CLIENTS = 16
const MAX_SHOWN = 3

/** A condition of ours. */
export function condition(
  disk: OnDemandDisk,
  type: 'Exported' | 'Resizing' | 'Provisioned' | 'Formatted',
  status: 'True' | 'False',
  reason: AgentReason,
  message: string,
): ConditionChange {
  return { type, status, reason, message, ...observedGeneration(disk) }
}

/** Is the disk served? Undefined as long as that is not known of this generation of the spec. */
export function exportedCondition(
  { disk, file, server }: AgentObserved,
  parsed: OnDemandDisk,
): ConditionChange | undefined {
  if (hasFile(parsed.spec) && file === undefined) {
    const message = `The file disks/${disk.metadata.uid} is missing on the pool’s volume. The disk is never formatted again: restore the file, or delete the disk.`
    return condition(disk, 'Exported', 'False', 'DataMissing', message)
  }
  if (server.state === 'unknown') return undefined
  const { served, manifestProblem } = server
  if (manifestProblem !== undefined) return condition(disk, 'Exported', 'False', 'Refused', manifestProblem)
  if (served === undefined || !served.declared) return undefined
  if (served.generation !== disk.metadata.generation || served.work === 'preparing') return undefined
  if (served.problem !== undefined) return condition(disk, 'Exported', 'False', 'Refused', served.problem)
  const name = quote(parsed.spec.exportName)
  return condition(disk, 'Exported', 'True', 'Serving', `Clients can connect to ${name}.`)
}

/** How a growth goes; undefined where nothing has grown since the last word on it. */
export function resizingCondition(
  { disk, file, server, allotment }: AgentObserved,
  { spec }: OnDemandDisk,
): ConditionChange | undefined {
  if (file === undefined || spec.size === undefined || spec.command !== undefined) return undefined
  const served = server.state === 'known' ? server.served : undefined
  if (spec.size > file.size) {
    const refusal = allotment?.refusal
    if (refusal !== undefined) return condition(disk, 'Resizing', 'False', refusal.reason, refusal.message)
    const message = `The disk grows from ${formatSize(file.size)} to ${formatSize(spec.size)}.`
    return condition(disk, 'Resizing', 'True', 'Growing', message)
  }
  if (served?.work === 'growing') {
    return condition(disk, 'Resizing', 'True', 'Growing', 'The filesystem grows.')
  }
  if (served?.filesystemBehind) {
    const message = `The disk has ${formatSize(file.size)}. Its filesystem grows when its clients have left: ${usersOf(served)}`
    return condition(disk, 'Resizing', 'True', 'WaitingForClients', message)
  }
  const known = conditionOf(disk, 'Resizing')
  const hasGrown = disk.status?.size !== undefined && disk.status.size < file.size
  if (!hasGrown && (known === undefined || known.reason === 'Resized')) return undefined
  // While the server is away it may have more to do.
  if (server.state === 'unknown') return undefined
  return condition(disk, 'Resizing', 'False', 'Resized', `The disk has ${formatSize(file.size)}.`)
}

/** Who has a disk open, in words. */
export function usersOf({ connections }: ExportState): string {
  const shown = connections.slice(0, MAX_SHOWN).map(({ client, since }) => `${client} since ${since}`)
  const more = connections.length - shown.length
  return `In use by ${shown.join(', ')}${more > 0 ? ` and ${more} more` : ''}.`
}

/** `10.0.0.1` of `10.0.0.1:4711`; `unix` of a process. */
export function addressOf(client: string): string {
  if (client.startsWith('unix:')) return 'unix'
  return client.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1')
}

/** Fields of the status, as they are now. */
export function statusFields(
  { file, server, uri, disk }: AgentObserved,
  { spec }: OnDemandDisk,
): Pick<OnDemandDiskStatus, 'uri' | 'size' | 'allocated' | 'connections' | 'clients'> {
  const served = server.state === 'known' ? server.served : undefined
  const size = file?.size ?? (spec.mode === 'Temporary' ? spec.size : undefined)
  const path = spec.exportName === DEFAULT_NAME ? '' : encodeURIComponent(spec.exportName)
  const connections = served?.connections ?? []
  const clients = [...new Set(connections.map(({ client }) => addressOf(client)))].slice(0, MAX_CLIENTS)
  const isUsed = connections.length > 0 || (disk.status?.connections ?? 0) > 0
  return {
    ...(uri !== undefined && { uri: `${uri}/${path}` }),
    ...(size !== undefined && { size }),
    ...(file !== undefined && { allocated: file.allocated }),
    // Nobody has connected yet: that need not be said.
    ...(server.state === 'known' && isUsed && { connections: connections.length, clients }),
  }
}

export type StatusFields = ReturnType<typeof statusFields>

/** The fields that are worth a write now, and when, in ms, to look again at those that are put off. */
export function dueFields(
  fields: StatusFields,
  known: OnDemandDiskStatus | undefined,
  sinceWriteMs: number,
): { readonly fields: StatusFields; readonly requeueAfterMs?: number } {
  const { allocated, connections, clients, ...others } = fields
  const isOther = Object.entries(others).some(
    ([name, value]) => known?.[name as keyof typeof known] !== value,
  )
  const usersChanged =
    connections !== undefined &&
    (connections !== (known?.connections ?? 0) || String(clients) !== String(known?.clients ?? []))
  const isAllocatedDue =
    allocated !== undefined &&
    (known?.allocated === undefined || Math.abs(allocated - known.allocated) >= ALLOCATED_STEP)
  const users = connections === undefined ? {} : { connections, clients }
  const all = { ...others, ...users, ...(allocated !== undefined && { allocated }) }
  if (isOther) return { fields: all as StatusFields }
  const wait = usersChanged
    ? CONNECTIONS_PAUSE_MS - sinceWriteMs
    : isAllocatedDue
      ? ALLOCATED_PAUSE_MS - sinceWriteMs
      : undefined
  if (wait === undefined) return { fields: {} }
  return wait <= 0 ? { fields: all as StatusFields } : { fields: {}, requeueAfterMs: wait }
}
