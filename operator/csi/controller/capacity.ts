/** Sizes of volumes, in bytes. */
import { MAX_SIZE } from '../../../crds/quantity.ts'
import type { CapacityRange } from '../protocol/messages.ts'
import { RpcError } from '../rpc/rpc-error.ts'

/** What a volume has for which nothing is asked. */
export const DEFAULT_SIZE = 2 ** 30
/** A kernel's block device has whole pages at best. */
const STEP = 4096

export interface SizeRange {
  /** 0: any. */
  readonly least: number
  readonly most: number
}

/**
 * @throws RpcError OUT_OF_RANGE for sizes that no disk has, INVALID_ARGUMENT for those that are none
 */
export function parseRange(range: CapacityRange | null): SizeRange {
  const least = size('required_bytes', range?.requiredBytes ?? '0')
  const most = size('limit_bytes', range?.limitBytes ?? '0') || MAX_SIZE
  if (least > most)
    throw new RpcError('OUT_OF_RANGE', 'capacity_range: required_bytes is more than limit_bytes.')
  return { least, most }
}

/**
 * The smallest whole size in the range that is not below `wanted`.
 * @throws RpcError OUT_OF_RANGE where the range has none
 */
export function sizeIn({ least, most }: SizeRange, wanted: number): number {
  const result = Math.ceil(Math.max(least, Math.min(wanted, most - (most % STEP))) / STEP) * STEP
  if (result > 0 && result <= most) return result
  throw new RpcError('OUT_OF_RANGE', `capacity_range: there is no multiple of ${STEP} bytes in it.`)
}

/** Does the range hold so many bytes? */
export const isIn = ({ least, most }: SizeRange, bytes: number) => bytes >= least && bytes <= most

function size(field: string, text: string): number {
  const value = Number(text)
  if (value < 0) throw new RpcError('INVALID_ARGUMENT', `capacity_range: ${field} is negative.`)
  if (value <= MAX_SIZE) return value
  throw new RpcError('OUT_OF_RANGE', `capacity_range: ${field} is more than ${MAX_SIZE}.`)
}
