/** What a user is told of by an event on the disk: what changed by itself, and who was kept out. No I/O. */
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import type { ExportState } from '../../server/control/state.ts'
import type { ConditionChange } from '../kube/conditions.ts'
import type { EventNote } from '../kube/events.ts'
import { conditionOf } from '../terms/conditions.ts'
import type { AgentReason } from '../terms/reasons.ts'
import { addressOf } from './exported.ts'

/** Reasons that are news; what is left out is seen in the conditions, or told by the operator. */
const TOLD: Readonly<Partial<Record<AgentReason, EventNote['type']>>> = {
  DataMissing: 'Warning',
  Refused: 'Warning',
  QuotaExceeded: 'Warning',
  WaitingForClients: 'Normal',
  Resized: 'Normal',
  SpareTaken: 'Normal',
}

/** Events of conditions that are about to change. */
export function eventsOf(disk: OnDemandDisk, changes: readonly ConditionChange[]): EventNote[] {
  return changes.flatMap(({ type, status, reason, message }) => {
    const known = conditionOf(disk, type)
    const kind = TOLD[reason as AgentReason]
    if (kind === undefined) return []
    if (known?.status === status && known.reason === reason && known.message === message) return []
    return [{ type: kind, reason, message }]
  })
}

/** A client that the server has kept out; without its port, so that its next try is the same event once more. */
export function refusalEvent({ client, message }: NonNullable<ExportState['lastRefusal']>): EventNote {
  return {
    type: 'Warning',
    reason: 'ClientRefused',
    message: `The client ${addressOf(client)} was refused: ${message}`,
  }
}
