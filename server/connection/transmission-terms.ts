/** What a transmission is begun with. */
import type { RateAccount } from '../access/rate-limit.ts'
import type { ExportMeter } from '../metrics/export-meter.ts'

/** What the handshake agreed on, and where the client's requests are counted. */
export interface TransmissionTerms {
  /** One of FRAMING. */
  readonly framing: number
  /** The client asked for the context base:allocation. */
  readonly baseAllocation: boolean
  readonly meter: ExportMeter
  /** The rate limits that hold for the client. */
  readonly accounts: readonly RateAccount[]
}

/** Where a transmission reports to. */
export interface TransmissionEvents {
  /** A request failed in the backend. */
  failed(type: number, error: unknown): void
  /** No operation runs any more and none will: the disk can be closed. Called once. */
  ended(error: Error | undefined): void
}
