/**
 * The text format of Prometheus, version 0.0.4: metric families in, text out, piece by piece, so that a page of
 * many megabytes never has to be in memory nor holds up the event loop.
 */
import { Histogram } from './histogram.ts'

/** One line, or those of one histogram. */
export interface Sample {
  /** Values of the family's labels, in their order. */
  readonly labels: readonly string[]
  readonly value: number | Histogram
}

/** Metrics of one name. */
export interface Family {
  readonly name: string
  readonly type: 'counter' | 'gauge' | 'histogram'
  readonly help: string
  /** Names of the labels. */
  readonly labels: readonly string[]
  /** Asked at scrape time; must not wait for anything. */
  samples(): Iterable<Sample>
}

/** What `Content-Type` says of the text. */
export const EXPOSITION_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

const NAME = /^[a-z_][a-z0-9_]*$/

/** Refuses families that no scraper could read, or that have no place beside each other. Throws TypeError. */
export function checkFamilies(families: readonly Family[]): void {
  const seen = new Set<string>()
  for (const { name, type, labels } of families) {
    const flaw = [name, ...labels].find(word => !NAME.test(word))
    if (flaw !== undefined) throw new TypeError(`${flaw} is no name for a metric or a label.`)
    if (seen.has(name)) throw new TypeError(`There are two metrics of the name ${name}.`)
    if ((type === 'counter') !== name.endsWith('_total'))
      throw new TypeError(`${name}: only counters end in _total.`)
    if (labels.includes('le')) throw new TypeError(`${name}: the label le is for buckets.`)
    seen.add(name)
  }
}

/** The page: one piece of text for the head of a family and one for each sample. */
export function* exposition(families: Iterable<Family>): Generator<string> {
  for (const family of families) {
    const { name, help, type } = family
    yield `# HELP ${name} ${escapeHelp(help)}\n# TYPE ${name} ${type}\n`
    for (const sample of family.samples()) yield lines(family, sample)
  }
}

function lines({ name, labels: names }: Family, { labels, value }: Sample): string {
  const pairs = names.map((label, index) => `${label}="${escapeLabel(labels[index] ?? '')}"`)
  if (!(value instanceof Histogram)) return `${name}${braced(pairs)} ${formatNumber(value)}\n`
  const counts = value.cumulative()
  const total = counts.at(-1) ?? 0
  const buckets = counts.map((count, index) => {
    const bound = `le="${formatNumber(value.bounds[index] ?? Infinity)}"`
    return `${name}_bucket${braced([...pairs, bound])} ${count}\n`
  })
  const tail = braced(pairs)
  return `${buckets.join('')}${name}_sum${tail} ${formatNumber(value.sum)}\n${name}_count${tail} ${total}\n`
}

const braced = (pairs: readonly string[]) => (pairs.length === 0 ? '' : `{${pairs.join(',')}}`)

const escapeHelp = (text: string) => text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')

/** A lone surrogate cannot be told from another once it is UTF-8: the page stays valid. */
const escapeLabel = (text: string) => escapeHelp(text.toWellFormed()).replaceAll('"', '\\"')

function formatNumber(value: number): string {
  if (value === Infinity) return '+Inf'
  if (value === -Infinity) return '-Inf'
  return String(value)
}
