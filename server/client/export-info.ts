/** What a client knows of an export: size, abilities, block sizes, names. */
import type { NegotiatedExport } from '../protocol/client-negotiation.ts'
import { MAX_PAYLOAD, TRANSMISSION_FLAG } from '../protocol/constants.ts'
import { RefusedError } from './errors.ts'

/** What an export allows and what its server can do. */
export interface ExportFlags {
  readonly readOnly: boolean
  readonly canFlush: boolean
  readonly canFua: boolean
  readonly canTrim: boolean
  readonly canZero: boolean
  readonly canFastZero: boolean
  readonly canCache: boolean
  /** A flush on one connection covers what was written on all of them. */
  readonly canMultiConn: boolean
  readonly canDf: boolean
  /** The server tells holes from data. */
  readonly canExtents: boolean
  readonly rotational: boolean
}

/** Sizes of requests in bytes: offsets and lengths are multiples of `minimum`, at most `maximum` is sent at once. */
export interface BlockSizes {
  readonly minimum: number
  readonly preferred: number
  readonly maximum: number
}

export interface ExportInfo {
  /** Bytes; a rest smaller than the minimum block size cannot be reached and is left out. */
  readonly size: number
  readonly flags: ExportFlags
  readonly blockSizes: BlockSizes
  /** Requests may speak of more than 4 GiB. */
  readonly extendedHeaders: boolean
  readonly description: string | undefined
  readonly canonicalName: string | undefined
}

/** What the protocol assumes where the server says nothing. */
const DEFAULT_BLOCK_SIZES: BlockSizes = { minimum: 1, preferred: 4096, maximum: MAX_PAYLOAD }

function flagsOf({ flags, replies, allocationContext }: NegotiatedExport): ExportFlags {
  const has = (flag: number) => (flags & flag) !== 0
  const canZero = has(TRANSMISSION_FLAG.SEND_WRITE_ZEROES)
  return {
    readOnly: has(TRANSMISSION_FLAG.READ_ONLY),
    canFlush: has(TRANSMISSION_FLAG.SEND_FLUSH),
    canFua: has(TRANSMISSION_FLAG.SEND_FUA),
    canTrim: has(TRANSMISSION_FLAG.SEND_TRIM),
    canZero,
    canFastZero: canZero && has(TRANSMISSION_FLAG.SEND_FAST_ZERO),
    canCache: has(TRANSMISSION_FLAG.SEND_CACHE),
    canMultiConn: has(TRANSMISSION_FLAG.CAN_MULTI_CONN),
    canDf: replies !== 'simple' && has(TRANSMISSION_FLAG.SEND_DF),
    canExtents: allocationContext !== undefined,
    rotational: has(TRANSMISSION_FLAG.ROTATIONAL),
  }
}

/** @throws RefusedError where the export is larger than can be counted here */
export function exportInfo(negotiated: NegotiatedExport): ExportInfo {
  if (!Number.isSafeInteger(negotiated.size)) {
    throw new RefusedError(
      'EFBIG',
      'The export is larger than 2^53 bytes, which is more than can be used here.',
    )
  }
  const { minimum, preferred, maximum } = negotiated.blockSizes ?? DEFAULT_BLOCK_SIZES
  const most = Math.min(maximum, MAX_PAYLOAD)
  return {
    size: negotiated.size - (negotiated.size % minimum),
    flags: flagsOf(negotiated),
    blockSizes: { minimum, preferred: Math.min(preferred, most), maximum: most - (most % minimum) },
    extendedHeaders: negotiated.replies === 'extended',
    description: negotiated.description,
    canonicalName: negotiated.canonicalName,
  }
}

/** Abilities whose loss breaks a user who relies on them. */
const NEEDED = [
  ...(['canFlush', 'canFua', 'canTrim', 'canZero', 'canFastZero'] as const),
  ...(['canCache', 'canMultiConn', 'canExtents'] as const),
]

/** Says in which way the export is less than it was, or nothing. */
export function lossBetween(before: ExportInfo, after: ExportInfo): string | undefined {
  if (after.size < before.size) return `its size was ${before.size} bytes and is ${after.size}`
  if (after.flags.readOnly && !before.flags.readOnly) return 'it has become read-only'
  const lost = NEEDED.find(ability => before.flags[ability] && !after.flags[ability])
  if (lost !== undefined) return `it has lost the ability ${lost}`
  if (before.extendedHeaders && !after.extendedHeaders) return 'its server no longer has extended headers'
  const { minimum, maximum } = before.blockSizes
  if (after.blockSizes.minimum > minimum)
    return `its minimum block size has grown to ${after.blockSizes.minimum}`
  if (after.blockSizes.maximum < maximum)
    return `its maximum block size has shrunk to ${after.blockSizes.maximum}`
  return undefined
}
