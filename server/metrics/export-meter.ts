/** What clients do with each export: plain numbers that are bumped in place and read at scrape time. */
import { CMD } from '../protocol/constants.ts'
import { Histogram, REQUEST_SECONDS } from './histogram.ts'

/** The label of each command, by its number on the wire; DISC has no reply and is not counted. */
const COMMANDS: readonly (string | undefined)[] = Object.entries(CMD).reduce<(string | undefined)[]>(
  (names, [name, type]) => {
    if (type !== CMD.DISC) names[type] = name.toLowerCase()
    return names
  },
  [],
)
const UNKNOWN = 'unknown'

/** Requests of one command on one export. */
export class CommandMeter {
  /** From the bytes of the request to its reply; its count is that of the requests. */
  readonly seconds = new Histogram(REQUEST_SECONDS)
  /** Replies that were errors. */
  errors = 0
}

/** One export, or all those that have no label of their own. */
export class ExportMeter {
  readonly #byType: (CommandMeter | undefined)[] = []
  readonly #unknown = new CommandMeter()
  /** Connections that have it open now. */
  connections = 0
  readBytes = 0
  writtenBytes = 0
  /** Time for which connections were held back by rate limits. */
  throttledSeconds = 0

  /** The meter of a command by its number on the wire, whatever a client sent. */
  command(type: number): CommandMeter {
    if (COMMANDS[type] === undefined) return this.#unknown
    const known = this.#byType[type]
    if (known !== undefined) return known
    const meter = new CommandMeter()
    this.#byType[type] = meter
    return meter
  }

  /** Commands that have been answered, with their labels. */
  *commands(): Generator<readonly [label: string, meter: CommandMeter]> {
    for (const [type, label] of COMMANDS.entries()) {
      const meter = this.#byType[type]
      if (label !== undefined && meter !== undefined) yield [label, meter]
    }
    if (this.#unknown.seconds.count > 0) yield [UNKNOWN, this.#unknown]
  }
}

/** Names of exports that become labels; a scraper keeps every label for as long as its history lasts. */
export const MAX_EXPORT_LABELS = 1000
/** Where all further exports are counted. */
export const OTHER_EXPORTS = '__other__'

/** The meters of all exports that were ever opened. */
export class ExportMeters {
  readonly #meters = new Map<string, ExportMeter>()
  readonly #limit: number
  #other: ExportMeter | undefined

  constructor(limit = MAX_EXPORT_LABELS) {
    this.#limit = limit
  }

  /** The meter of this export: its own if it is one of the first, else the common one. */
  of(exportName: string): ExportMeter {
    const known = this.#meters.get(exportName)
    if (known !== undefined) return known
    if (this.#meters.size >= this.#limit || exportName === OTHER_EXPORTS) {
      this.#other ??= new ExportMeter()
      return this.#other
    }
    const meter = new ExportMeter()
    this.#meters.set(exportName, meter)
    return meter
  }

  /** Every meter with its label. */
  *[Symbol.iterator](): Generator<readonly [label: string, meter: ExportMeter]> {
    yield* this.#meters
    if (this.#other !== undefined) yield [OTHER_EXPORTS, this.#other]
  }
}
