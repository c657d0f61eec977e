/** What the agent counts. */
import type { Family } from '../../server/metrics/exposition.ts'

export interface AgentCounts {
  /** Writes of a status that changed something. */
  statusWrites: number
  /** Disks that clients wanted: made, of these from a spare, and refused. */
  made: number
  spares: number
  refused: number
}

/** Nothing is counted yet. */
export const newCounts = (): AgentCounts => ({ statusWrites: 0, made: 0, spares: 0, refused: 0 })

/** The agent's metrics. */
export function agentFamilies(counts: AgentCounts): Family[] {
  const counter = (name: string, help: string, value: () => number): Family => ({
    name: `ondemand_disk_agent_${name}_total`,
    type: 'counter',
    labels: [],
    help,
    samples: () => [{ labels: [], value: value() }],
  })
  return [
    counter('status_writes', 'Writes of the status of disks and the pool.', () => counts.statusWrites),
    counter('on_demand_disks', 'Disks made because a client connected to their name.', () => counts.made),
    counter('spares_taken', 'Disks among these that were made of a spare.', () => counts.spares),
    counter('on_demand_refusals', 'Clients that were refused a new disk.', () => counts.refused),
  ]
}
