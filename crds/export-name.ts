import { parseSize, SizeError } from './quantity.ts'
import { quote } from './quote.ts'

/** Which names a disk may have: `strict` is the default, `relaxed` lets MAC addresses and host names in. */
export type NameRules = 'strict' | 'relaxed'

/** The disk that the empty name stands for. */
export const DEFAULT_NAME = 'default'

/** Longest name in bytes of UTF-8: that of a file (NAME_MAX of Linux). */
export const MAX_NAME_BYTES = 255

/** Which rule a name broke. `Size`: what follows the colon is not a size. */
export type ExportNameErrorCode =
  | 'NotUtf8'
  | 'TooLong'
  | 'ControlCharacter'
  | 'Slash'
  | 'Dot'
  | 'LeadingDot'
  | 'Colon'
  | 'Size'

/** A name that no disk can have. The message is one sentence naming the rule that it breaks. */
export class ExportNameError extends Error {
  override readonly name = 'ExportNameError'
  readonly code: ExportNameErrorCode

  constructor(code: ExportNameErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/**
 * Checks an export name, as bytes from the wire or as text, and returns the name of the disk: `default` for
 * the empty name. Both rules allow at most 255 bytes of well-formed UTF-8 without control characters
 * (Unicode's Cc, so NUL too) and without `/`; strict ones also forbid `.` and `:`, relaxed ones only a
 * leading `.`. Names are compared byte for byte: nothing is folded or normalised.
 * @throws ExportNameError
 */
export function parseExportName(raw: Uint8Array | string, rules: NameRules = 'strict'): string {
  return checkName(decode(raw, MAX_NAME_BYTES), rules)
}

/** What a client asked for. */
export interface RequestedName {
  readonly name: string
  /** Bytes, where the client asked for a size. */
  readonly requestedSize?: number
}

export interface RequestedNameOptions {
  /** Default: `strict`. */
  readonly rules?: NameRules
  /** Clients may ask for a size by `name:4G`. Default: they may not. */
  readonly sizes?: boolean
}

const COLON_AND_SIZE_BYTES = 65
/** No unit is a hexadecimal digit, so the end of a MAC address is never taken for a size. */
const SIZE_WITH_UNIT = /^[0-9]+[KMGTP]i?$/

/**
 * Splits what a client asked for into name and size, and checks both. The last colon counts.
 *
 * Under strict rules whatever follows it must be a size. Under relaxed rules a name may hold colons itself
 * (`52:54:00:12:34:56`). There only a number with a unit of K, M, G, T or P is a size, and anything else is part of
 * the name. A size of zero, or one that is too large, is refused all the same.
 * @throws ExportNameError
 */
export function parseRequestedName(
  raw: Uint8Array | string,
  { rules = 'strict', sizes = false }: RequestedNameOptions = {},
): RequestedName {
  const text = decode(raw, sizes ? MAX_NAME_BYTES + COLON_AND_SIZE_BYTES : MAX_NAME_BYTES)
  const colon = text.lastIndexOf(':')
  if (colon < 0) return { name: checkName(text, rules) }
  if (!sizes && rules === 'strict') {
    throw new ExportNameError(
      'Colon',
      `Export name ${quote(text)} must not hold ":" (and this server lets no client choose a size).`,
    )
  }
  const sizeText = text.slice(colon + 1)
  if (!sizes || (rules === 'relaxed' && !SIZE_WITH_UNIT.test(sizeText)))
    return { name: checkName(text, rules) }
  const name = checkName(text.slice(0, colon), rules)
  return { name, requestedSize: parseRequestedSize(sizeText, text) }
}

function parseRequestedSize(sizeText: string, text: string): number {
  try {
    return parseSize(sizeText)
  } catch (error) {
    if (!(error instanceof SizeError)) throw error
    throw new ExportNameError('Size', `Export name ${quote(text)} names no valid size: ${error.message}`, {
      cause: error,
    })
  }
}

// A byte order mark is three bytes of the name like any other: two names must not become one.
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

function decode(raw: Uint8Array | string, maxBytes: number): string {
  if (typeof raw === 'string') {
    if (!raw.isWellFormed()) throw notUtf8()
    return raw
  }
  if (raw.length > maxBytes) throw tooLong(raw.length)
  try {
    return utf8.decode(raw)
  } catch (error) {
    throw notUtf8(error)
  }
}

function checkName(name: string, rules: NameRules): string {
  const bytes = Buffer.byteLength(name)
  if (bytes > MAX_NAME_BYTES) throw tooLong(bytes)
  if (/\p{Cc}/u.test(name)) throw broken('ControlCharacter', name, 'hold NUL or another control character')
  if (name.includes('/')) throw broken('Slash', name, 'hold "/"')
  if (rules === 'relaxed') {
    if (name.startsWith('.')) throw broken('LeadingDot', name, 'begin with "."')
  } else {
    if (name.includes('.')) throw broken('Dot', name, 'hold "."')
    if (name.includes(':')) throw broken('Colon', name, 'hold ":"')
  }
  return name === '' ? DEFAULT_NAME : name
}

function broken(code: ExportNameErrorCode, name: string, rule: string): ExportNameError {
  return new ExportNameError(code, `Export name ${quote(name)} must not ${rule}.`)
}

function tooLong(bytes: number): ExportNameError {
  return new ExportNameError(
    'TooLong',
    `Export name of ${bytes} bytes must not be longer than ${MAX_NAME_BYTES} bytes.`,
  )
}

function notUtf8(cause?: unknown): ExportNameError {
  return new ExportNameError('NotUtf8', 'Export name must be well-formed UTF-8.', { cause })
}
