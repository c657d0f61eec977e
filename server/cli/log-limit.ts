import type { Log, LogFields } from './log.ts'
import { bounded } from './printable.ts'
import { LOG_LEVELS, type LogLevel } from './program-options.ts'

/** Bounds of a limited log; the defaults are for warnings that a client can cause at will. */
export interface LogLimits {
  /** Length of a window in ms. */
  readonly windowMs: number
  /** Lines of one message about one client in a window. */
  readonly perClient: number
  /** Lines of one message about all clients in a window: a client may have many addresses. */
  readonly perMessage: number
  /** Messages that are counted apart; further ones share one count. */
  readonly messages: number
  /** What the log does not write, being below this level, is not counted either. */
  readonly level: LogLevel
}

const DEFAULT_LIMITS: LogLimits = {
  windowMs: 10_000,
  perClient: 10,
  perMessage: 100,
  messages: 64,
  level: 'debug',
}

/** A log whose repetitions are held back; `close` tells what is still held back and ends its timers. */
export interface LimitedLog extends Log {
  close(): void
}

/** One message's window, from its first line on. It holds no more clients than lines. */
interface Window {
  readonly level: LogLevel
  readonly linesPerClient: Map<string, number>
  lines: number
  suppressed: number
  /** The client of the suppressed lines as long as there is only one. */
  client: string | undefined
  readonly timer: NodeJS.Timeout
}

const OTHER_MESSAGES = 'Other messages'
const MAX_CLIENT = 256

/**
 * Puts a bound on lines that a client can cause, so that a hostile one cannot fill the disk that holds the
 * log. Lines count by message (a constant text) and by the field `client`. The first ones of a window are
 * logged; at its end one line says how many were suppressed. The port of a client does not count: it has
 * another one for each connection.
 */
export function limitLog(log: Log, limits: Partial<LogLimits> = {}): LimitedLog {
  const { windowMs, perClient, perMessage, messages, level: least } = { ...DEFAULT_LIMITS, ...limits }
  const windows = new Map<string, Window>()

  const endWindow = (message: string): void => {
    const window = windows.get(message)
    if (window === undefined) return
    clearTimeout(window.timer)
    windows.delete(message)
    if (window.suppressed === 0) return
    const { level, suppressed, client } = window
    log[level](
      { suppressed, ...(client !== undefined && { client }), repeated: message },
      'Suppressed repetitions',
    )
  }

  const write = (level: LogLevel, fields: LogFields, message: string): void => {
    const key = windows.has(message) || windows.size < messages ? message : OTHER_MESSAGES
    let window = windows.get(key)
    if (window === undefined) {
      // The timer must not keep a server alive that has nothing else to do.
      const timer = setTimeout(endWindow, windowMs, key).unref()
      window = { level, linesPerClient: new Map(), lines: 0, suppressed: 0, client: undefined, timer }
      windows.set(key, window)
    }
    const client = withoutPort(bounded(String(fields.client), MAX_CLIENT))
    const lines = window.linesPerClient.get(client) ?? 0
    if (lines >= perClient || window.lines >= perMessage) {
      if (window.suppressed === 0) window.client = client
      else if (window.client !== client) window.client = undefined
      window.suppressed++
      return
    }
    window.linesPerClient.set(client, lines + 1)
    window.lines++
    log[level](fields, message)
  }

  const line = (level: LogLevel) => {
    if (LOG_LEVELS.indexOf(level) > LOG_LEVELS.indexOf(least)) return () => {}
    return (fields: LogFields, message: string) => write(level, fields, message)
  }

  return {
    error: line('error'),
    warn: line('warn'),
    info: line('info'),
    debug: line('debug'),
    close: () => {
      for (const message of [...windows.keys()]) endWindow(message)
    },
  }
}

function withoutPort(client: string): string {
  return client.replace(/^(\d+\.\d+\.\d+\.\d+|\[[^\]]*\]):\d+$/, '$1')
}
