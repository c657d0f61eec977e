import { quote } from './quote.ts'

/** Largest size in bytes: every offset in a disk is an exact JavaScript number (8 PiB less one byte). */
export const MAX_SIZE = Number.MAX_SAFE_INTEGER

/** A size that cannot be understood or is out of range. The message says what is accepted. */
export class SizeError extends Error {
  override readonly name = 'SizeError'
  readonly code = 'InvalidSize'
}

export interface SizeOptions {
  /** Zero is a size too, as where a command alone decides how large the disk becomes. Default: refused. */
  readonly allowZero?: boolean
}

const MAX_TEXT = 64

const SIZE = /^([0-9]+)(?:[bB]|([KMGTP])i?)?$/

/**
 * Reads a size as people type it at the command line and after an export name: a whole number of bytes,
 * or one with `K`, `M`, `G`, `T` or `P`, which are powers of 1024 with or without an `i`; `b` or `B` stands
 * for bytes. Returns bytes.
 * @throws SizeError
 */
export function parseSize(text: string, options: SizeOptions = {}): number {
  const match = text.length <= MAX_TEXT ? SIZE.exec(text) : null
  if (!match) {
    throw new SizeError(
      `${quote(text)} is not a size. Give a whole number of bytes, alone or with K, M, G, T or P ` +
        '(powers of 1024), such as 4G.',
    )
  }
  const [, digits = '', unit = ''] = match
  return checkRange(BigInt(digits) * 1024n ** BigInt('BKMGTP'.indexOf(unit || 'B')), text, options)
}

const QUANTITY =
  /^\+?(?:([0-9]+)(?:\.([0-9]*))?|\.([0-9]+))(?:([KMGTPE])i|([numkMGTPE])|[eE]([+-]?[0-9]{1,3}))?$/

const DECIMAL_EXPONENTS: Readonly<Record<string, number>> = {
  n: -9,
  u: -6,
  m: -3,
  k: 3,
  M: 6,
  G: 9,
  T: 12,
  P: 15,
  E: 18,
}

/**
 * Reads a quantity of bytes as Kubernetes writes them (apimachinery's `resource.Quantity`): `10Gi` is a
 * power of 1024, `10G` one of 1000, also `1.5Gi`, `1e9` and plain numbers. Exact; a fraction of a byte
 * rounds up. Returns bytes.
 * @throws SizeError
 */
export function parseQuantity(value: string | number, options: SizeOptions = {}): number {
  if (typeof value === 'number') {
    if (!Number.isInteger(value)) throw new SizeError(notAQuantity(String(value)))
    return checkRange(BigInt(value), String(value), options)
  }
  const match = value.length <= MAX_TEXT ? QUANTITY.exec(value) : null
  if (!match) throw new SizeError(notAQuantity(value))
  const [, whole = '', fraction = match[3] ?? '', , binary = '', decimal = '', exponent = '0'] = match
  const power = (DECIMAL_EXPONENTS[decimal] ?? Number(exponent)) - fraction.length
  const scaled = BigInt(whole + fraction) * 1024n ** BigInt('BKMGTPE'.indexOf(binary || 'B'))
  const divisor = 10n ** BigInt(Math.max(-power, 0))
  const bytes = (scaled * 10n ** BigInt(Math.max(power, 0)) + divisor - 1n) / divisor
  return checkRange(bytes, value, options)
}

function notAQuantity(text: string): string {
  return (
    `${quote(text)} is not a quantity of bytes. Give a whole number, or one with Ki, Mi, Gi, Ti or Pi ` +
    '(powers of 1024) or k, M, G, T or P (powers of 1000), such as 10Gi.'
  )
}

function checkRange(bytes: bigint, text: string, options: SizeOptions): number {
  if (bytes < 0n || (bytes === 0n && !options.allowZero)) {
    throw new SizeError(`${quote(text)} is too small. Give a size of at least 1 byte.`)
  }
  if (bytes > BigInt(MAX_SIZE)) {
    throw new SizeError(
      `${quote(text)} is too large. Give a size of at most ${MAX_SIZE} bytes (under 8 PiB).`,
    )
  }
  return Number(bytes)
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const

/** Writes bytes for people: `1 GiB`, `1.5 GiB`, `512 B`. Rounded to a tenth of the unit. */
export function formatSize(bytes: number): string {
  let value = bytes
  let unit = 0
  while (unit < UNITS.length - 1 && tenths(value) >= 1024) {
    value /= 1024
    unit += 1
  }
  return `${tenths(value)} ${UNITS[unit]}`
}

function tenths(value: number): number {
  return Math.round(value * 10) / 10
}
