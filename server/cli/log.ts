import { pino } from 'pino'
import { createLogWriter } from './log-writer.ts'
import { bounded, printable } from './printable.ts'
import type { LogLevel } from './program-options.ts'

/** What a line says beside its message. Strings may come from clients: they are bounded and escaped here. */
export type LogFields = Readonly<Record<string, unknown>>

/** A logger. The message is a constant sentence; whatever varies is a field. */
export interface Log {
  error(fields: LogFields, message: string): void
  warn(fields: LogFields, message: string): void
  info(fields: LogFields, message: string): void
  debug(fields: LogFields, message: string): void
}

/** Longest string in a line, in UTF-16 units: a whole export name of 255 bytes and then some. */
const MAX_TEXT = 512
const MAX_ITEMS = 20
const MAX_DEPTH = 3

/**
 * A logger that writes to a descriptor: JSON lines with `level`, `time` and `msg`, or `readable` lines for
 * people. Writing neither blocks the event loop nor fails: a log that cannot be written costs lines, not the
 * server.
 */
export function createLog(level: LogLevel, descriptor: number, readable: boolean): Log {
  const writer = createLogWriter(descriptor, lines => log.warn({ lines }, 'Lines of this log were lost'))
  const log: Log = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: label => ({ level: label }), log: boundedFields },
      // What pino does to a field named err is done here for every field.
      serializers: { err: value => value },
      hooks: {
        logMethod(args, method) {
          const [fields, message = ''] = args
          method.call(this, fields, bounded(message, MAX_TEXT))
        },
        streamWrite: readable ? readableLine : escapedLine,
      },
    },
    writer,
  )
  return log
}

function boundedFields(fields: object): Record<string, unknown> {
  const result: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(fields)) result[key] = boundedValue(value, MAX_DEPTH)
  return result
}

function boundedValue(value: unknown, depth: number): unknown {
  if (typeof value === 'string') return bounded(value, MAX_TEXT)
  if (typeof value === 'bigint') return bounded(String(value), MAX_TEXT)
  if (value instanceof Error) return describeError(value, MAX_CAUSES)
  if (typeof value !== 'object' || value === null) return value
  if (depth === 0) return '…'
  if (Array.isArray(value)) return value.slice(0, MAX_ITEMS).map(item => boundedValue(item, depth - 1))
  const result: Record<string, unknown> = {}
  for (const [key, item] of Object.entries(value).slice(0, MAX_ITEMS)) {
    result[bounded(key, MAX_TEXT)] = boundedValue(item, depth - 1)
  }
  return result
}

const MAX_CAUSES = 3
const MAX_FRAMES = 10

/** What a log says of an error: its class, code and message, where it was made, and why. */
interface DescribedError {
  readonly type: string
  readonly message: string
  readonly code?: string
  readonly stack?: readonly string[]
  readonly cause?: DescribedError
}

function describeError(error: Error, causes: number): DescribedError {
  const stack = framesOf(error)
  return {
    type: bounded(error.name, MAX_TEXT),
    message: bounded(error.message, MAX_TEXT),
    ...('code' in error && typeof error.code === 'string' && { code: bounded(error.code, MAX_TEXT) }),
    ...(stack.length > 0 && { stack }),
    ...(error.cause instanceof Error && causes > 0 && { cause: describeError(error.cause, causes - 1) }),
  }
}

/** The frames alone: the stack's head repeats the message, which may hold lines that look like frames. */
function framesOf(error: Error): string[] {
  const { stack, message } = error
  const at = typeof stack === 'string' ? stack.indexOf(message) : -1
  if (stack === undefined || at < 0) return []
  return stack
    .slice(at + message.length)
    .split('\n')
    .map(line => bounded(line.trim(), MAX_TEXT))
    .filter(line => line.startsWith('at '))
    .slice(0, MAX_FRAMES)
}

// JSON escapes what is below U+0020 only; a terminal that shows the line obeys more than that.
const UNSAFE_IN_JSON = /[\p{Cf}\p{Zl}\p{Zp}\x7f-\x9f]/gu

function escapedLine(line: string): string {
  return line.replace(UNSAFE_IN_JSON, character => {
    let escapes = ''
    for (let unit = 0; unit < character.length; unit++) {
      escapes += `\\u${character.charCodeAt(unit).toString(16).padStart(4, '0')}`
    }
    return escapes
  })
}

function readableLine(line: string): string {
  const { level, time, msg, ...fields } = JSON.parse(line) as Record<string, unknown>
  let text = `${clock(String(time))} ${String(level).toUpperCase().padEnd(5)} ${printable(String(msg))}`
  let frames = ''
  for (const [key, value] of Object.entries(fields)) {
    text += ` ${printable(key)}=${readableValue(value)}`
    if (isDescribedError(value)) {
      for (const frame of value.stack ?? []) frames += `    ${printable(frame)}\n`
    }
  }
  return `${text}\n${level === 'error' ? frames : ''}`
}

function clock(time: string): string {
  const date = new Date(time)
  const parts = [date.getHours(), date.getMinutes(), date.getSeconds()].map(part =>
    String(part).padStart(2, '0'),
  )
  return `${parts.join(':')}.${String(date.getMilliseconds()).padStart(3, '0')}`
}

function readableValue(value: unknown): string {
  if (isDescribedError(value)) return inQuotes(readableError(value))
  const plain = typeof value === 'string' && /^[\w.:@/+[\]-]+$/.test(value)
  return plain ? value : inQuotes(value)
}

function inQuotes(value: unknown): string {
  return printable(JSON.stringify(value))
}

function readableError({ message, code, cause }: DescribedError): string {
  const reason = cause === undefined ? '' : `: ${readableError(cause)}`
  return `${message}${code === undefined ? '' : ` (${code})`}${reason}`
}

function isDescribedError(value: unknown): value is DescribedError {
  return typeof value === 'object' && value !== null && 'type' in value && 'message' in value
}
