import { expect, test } from 'vitest'
import { badSnapshots, goodSnapshots, snapshotTransitions } from './disksnapshot.cases.ts'
import { checkSnapshotTransition, parseDiskSnapshot } from './disksnapshot.ts'
import { invalid } from './test-invalid.ts'

const snapshot = (spec: unknown) => ({
  apiVersion: 'ondemanddisk.dev/v1alpha1',
  kind: 'DiskSnapshot',
  metadata: { name: 'snapshot' },
  spec,
})

test.each(goodSnapshots)('$title is valid', ({ spec }) => {
  expect(parseDiskSnapshot(snapshot(spec))).toEqual(snapshot(spec))
})

test.each(badSnapshots)('$title is refused at $field', ({ spec, field }) => {
  const error = invalid(() => parseDiskSnapshot(snapshot(spec)))
  expect([error.code, error.field]).toEqual(['InvalidSpec', field])
})

test('an unknown field is refused', () => {
  expect(invalid(() => parseDiskSnapshot(snapshot({ diskName: 'a', pool: 'b' }))).field).toBe('spec.pool')
})

test.each(snapshotTransitions)('$title', ({ before, after, field }) => {
  const change = () =>
    checkSnapshotTransition(parseDiskSnapshot(snapshot(before)), parseDiskSnapshot(snapshot(after)))
  if (field) expect(invalid(change).field).toBe(field)
  else change()
})
