/** The figures of the bench, one in a line, and which of them are not what they are to be. */

export interface Promised {
  readonly atLeast?: number
  readonly atMost?: number
}

export const failures: string[] = []

/** A figure, held against what is promised of it. */
export function report(what: string, value: number, unit: string, { atLeast, atMost }: Promised = {}): void {
  const isKept = value >= (atLeast ?? value) && value <= (atMost ?? value)
  const wanted =
    atLeast === undefined ? (atMost === undefined ? '' : `at most ${atMost}`) : `at least ${atLeast}`
  const digits = Math.abs(value) < 100 ? 1 : 0
  const figure = `${value.toFixed(digits).padStart(8)} ${unit.padEnd(10)}`
  process.stdout.write(`${what.padEnd(64)} ${figure} ${wanted}${isKept ? '' : '  NOT KEPT'}\n`)
  if (!isKept) failures.push(what)
}

/** A remark on the figures. */
export function remark(text: string): void {
  process.stdout.write(`${text}\n`)
}
