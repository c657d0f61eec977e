/** A disk as one connection has it, from GO to the end. */
import type { FilledBackend } from '../backends/backend.ts'
import { TRANSMISSION_FLAG } from '../protocol/constants.ts'
import { FRAMING } from '../protocol/transmission.ts'

export interface OpenedDisk {
  readonly backend: FilledBackend
  readonly handle: unknown
  /** Bytes. */
  readonly size: number
  readonly readOnly: boolean
  readonly multiConn: boolean
}

/** The flags that EXPORT_NAME, INFO and GO announce; all operations are there, so only these two things differ. */
export function transmissionFlags(readOnly: boolean, multiConn: boolean, framing: number): number {
  const flag = TRANSMISSION_FLAG
  const always = flag.HAS_FLAGS | flag.SEND_FLUSH | flag.SEND_FUA | flag.SEND_CACHE
  const writing = flag.SEND_TRIM | flag.SEND_WRITE_ZEROES | flag.SEND_FAST_ZERO
  return (
    always |
    (readOnly ? flag.READ_ONLY : writing) |
    (framing === FRAMING.SIMPLE ? 0 : flag.SEND_DF) |
    (framing === FRAMING.EXTENDED ? flag.BLOCK_STATUS_PAYLOAD : 0) |
    (multiConn ? flag.CAN_MULTI_CONN : 0)
  )
}
