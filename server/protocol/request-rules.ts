/** Which requests are refused, with which error, before a backend sees them. */
import { CMD, CMD_FLAG, MAX_PAYLOAD, NBD_ERRNO, TRANSMISSION_FLAG } from './constants.ts'
import { FRAMING } from './transmission.ts'

/** What the rules need to know of the export and the handshake. */
export interface RequestTerms {
  readonly size: number
  readonly readOnly: boolean
  /** One of FRAMING. */
  readonly framing: number
  /** Offsets and lengths have to be multiples of it. Default: 1. */
  readonly minimumBlock?: number
  /** The transmission flags that the client was told. Default: everything. */
  readonly announced?: number
  readonly baseAllocation: boolean
}

/** Flags that a command may carry. FUA is allowed on every command, since the server announces SEND_FUA. */
function allowedFlags(type: number, framing: number): number {
  const isExtended = framing === FRAMING.EXTENDED
  switch (type) {
    case CMD.READ:
      return CMD_FLAG.FUA | (framing === FRAMING.SIMPLE ? 0 : CMD_FLAG.DF)
    case CMD.WRITE:
      return CMD_FLAG.FUA | (isExtended ? CMD_FLAG.PAYLOAD_LEN : 0)
    case CMD.WRITE_ZEROES:
      return CMD_FLAG.FUA | CMD_FLAG.NO_HOLE | CMD_FLAG.FAST_ZERO
    case CMD.BLOCK_STATUS:
      return CMD_FLAG.FUA | CMD_FLAG.REQ_ONE | (isExtended ? CMD_FLAG.PAYLOAD_LEN : 0)
    default:
      return CMD_FLAG.FUA
  }
}

/** Commands that change the disk: refused where it is read-only, made durable by FUA. */
export const changesData = (type: number): boolean =>
  type === CMD.WRITE || type === CMD.TRIM || type === CMD.WRITE_ZEROES

const ALL = -1
const { SEND_FLUSH, SEND_TRIM, SEND_CACHE, SEND_WRITE_ZEROES, SEND_FUA, SEND_FAST_ZERO } = TRANSMISSION_FLAG
/** What has to be announced for a command, by its number. */
const NEEDED = [0, 0, 0, SEND_FLUSH, SEND_TRIM, SEND_CACHE, SEND_WRITE_ZEROES, 0]

function isAnnounced(announced: number, type: number, flags: number): boolean {
  const needed =
    (NEEDED[type] ?? 0) |
    (flags & CMD_FLAG.FUA ? SEND_FUA : 0) |
    (flags & CMD_FLAG.FAST_ZERO ? SEND_FAST_ZERO : 0)
  return (announced & needed) === needed
}

/** Does a range reach behind the end? By subtraction: the sum of the two could leave the range of exact numbers. */
export const isBehindEnd = ({ size }: RequestTerms, offset: number, length: number): boolean =>
  offset > size || length > size - offset

/**
 * The error that a request deserves, or 0. `offset` may be inexact above 2^53, where it is out of range
 * in any case. DISC is not asked about.
 */
export function refusalOf(
  terms: RequestTerms,
  type: number,
  flags: number,
  offset: number,
  length: number,
): number {
  if (type > CMD.BLOCK_STATUS || type === CMD.DISC) return NBD_ERRNO.EINVAL
  if ((flags & ~allowedFlags(type, terms.framing)) !== 0) return NBD_ERRNO.EINVAL
  if (type === CMD.FLUSH)
    return isAnnounced(terms.announced ?? ALL, type, flags) ? NBD_ERRNO.OK : NBD_ERRNO.EINVAL
  if (terms.readOnly && changesData(type)) return NBD_ERRNO.EPERM
  if (!isAnnounced(terms.announced ?? ALL, type, flags)) return NBD_ERRNO.EINVAL
  if (isBehindEnd(terms, offset, length)) {
    return type === CMD.WRITE || type === CMD.WRITE_ZEROES ? NBD_ERRNO.ENOSPC : NBD_ERRNO.EINVAL
  }
  const { minimumBlock = 1 } = terms
  if (minimumBlock > 1 && (offset % minimumBlock !== 0 || length % minimumBlock !== 0))
    return NBD_ERRNO.EINVAL
  if ((type === CMD.READ || type === CMD.WRITE) && length > MAX_PAYLOAD) return NBD_ERRNO.EINVAL
  if (type === CMD.BLOCK_STATUS && (!terms.baseAllocation || length === 0)) return NBD_ERRNO.EINVAL
  return NBD_ERRNO.OK
}
