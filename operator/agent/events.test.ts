import { expect, test } from 'vitest'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { eventsOf, refusalEvent } from './events.ts'

const disk = (...conditions: object[]) =>
  ({ metadata: { name: 'a' }, spec: {}, status: { conditions } }) as unknown as OnDemandDisk

const missing = { type: 'Exported', status: 'False', reason: 'DataMissing', message: 'Gone.' } as const
const serving = { type: 'Exported', status: 'True', reason: 'Serving', message: 'Clients can.' } as const

test('What changes for the worse is told once', () => {
  expect(eventsOf(disk(serving), [missing])).toEqual([
    { type: 'Warning', reason: 'DataMissing', message: 'Gone.' },
  ])
  expect(eventsOf(disk(missing), [missing])).toEqual([])
})

test('What is as it should be is no event', () => {
  expect(eventsOf(disk(), [serving])).toEqual([])
  expect(eventsOf(disk(missing), [serving])).toEqual([])
})

test('A spare that became a disk is told, the latch beside it is not', () => {
  const formatted = { type: 'Formatted', status: 'True', reason: 'Formatted', message: 'x' } as const
  const taken = { type: 'Provisioned', status: 'True', reason: 'SpareTaken', message: 'Of a spare.' } as const
  expect(eventsOf(disk(), [formatted, taken])).toEqual([
    { type: 'Normal', reason: 'SpareTaken', message: 'Of a spare.' },
  ])
})

test.for([
  ['10.0.0.7:41234', '10.0.0.7'],
  ['[fd00::7]:41234', 'fd00::7'],
  ['unix:', 'unix'],
])('The client %s that was refused is %s', ([client = '', address]) => {
  const refusal = { client, reason: 'access', message: 'No.', at: '2026-01-01T00:00:00Z' } as const
  expect(refusalEvent(refusal)).toEqual({
    type: 'Warning',
    reason: 'ClientRefused',
    message: `The client ${address} was refused: No.`,
  })
})
