import { expect, test } from 'vitest'
import type { DiskPool } from '../../crds/diskpool.ts'
import { type OnDemandDisk, parseOnDemandDisk } from '../../crds/ondemanddisk.ts'
import type { Pod } from '../kube/objects.ts'
import { ObjectStore } from '../kube/store.ts'
import { Fresh } from '../pool/fresh.ts'
import { DISK_INDEXERS, SNAPSHOT_INDEXERS, type World } from '../pool/world.ts'
import { ACCEPTED_ANNOTATION, BEGUN_ANNOTATION, diskJobName, FINALIZER, POOL_LABEL } from '../terms/names.ts'
import { observeDisk, planInPlace, type SeenDisk } from './observe.ts'
import { notePlace } from './places.ts'

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
  const counted = { disks: 0 }
  const byIndex = store.byIndex.bind(store)
  store.byIndex = (index, value) => {
    const found = byIndex(index, value)
    counted.disks += found.length
    return found
  }
  const world = {
    disks: store,
    jobs: new ObjectStore(),
    freshDisks: new Fresh(),
    freshJobs: new Fresh(),
    places: new Map(),
    starting: new Set(),
    snapshots: new ObjectStore(SNAPSHOT_INDEXERS),
    startingSnapshots: new Map(),
    refusedJobs: new Map(),
  } as unknown as World
  /** As the watch brings it. */
  const set = (each: OnDemandDisk) => store.set(each).forEach(event => void notePlace(world, event))
  const drop = (each: OnDemandDisk) => store.delete(each).forEach(event => void notePlace(world, event))
  for (const each of disks) set(each)
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
  return { world, starts, set, drop, counted }
}

test('Workers that plan before any of them has written do not give a place away twice', () => {
  const disks = NAMES.map(name => disk(name))
  // The youngest is the first that is known.
  const { set, starts } = setUp(disks.slice(2), { maxDisks: 1 })
  expect(starts(disks[2] as OnDemandDisk)).toBe(true)
  for (const each of disks.slice(0, 2)) set(each)
  expect(disks.slice(0, 2).map(starts)).toEqual([false, false])
})

test('Nor a name', () => {
  const [young, old] = [disk('young', 'same', 1), disk('old', 'same', 0)]
  const { set, starts } = setUp([young])
  expect(starts(young)).toBe(true)
  set(old)
  expect(starts(old)).toBe(false)
})

test('Who has written into the metadata that the disk is begun has no place by that, and who has a Job has one', () => {
  const [first, last] = [disk('first'), disk('last', 'last', 1)]
  const { metadata } = last
  const annotations = { ...metadata.annotations, [BEGUN_ANNOTATION]: 'true' }
  const begun = { ...last, metadata: { ...metadata, annotations } }
  expect([first, begun].map(setUp([first, begun], { maxDisks: 1 }).starts)).toEqual([true, false])
  const { world, starts } = setUp([first, begun], { maxDisks: 1 })
  const { apiVersion, kind } = last
  const ownerReferences = [{ apiVersion, kind, name: 'last', uid: metadata.uid ?? '' }]
  const job = { name: diskJobName(metadata.uid ?? ''), namespace: 'ns', uid: 'job', ownerReferences }
  world.freshJobs.note({ apiVersion: 'batch/v1', kind: 'Job', metadata: job })
  expect(starts(first)).toBe(false)
})

test('What was planned in vain gives its place back', () => {
  const disks = NAMES.map(name => disk(name))
  const { world, starts } = setUp(disks, { maxDisks: 1 })
  expect(disks.map(starts)).toEqual([true, false, false])
  world.starting.clear()
  expect(disks.map(starts)).toEqual([true, false, false])
})

test('Disks that come and are made one after the other are not all counted for each of them', () => {
  const { world, starts, set, drop, counted } = setUp([], { maxDisks: 900 })
  const all = Array.from({ length: 1000 }, (_, index) => disk(`d${String(index).padStart(4, '0')}`))
  const started = all.map(each => {
    set(each)
    const isStarted = starts(each)
    const { uid = '' } = each.metadata
    if (isStarted) set({ ...each, status: { attempts: 1, size: 2 ** 20 } })
    world.starting.delete(uid)
    return isStarted
  })
  expect(started.filter(Boolean)).toHaveLength(900)
  expect(started.lastIndexOf(true)).toBe(899)
  // Who asks for a name looks at those who want the same: one each. All of the pool are looked at once.
  expect(counted.disks).toBeLessThan(2 * all.length)
  drop(all[0] as OnDemandDisk)
  expect(all.slice(900).map(starts).filter(Boolean)).toHaveLength(1)
  expect(counted.disks).toBeLessThan(4 * all.length)
})

// On Kubernetes 1.20: the finalizer went at once, and the file stayed in the pool.
test('A disk that names another pool since is let go of by the pool that has its data', async () => {
  const made = disk('a')
  const deleted = {
    ...made,
    metadata: { ...made.metadata, deletionTimestamp: '2026-01-02T00:00:00Z' },
    spec: { ...made.spec, poolName: 'nowhere' },
    status: { attempts: 1 },
  }
  const { world, set } = setUp([])
  set(deleted)
  const pools = new ObjectStore<DiskPool>()
  const spec = { storage: { claimName: 'claim' } }
  const metadata = { name: 'lab', namespace: 'ns' }
  pools.set({ apiVersion: made.apiVersion, kind: 'DiskPool', metadata, spec } as unknown as DiskPool)
  const pods = new ObjectStore<Pod>({ owner: () => [] })
  const pod = { metadata: { name: 'lab-0', namespace: 'ns' }, spec: { nodeName: 'n' } }
  pods.set({ apiVersion: 'v1', kind: 'Pod', ...pod } as Pod)
  const seen = await observeDisk(
    {
      ...world,
      ...{ pools, pods, claims: new ObjectStore(), client: { find: async () => undefined } },
      isNamespaceTerminating: async () => false,
      now: Date.now,
    } as unknown as World,
    'ns/a',
  )
  expect(seen?.pool).toMatchObject({ state: 'there', lost: undefined })
})
