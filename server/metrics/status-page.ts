/** The status page for people: one table of the exports, in HTML without scripts, that loads itself anew. */
import type { Readiness } from './endpoint.ts'
import type { Page } from './http.ts'
import type { ServerMetrics } from './server-metrics.ts'

/** Seconds after which a browser asks again; rates are those since about then. */
const REFRESH = 5

/** What the rates are told from: the bytes and answers of an export, and when they were looked at (ms). */
interface Look {
  readonly at: number
  readonly totals: ReadonlyMap<string, Totals>
}

interface Totals {
  readonly read: number
  readonly written: number
  readonly requests: number
}

const NOTHING: Totals = { read: 0, written: 0, requests: 0 }

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
}

/** Clients choose the names of exports: nothing of them may be markup. */
const escaped = (text: string): string => text.replaceAll(/[&<>"']/g, sign => ENTITIES[sign] ?? '')

function bytes(value: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return `${value.toFixed(unit === 0 || value >= 100 ? 0 : 1)} ${units[unit]}`
}

const row = (cells: readonly string[], cell = 'td'): string =>
  `<tr>${cells.map(text => `<${cell}>${text}</${cell}>`).join('')}</tr>\n`

const STYLE =
  'body{font:15px/1.5 sans-serif;margin:2em auto;max-width:60em;padding:0 1em;color-scheme:light dark}' +
  'table{border-collapse:collapse;width:100%}th,td{padding:.2em .6em;text-align:right;border-bottom:1px solid #8884}' +
  'th:first-child,td:first-child{text-align:left;overflow-wrap:anywhere}'

const HEAD =
  '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">' +
  `<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">` +
  `<meta http-equiv="refresh" content="${REFRESH}"><meta name="viewport" content="width=device-width">` +
  `<title>ondemand-disk</title><style>${STYLE}</style></head>\n<body><h1>ondemand-disk</h1>\n`

/** Makes the page from what the server counts. `now`: the steady clock in ms. */
export function createStatusPage(
  metrics: ServerMetrics,
  readiness: () => Readiness,
  now: () => number = () => performance.now(),
): () => Page {
  let before: Look = { at: now(), totals: new Map() }
  let last = before

  const look = (): Look => {
    const totals = new Map<string, Totals>()
    for (const [name, meter] of metrics.exports) {
      let requests = 0
      for (const [, { seconds }] of meter.commands()) requests += seconds.count
      totals.set(name, { read: meter.readBytes, written: meter.writtenBytes, requests })
    }
    return { at: now(), totals }
  }

  function* body(): Generator<string> {
    const current = look()
    if (current.at - last.at >= (REFRESH - 1) * 1000) {
      before = last
      last = current
    }
    const seconds = Math.max(current.at - before.at, 1) / 1000
    const sum = (counts: Readonly<Record<string, number>>) => Object.values(counts).reduce((a, b) => a + b, 0)
    yield HEAD
    yield `<p>The server is ${readiness()}. ${metrics.connections} connections now, ${metrics.accepted} in all; ` +
      `${metrics.creations.made} disks made, ${metrics.creations.failed} not; ` +
      `${sum(metrics.refusals)} refusals.</p>\n`
    yield '<table>\n'
    yield row(
      ['Export', 'Connections', 'Read', 'Written', 'Read a second', 'Written a second', 'Requests a second'],
      'th',
    )
    for (const [name, meter] of metrics.exports) {
      const { read, written, requests } = current.totals.get(name) ?? NOTHING
      const earlier = before.totals.get(name) ?? NOTHING
      yield row([
        escaped(name === '' ? '(default)' : name),
        String(meter.connections),
        bytes(read),
        bytes(written),
        bytes((read - earlier.read) / seconds),
        bytes((written - earlier.written) / seconds),
        ((requests - earlier.requests) / seconds).toFixed(1),
      ])
    }
    yield '</table>\n<p>Every number: <a href="/metrics">/metrics</a></p>\n</body></html>\n'
  }

  return () => ({ status: 200, contentType: 'text/html; charset=utf-8', body: body() })
}
