import { expect, test } from 'vitest'
import type { DiskSnapshot } from '../../crds/disksnapshot.ts'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { viewDisk, viewSnapshot } from './source.ts'

test.each([
  [undefined, 'missing'],
  [{ metadata: { deletionTimestamp: 'x' }, spec: {} }, 'not ready'],
  [{ metadata: {}, spec: { mode: 'Temporary' } }, 'not ready'],
  [{ metadata: {}, spec: { upstream: { uri: 'nbd://a' } } }, 'not ready'],
  [{ metadata: {}, spec: {} }, 'not ready'],
  [{ metadata: {}, spec: {}, status: { conditions: [{ type: 'Provisioned', status: 'True' }] } }, 'ready'],
])('a disk %j is %s to what wants to be a copy of it', (disk, state) => {
  expect(viewDisk(disk as OnDemandDisk | undefined, 1).state).toBe(state)
})

test.each([
  [undefined, 'missing'],
  [{ metadata: { deletionTimestamp: 'x' }, status: { readyToUse: true } }, 'not ready'],
  [{ metadata: {}, status: { readyToUse: false } }, 'not ready'],
  [{ metadata: {} }, 'not ready'],
  [{ metadata: {}, status: { readyToUse: true } }, 'ready'],
])('so is a snapshot %j: %s', (snapshot, state) => {
  expect(viewSnapshot(snapshot as DiskSnapshot | undefined).state).toBe(state)
})
