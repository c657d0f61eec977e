import { expect, test } from 'vitest'
import type { DiskPool } from '../../crds/diskpool.ts'
import { type OnDemandDisk, parseOnDemandDisk } from '../../crds/ondemanddisk.ts'
import { ObjectStore } from '../kube/store.ts'
import { Fresh } from '../pool/fresh.ts'
import { DISK_INDEXERS, SNAPSHOT_INDEXERS, type World } from '../pool/world.ts'
import { ACCEPTED_ANNOTATION, BEGUN_ANNOTATION, diskJobName, FINALIZER, POOL_LABEL } from '../terms/names.ts'
import { planInPlace, type SeenDisk } from './observe.ts'

const NAMES = ['a', 'b', 'c']

function disk(name: string, exportName = name, second = 0): OnDemandDisk {
  const accepted = JSON.stringify({
    poolName: 'lab',
    exportName,
    mode: 'Persistent',
    filesystem: { type: 'ext4' },
  })
  return {
    apiVersion: 'ondemanddisk.dev/v1alpha1',
    kind: 'OnDemandDisk',
    metadata: {
      ...{ name, namespace: 'ns', uid: `uid-${name}`, creationTimestamp: `2026-01-01T00:00:0${second}Z` },
      ...{
        finalizers: [FINALIZER],
        labels: { [POOL_LABEL]: 'lab' },
        annotations: { [ACCEPTED_ANNOTATION]: accepted },
      },
    },
    spec: { poolName: 'lab', exportName, size: 2 ** 20 },
  } as unknown as OnDemandDisk
}

function setUp(disks: readonly OnDemandDisk[], onDemand: object = {}) {
  const store = new ObjectStore<OnDemandDisk>(DISK_INDEXERS)
  for (const each of disks) store.set(each)
  const world = {
    disks: store,
    jobs: new ObjectStore(),
    freshDisks: new Fresh(),
    freshJobs: new Fresh(),
    starting: new Set(),
    snapshots: new ObjectStore(SNAPSHOT_INDEXERS),
    startingSnapshots: new Map(),
  } as unknown as World
  const validPool = { spec: { onDemand } } as DiskPool
  const starts = (each: OnDemandDisk) => {
    const seen = { disk: each, parsed: parseOnDemandDisk(each), validPool, now: 0 } as unknown as SeenDisk
    const plan = planInPlace(world, {
      ...seen,
      pool: { state: 'there', isReachable: true },
      job: { state: 'none' },
    })
    return plan.actions.some(({ kind }) => kind === 'start job')
  }
  return { store, world, starts }
}

test('Workers that plan before any of them has written do not give a place away twice', () => {
  const disks = NAMES.map(name => disk(name))
  // The youngest is the first that is known.
  const { store, starts } = setUp(disks.slice(2), { maxDisks: 1 })
  expect(starts(disks[2] as OnDemandDisk)).toBe(true)
  for (const each of disks.slice(0, 2)) store.set(each)
  expect(disks.slice(0, 2).map(starts)).toEqual([false, false])
})

test('Nor a name', () => {
  const [young, old] = [disk('young', 'same', 1), disk('old', 'same', 0)]
  const { store, starts } = setUp([young])
  expect(starts(young)).toBe(true)
  store.set(old)
  expect(starts(old)).toBe(false)
})

test('Who has written into the metadata that the disk is begun has no place by that, and who has a Job has one', () => {
  const disks = NAMES.map(name => disk(name))
  const { world, starts } = setUp(disks, { maxDisks: 1 })
  const [, , last] = disks as [OnDemandDisk, OnDemandDisk, OnDemandDisk]
  const { metadata } = last
  const annotations = { ...metadata.annotations, [BEGUN_ANNOTATION]: 'true' }
  world.freshDisks.note({ ...last, metadata: { ...metadata, annotations } })
  expect(starts({ ...last, metadata: { ...metadata, annotations } })).toBe(false)
  const ownerReferences = [{ ...last, name: 'c', uid: metadata.uid ?? '' }]
  const job = { name: diskJobName(metadata.uid ?? ''), namespace: 'ns', uid: 'job', ownerReferences }
  world.freshJobs.note({ apiVersion: 'batch/v1', kind: 'Job', metadata: job })
  expect(disks.slice(0, 2).map(starts)).toEqual([false, false])
})

test('What was planned in vain gives its place back', () => {
  const disks = NAMES.map(name => disk(name))
  const { world, starts } = setUp(disks, { maxDisks: 1 })
  expect(disks.map(starts)).toEqual([true, false, false])
  world.starting.clear()
  expect(disks.map(starts)).toEqual([true, false, false])
})
