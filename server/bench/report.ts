/** The table: for people who watch, and for results.md. */
import type { Measurement, Row } from './row.ts'
import { BEFORE, type ServerName } from './servers.ts'

/** All measurements of a row, by server, in the order of the rounds. */
export type Rounds = ReadonlyMap<ServerName, readonly Measurement[]>

export interface Spread {
  readonly median: number
  readonly min: number
  readonly max: number
}

/** Middle value, the lower one of two. */
export function spreadOf(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b)
  const at = (index: number) => sorted[index] ?? Number.NaN
  return { median: at((sorted.length - 1) >> 1), min: at(0), max: at(sorted.length - 1) }
}

export interface Verdict {
  /** Our median divided by the best peer's. */
  readonly ratio: number
  readonly goal: number
  readonly isReached: boolean
}

/** How our median compares with the best of the others'; undefined where one has none. */
function verdictOf(
  rounds: Rounds,
  ours: ServerName,
  pick: (measurement: Measurement) => number | undefined,
  better: Row['better'],
  goal: number,
): Verdict | undefined {
  const medianOf = (measurements: readonly Measurement[]) =>
    spreadOf(measurements.map(pick).filter(value => value !== undefined)).median
  const peers = [...rounds]
    .filter(([name]) => name !== ours && name !== BEFORE)
    .map(([, measurements]) => medianOf(measurements))
  const best = better === 'more' ? Math.max(...peers) : Math.min(...peers)
  const ratio = medianOf(rounds.get(ours) ?? []) / best
  if (!Number.isFinite(ratio)) return undefined
  return { ratio, goal, isReached: better === 'more' ? ratio >= goal : ratio <= goal }
}

const OURS: ServerName = 'ondemand-disk'

export interface Verdicts {
  readonly value: Verdict | undefined
  readonly cpu: Verdict | undefined
}

/** How a row ended. */
export function verdictsOf(row: Row, rounds: Rounds): Verdicts {
  return {
    value: verdictOf(rounds, OURS, ({ value }) => value, row.better, row.goal),
    cpu: verdictOf(rounds, OURS, ({ cpu }) => cpu, 'less', row.cpuGoal ?? Number.POSITIVE_INFINITY),
  }
}

const shown = (value: number) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3))

function spreadText(values: readonly number[]): string {
  const { median, min, max } = spreadOf(values)
  return `${shown(median)} (${shown(min)}–${shown(max)})`
}

const sign = { more: '>=', less: '<=' } as const

function verdictText(verdict: Verdict | undefined, better: Row['better']): string {
  if (verdict === undefined) return '–'
  const ratio = verdict.ratio.toFixed(2)
  if (!Number.isFinite(verdict.goal)) return ratio
  return `${ratio} (${sign[better]} ${verdict.goal}) ${verdict.isReached ? 'yes' : '**no**'}`
}

const defined = (values: readonly (number | undefined)[]) => values.filter(value => value !== undefined)

/** One row for people who watch. */
export function rowText(row: Row, rounds: Rounds): string {
  const lines = [...rounds].map(([name, measurements]) => {
    const cpu = defined(measurements.map(one => one.cpu))
    const busy = defined(measurements.map(one => one.clientBusy))
    const value = spreadText(measurements.map(one => one.value))
    return (
      `  ${name.padEnd(16)} ${value.padEnd(28)} ${row.unit}` +
      (cpu.length > 0 ? `  cpu ${spreadText(cpu)} us/request` : '') +
      (busy.length > 0 ? `  client ${spreadOf(busy).median.toFixed(0)} %` : '')
    )
  })
  const { value, cpu } = verdictsOf(row, rounds)
  const ratios = `  ratio ${verdictText(value, row.better)}, cpu ${verdictText(cpu, 'less')}`
  return `${row.name}: ${row.how}\n${lines.join('\n')}\n${ratios.replaceAll('**', '')}\n`
}

const HEAD = `\
| row | unit | ondemand-disk | nbdkit | qemu-nbd | nbd-server | ratio (goal) | CPU ratio (goal) | client | rounds | run before |
|---|---|---|---|---|---|---|---|---|---|---|
`

/** The whole table in Markdown. `how` long the rounds were: `5 x 1 s`. */
export function tableText(results: readonly { row: Row; rounds: Rounds }[], how: string): string {
  const lines = results.map(({ row, rounds }) => {
    const cell = (name: ServerName) => {
      const measurements = rounds.get(name)
      if (measurements === undefined) return ''
      const cpu = defined(measurements.map(one => one.cpu))
      return (
        spreadText(measurements.map(one => one.value)) +
        (cpu.length > 0 ? `; ${shown(spreadOf(cpu).median)} us` : '')
      )
    }
    const nbdkit = cell('nbdkit file') || cell('nbdkit ondemand')
    const busy = defined([...rounds.values()].flatMap(all => all.map(one => one.clientBusy)))
    const { value, cpu } = verdictsOf(row, rounds)
    const cells = [
      `${row.name}<br>${row.how}`,
      row.unit,
      ...[cell(OURS), nbdkit, cell('qemu-nbd'), cell('nbd-server')],
      verdictText(value, row.better),
      verdictText(cpu, 'less'),
      busy.length > 0 ? `${spreadOf(busy).median.toFixed(0)} %` : '',
      how,
      '',
    ]
    return `| ${cells.join(' | ')} |\n`
  })
  return HEAD + lines.join('')
}

const [RATIO, CPU_RATIO, RUN_BEFORE] = [6, 7, 10]

/** Cells of a table's rows, by the rows' names. */
function cellsOf(table: string): Map<string, string[]> {
  return new Map(
    [...table.matchAll(/^\| ([\w-]+)<br>.*(?= \|$)/gm)].map(([line, name = '']) => [
      name,
      line.slice(2).split(' | '),
    ]),
  )
}

/**
 * Takes the rows of `latest` over into a table of before, or a file that has one. A row that both have tells in its
 * last cell the ratios that it had before: how well two runs agree. Rows that are not in `names` are left out.
 */
export function mergedTable(former: string, latest: string, names: readonly string[]): string {
  const [old, fresh] = [cellsOf(former), cellsOf(latest)]
  const lines = names.flatMap(name => {
    const [before, now] = [old.get(name), fresh.get(name)]
    if (now === undefined) return before === undefined ? [] : [before]
    const ratios = [before?.[RATIO], before?.[CPU_RATIO]].map(text => /^[\d.]+/.exec(text ?? '')?.[0])
    if (ratios[0] !== undefined)
      now[RUN_BEFORE] = `${ratios[0]}${ratios[1] === undefined ? '' : `; CPU ${ratios[1]}`}`
    return [now]
  })
  return HEAD + lines.map(cells => `| ${cells.join(' | ')} |\n`).join('')
}
