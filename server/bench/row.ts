/** What a row of the table is. */
import type { Server, ServerName, Transport } from './servers.ts'

/** What one measurement of one server gave. */
export interface Measurement {
  /** In the row's unit. */
  readonly value: number
  /** Server CPU a request, in microseconds. */
  readonly cpu?: number
  /** Share of one core that the client used, per cent. */
  readonly clientBusy?: number
}

/** What a measurement is given. */
export interface Place {
  readonly directory: string
  /** Length of the measurement. */
  readonly seconds: number
}

/** A row of the table: a load, put on each of its servers in turn. */
export interface Row {
  readonly name: string
  /** The client, and the state of the page cache. */
  readonly how: string
  readonly unit: string
  /** Is a higher value better, or a lower one? */
  readonly better: 'more' | 'less'
  /** Our median divided by the best peer's: at least this where more is better, else at most. */
  readonly goal: number
  /** The same for the server's CPU a request, where there is a goal: at most. */
  readonly cpuGoal?: number
  readonly servers: readonly ServerName[]
  readonly transport: Transport
  /** Files that are served, and bytes of each; 0: made by the row itself. */
  readonly disks: Readonly<Record<string, number>>
  /** Directory of the disks, where it is not the common one. */
  readonly subdirectory?: string
  /** Measures one server. Brings the page cache into its state first. */
  measure(server: Server, place: Place): Promise<Measurement>
}
