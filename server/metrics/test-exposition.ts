/**
 * Reads the text format of Prometheus strictly, line by line, from its specification and without the code that
 * writes it; for tests.
 */

/** A line with a value. */
export interface ParsedSample {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

/** What stands under one `# TYPE`. */
export interface ParsedFamily {
  readonly name: string
  readonly type: string
  readonly help: string
  readonly samples: readonly ParsedSample[]
}

const HEAD = /^# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)$/s
const TYPE = /^# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge|histogram)$/
const SAMPLE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/s
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(,|$)/y
const VALUE = /^(?:[+-]?Inf|NaN|[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)$/

function labelsOf(text: string): Record<string, string> {
  const labels: Record<string, string> = {}
  LABEL.lastIndex = 0
  for (let end = 0; end < text.length; end = LABEL.lastIndex) {
    const match = LABEL.exec(text)
    if (match === null) throw new Error(`Bad labels: ${text}`)
    const [, name = '', value = ''] = match
    if (name in labels) throw new Error(`The label ${name} stands there twice: ${text}`)
    labels[name] = value.replace(/\\(.)/gs, (_, escaped) => (escaped === 'n' ? '\n' : escaped))
  }
  return labels
}

function numberOf(text: string): number {
  if (!VALUE.test(text)) throw new Error(`Bad value: ${text}`)
  return Number(text.replace('Inf', 'Infinity'))
}

function sampleOf(line: string): ParsedSample {
  const match = SAMPLE.exec(line)
  if (match === null) throw new Error(`Bad line: ${line}`)
  const [, name = '', labels = '', value = ''] = match
  return { name, labels: labelsOf(labels), value: numberOf(value) }
}

/** Series of a histogram without `le`, with what was seen of it. */
function checkHistogram({ name, samples }: ParsedFamily): void {
  const series = new Map<string, { buckets: ParsedSample[]; sum?: number; count?: number }>()
  for (const sample of samples) {
    const { le, ...rest } = sample.labels
    const key = JSON.stringify(rest)
    const found = series.get(key) ?? { buckets: [] }
    series.set(key, found)
    if (sample.name === `${name}_bucket` && le !== undefined) found.buckets.push(sample)
    else if (sample.name === `${name}_sum`) found.sum = sample.value
    else if (sample.name === `${name}_count`) found.count = sample.value
    else throw new Error(`${sample.name} does not belong to the histogram ${name}`)
  }
  for (const [key, { buckets, sum, count }] of series) {
    const bounds = buckets.map(({ labels }) => numberOf(labels.le ?? ''))
    const values = buckets.map(({ value }) => value)
    const isAscending = (list: number[], strictly: boolean) =>
      list.every(
        (one, index) =>
          index === 0 || one > Number(list[index - 1]) || (!strictly && one === list[index - 1]),
      )
    if (bounds.at(-1) !== Infinity || !isAscending(bounds, true))
      throw new Error(`Bad bounds of ${name} ${key}`)
    if (!isAscending(values, false)) throw new Error(`The buckets of ${name} ${key} do not add up`)
    if (count !== values.at(-1) || sum === undefined)
      throw new Error(`${name} ${key} has no sum or a wrong count`)
  }
}

/** Parses a page. @throws Error for the first thing that is wrong */
export function parseExposition(text: string): Map<string, ParsedFamily> {
  if (!text.endsWith('\n')) throw new Error('The last line does not end')
  const families = new Map<string, ParsedFamily & { samples: ParsedSample[] }>()
  let current: (ParsedFamily & { samples: ParsedSample[] }) | undefined
  let head: { name: string; help: string } | undefined
  const seen = new Set<string>()
  for (const line of text.slice(0, -1).split('\n')) {
    const [, helpName, help = ''] = HEAD.exec(line) ?? []
    const [, typeName, type = ''] = TYPE.exec(line) ?? []
    if (helpName !== undefined) {
      head = { name: helpName, help }
    } else if (typeName !== undefined) {
      if (head?.name !== typeName) throw new Error(`${typeName} has no HELP before its TYPE`)
      if (families.has(typeName)) throw new Error(`${typeName} stands there twice`)
      current = { name: typeName, type, help: head.help, samples: [] }
      families.set(typeName, current)
    } else {
      const sample = sampleOf(line)
      const key = JSON.stringify([sample.name, Object.entries(sample.labels).sort()])
      if (seen.has(key)) throw new Error(`Twice: ${line}`)
      seen.add(key)
      if (current === undefined) throw new Error(`A sample without TYPE: ${line}`)
      const isOwn =
        sample.name === current.name || (current.type === 'histogram' && sample.name.startsWith(current.name))
      if (!isOwn) throw new Error(`${line} stands under ${current.name}`)
      if (current.type === 'counter' && !(sample.value >= 0)) throw new Error(`A counter below 0: ${line}`)
      current.samples.push(sample)
    }
  }
  for (const family of families.values()) if (family.type === 'histogram') checkHistogram(family)
  return families
}

/** The value with these labels; fails if there is none or more than one. `name` is that of the line. */
export function sampleValue(
  families: Map<string, ParsedFamily>,
  name: string,
  labels: Readonly<Record<string, string>> = {},
): number {
  const found = [...families.values()]
    .flatMap(({ samples }) => samples)
    .filter(sample => sample.name === name)
    .filter(sample => Object.entries(labels).every(([label, value]) => sample.labels[label] === value))
  if (found.length !== 1 || found[0] === undefined)
    throw new Error(`There are ${found.length} lines of ${name} ${JSON.stringify(labels)}`)
  return found[0].value
}
