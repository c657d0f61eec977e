/** A disk as one connection has it, from GO to the end. */
import type { Capabilities, LayeredBackend } from '../backends/backend.ts'
import { TRANSMISSION_FLAG } from '../protocol/constants.ts'
import { FRAMING } from '../protocol/transmission.ts'

export interface OpenedDisk {
  readonly backend: LayeredBackend
  readonly handle: unknown
  /** Bytes when it was opened; `backend.renewSize` knows what it has since. */
  readonly size: number
  readonly capabilities: Capabilities
  readonly readOnly: boolean
  readonly multiConn: boolean
}

/** The flags that EXPORT_NAME, INFO and GO announce. */
export function transmissionFlags(capabilities: Capabilities, multiConn: boolean, framing: number): number {
  const flag = TRANSMISSION_FLAG
  const { canWrite, canFlush, canFua, canTrim, canZero, canFastZero, canCache, isRotational } = capabilities
  return (
    flag.HAS_FLAGS |
    (canWrite ? 0 : flag.READ_ONLY) |
    (canFlush ? flag.SEND_FLUSH : 0) |
    (canFua ? flag.SEND_FUA : 0) |
    (isRotational ? flag.ROTATIONAL : 0) |
    (canTrim ? flag.SEND_TRIM : 0) |
    (canZero ? flag.SEND_WRITE_ZEROES : 0) |
    (canZero && canFastZero ? flag.SEND_FAST_ZERO : 0) |
    (canCache ? flag.SEND_CACHE : 0) |
    (framing === FRAMING.SIMPLE ? 0 : flag.SEND_DF) |
    (framing === FRAMING.EXTENDED ? flag.BLOCK_STATUS_PAYLOAD : 0) |
    (multiConn ? flag.CAN_MULTI_CONN : 0)
  )
}
