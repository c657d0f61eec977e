/** What the agent does for its pool: who may connect, and what the pool's status says of the server. No I/O. */
import type { DiskPool, DiskPoolStatus } from '../../crds/diskpool.ts'

/** What is seen of the pool's volume and server. */
export interface PoolObserved {
  /** Formatted spares of the template that the pool has now. */
  readonly spares: number
  /** Undefined while the server is away. */
  readonly connections: number | undefined
  /** Bytes of the volume. */
  readonly capacity: number
  readonly free: number
  /** ms since the status was last written; infinite if it never was. */
  readonly sinceWriteMs: number
}

/** Numbers that change all the time are written this often, in ms. */
const PAUSE_MS = 15_000
/** Spares that are taken are told this often, in ms: while clients come, each write is one more that they wait beside. */
const SPARES_PAUSE_MS = 1000
/** Smaller changes of the free space are not worth a write: a hundredth of the volume. */
const FREE_STEP = 1 / 100

/** The text of the server's policy. */
export function policyText({ spec: { access } }: DiskPool): string {
  const { allow, deny, maxConnections, maxConnectionsPerClient, limits } = access
  return JSON.stringify({ allow, deny, maxConnections, maxConnectionsPerClient, limits })
}

/**
 * The fields of the pool's status that are to be written now, and when, in ms, to look again at what was put off. New
 * spares are told at once, and those that are taken soon, since the operator makes the next ones then.
 */
export function poolFields(
  { spares, connections, capacity, free, sinceWriteMs }: PoolObserved,
  known: DiskPoolStatus = {},
): { readonly fields: Partial<DiskPoolStatus>; readonly requeueAfterMs?: number } {
  const fields = { spares, ...(connections !== undefined && { connections }), capacity, free }
  const told = known.spares ?? 0
  if (spares > told || known.capacity === undefined) return { fields }
  if (spares < told) {
    const waitMs = SPARES_PAUSE_MS - sinceWriteMs
    return waitMs <= 0 ? { fields } : { fields: {}, requeueAfterMs: waitMs }
  }
  const isUsed = connections !== undefined && connections !== (known.connections ?? 0)
  const isFilled = Math.abs(free - (known.free ?? 0)) >= capacity * FREE_STEP
  if (!isUsed && !isFilled && capacity === known.capacity) return { fields: {} }
  return sinceWriteMs >= PAUSE_MS ? { fields } : { fields: {}, requeueAfterMs: PAUSE_MS - sinceWriteMs }
}
