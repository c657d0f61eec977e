/** Requests that an export cannot take are refused before they are sent. */
import { CMD } from '../protocol/constants.ts'
import { InvalidRequestError } from './errors.ts'
import type { BlockSizes, ExportInfo } from './export-info.ts'

/** @throws InvalidRequestError (ENOTSUP) */
export function needAbility(ability: boolean, what: string): void {
  if (!ability)
    throw new InvalidRequestError('ENOTSUP', `The NBD server does not offer ${what} for this export.`)
}

/** @throws InvalidRequestError (EROFS) */
export function needWritable(info: ExportInfo): void {
  if (info.flags.readOnly) {
    throw new InvalidRequestError('EROFS', 'The NBD server offers this export read-only.')
  }
}

/** @throws InvalidRequestError (EINVAL) */
export function checkBuffer(buffer: Buffer, start: number, length: number): void {
  if (!(start >= 0 && length >= 0 && start + length <= buffer.length)) {
    throw new InvalidRequestError(
      'EINVAL',
      `A buffer of ${buffer.length} bytes has no ${length} bytes from ${start}.`,
    )
  }
}

/** @throws InvalidRequestError: ENOSPC for what writes, EINVAL for what does not, as servers answer */
export function checkRange(info: ExportInfo, command: number, length: number, offset: number): void {
  const isRange = Number.isSafeInteger(length) && Number.isSafeInteger(offset) && length >= 0 && offset >= 0
  if (isRange && length <= info.size - offset) return
  const code = command === CMD.WRITE || command === CMD.WRITE_ZEROES ? 'ENOSPC' : 'EINVAL'
  throw new InvalidRequestError(code, `The export of ${info.size} bytes has no ${length} bytes at ${offset}.`)
}

/** @throws InvalidRequestError (EINVAL) */
export function checkAlignment({ minimum }: BlockSizes, length: number, offset: number): void {
  if (minimum === 1 || (length % minimum === 0 && offset % minimum === 0)) return
  throw new InvalidRequestError(
    'EINVAL',
    `The NBD server takes multiples of ${minimum} bytes; ${length} bytes at ${offset} are not. Set the option unaligned to read-modify-write to have them nevertheless.`,
  )
}
