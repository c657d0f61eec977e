import { describe, expect, test } from 'vitest'
import { mergedTable, rowText, spreadOf, tableText, verdictsOf } from './report.ts'
import type { Measurement } from './row.ts'
import { ROWS } from './rows.ts'
import type { ServerName } from './servers.ts'

const roundsOf = (values: Partial<Record<ServerName, readonly Measurement[]>>) =>
  new Map(Object.entries(values)) as Map<ServerName, readonly Measurement[]>

const rowOf = (name: string) => {
  const row = ROWS.find(one => one.name === name)
  if (row === undefined) throw new Error(`There is no row ${name}.`)
  return row
}

describe('The table', () => {
  const rounds = roundsOf({
    'ondemand-disk': [
      { value: 90, cpu: 9 },
      { value: 130, cpu: 7 },
      { value: 200, cpu: 8 },
    ],
    'nbdkit file': [
      { value: 100, cpu: 16 },
      { value: 90, cpu: 12 },
      { value: 500, cpu: 10 },
    ],
    'qemu-nbd': [{ value: 40, cpu: 20 }],
  })

  test('compares medians, not means or extremes, with the best peer', () => {
    expect(spreadOf([5, 1, 100, 3, 4])).toEqual({ median: 4, min: 1, max: 100 })
    const { value, cpu } = verdictsOf(rowOf('randread-4k-qd16'), rounds)
    expect(value).toEqual({ ratio: 1.3, goal: 1.3, isReached: true })
    expect(cpu).toMatchObject({ ratio: 8 / 12, goal: 0.7, isReached: true })
  })

  test('turns the comparison round where less is better', () => {
    const { value } = verdictsOf(rowOf('p99-beside-flushes'), rounds)
    // The best peer is the one with the least.
    expect(value).toMatchObject({ ratio: 130 / 40, isReached: false })
  })

  test('says what was missed', () => {
    const row = rowOf('p99-beside-flushes')
    expect(rowText(row, rounds)).toContain('ratio 3.25 (<= 1) no')
    expect(tableText([{ row, rounds }], '3 x 1 s')).toContain('3.25 (<= 1) **no**')
  })

  test('keeps the rows that were not measured anew, and the ratios of those that were', () => {
    const [depth, flushes] = [rowOf('randread-4k-qd16'), rowOf('p99-beside-flushes')]
    const names = ['randread-4k-qd16', 'p99-beside-flushes']
    const former = tableText([{ row: flushes, rounds }], '5 x 1 s')
    const slower = roundsOf({
      'ondemand-disk': [{ value: 50, cpu: 5 }],
      'nbdkit file': [{ value: 100, cpu: 10 }],
    })
    const first = mergedTable(`# Title\n\n${former}`, tableText([{ row: depth, rounds }], '3 x 1 s'), names)
    expect(first).toBe(
      tableText(
        [
          { row: depth, rounds },
          { row: flushes, rounds },
        ],
        'x',
      )
        .replace('| x', '| 3 x 1 s')
        .replace('| x', '| 5 x 1 s'),
    )
    const second = mergedTable(first, tableText([{ row: depth, rounds: slower }], '1 x 1 s'), names)
    expect(second).toContain('| 1 x 1 s | 1.30; CPU 0.67 |')
    expect(second).toContain('3.25 (<= 1) **no**')
    // Rows that there are no longer.
    expect(mergedTable(second, '', ['p99-beside-flushes'])).toBe(former)
  })

  test('has no two rows of one name', () => {
    expect(new Set(ROWS.map(({ name }) => name)).size).toBe(ROWS.length)
  })
})
