import { expect, test, vi } from 'vitest'
import type { DiskPool } from '../../crds/diskpool.ts'
import type { DiskSnapshot } from '../../crds/disksnapshot.ts'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { keyOf, ObjectStore } from '../kube/store.ts'
import { createPoolView, FRESH_MS } from './pool-view.ts'

const disk = (name: string, uid: string) =>
  ({ metadata: { namespace: 'ns', name, uid }, spec: { exportName: `${name}-export` } }) as OnDemandDisk

function pool(spec: object, generation = 1): DiskPool {
  const metadata = { namespace: 'ns', name: 'lab', generation }
  return { apiVersion: 'ondemanddisk.dev/v1alpha1', kind: 'DiskPool', metadata, spec } as DiskPool
}

function setUp() {
  const disks = new ObjectStore<OnDemandDisk>({ export: ({ spec }) => [spec.exportName] })
  const errors: string[] = []
  const added: string[] = []
  const log = {
    debug() {},
    info() {},
    warn() {},
    error: (_: unknown, text: string) => void errors.push(text),
  }
  const snapshots = new ObjectStore<DiskSnapshot>()
  const view = createPoolView({ disks, snapshots, log, onAdd: key => added.push(key) })
  const names = () => [...view.disks()].map(({ metadata }) => metadata.name)
  return { disks, view, names, errors, added }
}

test('A disk that has been made is known before the news of it comes, and once when they have come', () => {
  const { disks, view, names, added } = setUp()
  const made = disk('alice', 'u1')
  view.add(made)
  expect(added).toEqual(['ns/alice'])
  expect(view.disk('ns/alice')).toBe(made)
  expect(view.byExport('alice-export')).toBe(made)
  for (const event of disks.set(made, false)) view.diskChanged(event)
  expect(names()).toEqual(['alice'])
  for (const event of disks.delete(made)) view.diskChanged(event)
  expect(names()).toEqual([])
})

test('News of an older disk of the name do not make the new one unknown', () => {
  const { view, names } = setUp()
  view.add(disk('alice', 'new'))
  view.diskChanged({ type: 'deleted', object: disk('alice', 'old') })
  expect(names()).toEqual(['alice'])
})

test('A disk of which no news come is not believed in for ever', () => {
  vi.useFakeTimers({ toFake: ['performance'] })
  try {
    const { view, names } = setUp()
    view.add(disk('alice', 'u1'))
    vi.advanceTimersByTime(FRESH_MS - 1)
    view.add(disk('bob', 'u2'))
    expect(names()).toEqual(['alice', 'bob'])
    vi.advanceTimersByTime(1)
    expect(view.disk('ns/alice')).toBeUndefined()
    expect(view.byExport('alice-export')).toBeUndefined()
    expect(names()).toEqual(['bob'])
  } finally {
    vi.useRealTimers()
  }
})

test('One whose news came first is not taken', () => {
  const { disks, view, names } = setUp()
  disks.set(disk('alice', 'u1'), false)
  view.add(disk('alice', 'u1'))
  expect(names()).toEqual(['alice'])
  expect(view.disk(keyOf(disk('bob', 'u2')))).toBeUndefined()
})

test('A pool whose spec is wrong keeps its last good one, and one that is deleted is none', () => {
  const { view, errors } = setUp()
  const storage = { claimName: 'claim' }
  view.poolChanged({ type: 'added', object: pool({ storage, bad: true }), initial: true })
  expect(view.pool).toBeUndefined()
  view.poolChanged({ type: 'added', object: pool({ storage }), initial: true })
  view.poolChanged({ type: 'added', object: pool({ storage, bad: true }, 3), initial: false })
  expect(view.pool).toMatchObject({ metadata: { generation: 3 }, spec: { storage } })
  expect(errors).toHaveLength(2)
  view.poolChanged({ type: 'deleted', object: pool({ storage }) })
  expect(view.pool).toBeUndefined()
})
