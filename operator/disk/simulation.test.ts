/**
 * The reconciler in a cluster where everything that can happen happens between any two of its requests: it crashes,
 * two of them are at work, what they know is old, Pods are killed, disks are deleted and made anew.
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { conditionOf } from '../kube/conditions.ts'
import { KubeError } from '../kube/kube-error.ts'
import type { Job, KubeObject, PersistentVolumeClaim, Pod } from '../kube/objects.ts'
import { keyOf, ObjectStore } from '../kube/store.ts'
import { Fresh } from '../pool/fresh.ts'
import {
  DISK_INDEXERS,
  DISKS,
  POD_INDEXERS,
  POOL_INDEXERS,
  SNAPSHOT_INDEXERS,
  type World,
} from '../pool/world.ts'
import { actOnDisk } from './act.ts'
import { observeDisk, planInPlace } from './observe.ts'
import { type Change, TestCluster } from './test-cluster.ts'

const NAMESPACE = 'ns'
const NAMES = ['alice', 'bob', 'carol']
/** SIMULATION_SECONDS=600 looks for what the same short run each time does not find. */
const seconds = Number(process.env.SIMULATION_SECONDS ?? 0)
const LIMITS = {
  ...(seconds > 0 ? { numRuns: 1_000_000 } : { numRuns: 150, seed: 1 }),
  interruptAfterTimeLimit: seconds > 0 ? seconds * 1000 : 20_000,
}

const SETTINGS = { image: 'x', agentClusterRole: 'agent' }

class Crash extends Error {}

const name = fc.nat(NAMES.length - 1)
/** How many of the last changes are not known yet. */
const behind = fc.oneof(
  { weight: 3, arbitrary: fc.constant(0) },
  { weight: 2, arbitrary: fc.integer({ min: 1, max: 12 }) },
)
const kind = <const Kind extends string>(...kinds: Kind[]) => fc.constantFrom(...kinds)

const step = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      kind: kind('reconcile'),
      operator: fc.nat(1),
      name,
      disksBehind: behind,
      jobsBehind: behind,
      what: kind('nothing', 'nothing', 'crash', 'pause'),
      /** Before or after which request it dies, or stands still while so many other steps are taken. */
      at: fc.nat(7),
      steps: fc.integer({ min: 1, max: 12 }),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      kind: kind('jobs'),
      end: kind('succeeds', 'succeeds', 'succeeds', 'fails', 'is killed', 'is killed when all is done'),
    }),
  },
  { weight: 4, arbitrary: fc.record({ kind: kind('garbage', 'agent') }) },
  { weight: 3, arbitrary: fc.record({ kind: kind('create', 'delete', 'grow', 'hold', 'lose file'), name }) },
  { weight: 1, arbitrary: fc.record({ kind: kind('restart'), operator: fc.nat(1), behind }) },
  { weight: 1, arbitrary: fc.record({ kind: kind('time'), seconds: fc.constantFrom(1, 15, 700) }) },
)
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never

/** One of two operators: what it knows, from streams that are behind by themselves. */
class Operator {
  readonly disks = new ObjectStore<OnDemandDisk>(DISK_INDEXERS)
  readonly jobs = new ObjectStore<Job>()
  readonly freshDisks = new Fresh<OnDemandDisk>()
  readonly freshJobs = new Fresh<Job>()
  readonly #cluster: TestCluster
  readonly #at = { ondemanddisks: 0, jobs: 0 }
  readonly #starting = new Set<string>()

  constructor(cluster: TestCluster) {
    this.#cluster = cluster
  }

  /** Takes the changes of a kind up to the last few of the world, each of them twice. */
  hear(plural: 'ondemanddisks' | 'jobs', behind = 0): void {
    const { changes } = this.#cluster
    const end = changes.length - behind
    for (let at = this.#at[plural]; at < end; at++) {
      const change = changes[at]
      if (change?.plural !== plural) continue
      for (let again = 0; again < 2; again++) this.#take(change)
    }
    this.#at[plural] = Math.max(this.#at[plural], end)
  }

  #take({ plural, type, object }: Change): void {
    if (plural === 'jobs') {
      const job = object as Job
      for (const event of type === 'set' ? this.jobs.set(job) : this.jobs.delete(job))
        this.freshJobs.seen(event)
    } else {
      const disk = object as unknown as OnDemandDisk
      for (const event of type === 'set' ? this.disks.set(disk) : this.disks.delete(disk))
        this.freshDisks.seen(event)
    }
  }

  world(onCall?: (when: 'before' | 'after') => Promise<void>): World {
    const cluster = this.#cluster
    const objects = <T extends KubeObject>(...list: unknown[]) => {
      const store = new ObjectStore<T>({ ...(POD_INDEXERS as object), ...(POOL_INDEXERS as object) })
      for (const object of list) store.set(object as T)
      return store
    }
    const none = objects<KubeObject>()
    return {
      client: cluster.client(onCall),
      ...{ disks: this.disks, jobs: this.jobs, freshDisks: this.freshDisks, freshJobs: this.freshJobs },
      pools: objects(POOL),
      pods: objects<Pod>(SERVER),
      claims: objects<PersistentVolumeClaim>(CLAIM),
      parts: { serviceAccount: none, roleBinding: none, service: none, networkPolicy: none, server: none },
      freshPools: new Fresh(),
      snapshots: new ObjectStore(SNAPSHOT_INDEXERS),
      freshSnapshots: new Fresh(),
      places: new Map(),
      starting: this.#starting,
      startingSnapshots: new Map(),
      refusedJobs: new Map(),
      isNamespaceTerminating: async () => false,
      now: () => cluster.now,
    }
  }

  async reconcile(key: string, onCall?: (when: 'before' | 'after') => Promise<void>): Promise<void> {
    try {
      const world = this.world(onCall)
      const seen = await observeDisk(world, key)
      if (!seen) return
      await actOnDisk(
        { world, events: { record() {} }, settings: SETTINGS },
        seen,
        planInPlace(world, seen).actions,
      )
    } catch (error) {
      // As the work queue does: it comes back.
      if (!(error instanceof KubeError) && !(error instanceof Crash)) throw error
    } finally {
      this.#starting.clear()
    }
  }
}

const POOL = {
  apiVersion: 'ondemanddisk.dev/v1alpha1',
  kind: 'DiskPool',
  metadata: { namespace: NAMESPACE, name: 'lab', uid: 'pool' },
  spec: { storage: { claimName: 'claim' } },
}
const CLAIM = {
  apiVersion: 'v1',
  kind: 'PersistentVolumeClaim',
  metadata: { namespace: NAMESPACE, name: 'claim', uid: 'claim' },
}
const SERVER = {
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { namespace: NAMESPACE, name: 'lab-0', uid: 'pod' },
  spec: { nodeName: 'node' },
}

class Simulation {
  readonly cluster = new TestCluster()
  readonly operators = [new Operator(this.cluster), new Operator(this.cluster)]
  /** Uids whose file somebody has removed. */
  readonly lost = new Set<string>()
  readonly #left: Step[]
  readonly #latched = new Set<string>()
  #checked = 0

  constructor(steps: readonly Step[]) {
    this.#left = [...steps]
  }

  async run(): Promise<void> {
    while (await this.#next());
  }

  async #next(): Promise<boolean> {
    const next = this.#left.shift()
    if (!next) return false
    await this.#take(next)
    this.check()
    return true
  }

  async #take(next: Step): Promise<void> {
    const { cluster } = this
    switch (next.kind) {
      case 'reconcile':
        return await this.#reconcile(next)
      case 'jobs':
        return void cluster.stepJobs(next.end)
      case 'garbage':
        return void cluster.stepGarbage()
      case 'agent':
        return void (await cluster.stepAgent())
      case 'restart':
        this.operators[next.operator] = this.#restarted(next.behind)
        return
      case 'time':
        cluster.now += next.seconds * 1000
        return
      default:
        return await this.#use(next.kind, NAMES[next.name] ?? '')
    }
  }

  /** It lists what there is, or was a moment ago. */
  #restarted(behind: number): Operator {
    const operator = new Operator(this.cluster)
    for (const plural of ['ondemanddisks', 'jobs'] as const) operator.hear(plural, behind)
    return operator
  }

  async #reconcile(next: Step & { kind: 'reconcile' }): Promise<void> {
    const { operator, name, at, what, steps } = next
    let calls = 0
    this.operators[operator]?.hear('ondemanddisks', next.disksBehind)
    this.operators[operator]?.hear('jobs', next.jobsBehind)
    await this.operators[operator]?.reconcile(`${NAMESPACE}/${NAMES[name]}`, async () => {
      if (calls++ !== at || what === 'nothing') return
      if (what === 'crash') {
        this.operators[operator] = this.#restarted(0)
        throw new Crash()
      }
      for (let taken = 0; taken < steps && (await this.#next()); taken++);
    })
  }

  async #use(kind: 'create' | 'delete' | 'grow' | 'hold' | 'lose file', name: string): Promise<void> {
    const { cluster } = this
    const ref = { namespace: NAMESPACE, name }
    const disk = cluster.disks.find(({ metadata }) => metadata.name === name)
    if (kind === 'create' && !disk) {
      const spec = { poolName: 'lab', size: 2 ** 20 }
      cluster.create(DISKS, {
        apiVersion: 'ondemanddisk.dev/v1alpha1',
        kind: 'OnDemandDisk',
        metadata: ref,
        spec,
      } as KubeObject)
    }
    if (kind === 'hold') cluster.held[cluster.held.has(name) ? 'delete' : 'add'](name)
    if (!disk) return
    if (kind === 'delete') cluster.delete(DISKS, ref)
    const size = Number(disk.spec.size) * 2
    if (kind === 'grow' && size < 2 ** 40)
      await cluster.client().patch(DISKS, ref, 'merge', { spec: { size } })
    if (kind === 'lose file' && conditionOf(disk, 'Formatted')?.status === 'True') {
      if (cluster.files.delete(disk.metadata.uid ?? '')) this.lost.add(disk.metadata.uid ?? '')
    }
  }

  /** What holds at every moment. */
  check(): void {
    const { cluster } = this
    for (const [uid, times] of cluster.formats) if (times !== 1) throw new Error(`${uid} is formatted again`)
    for (const disk of cluster.disks) {
      const { uid = '', deletionTimestamp } = disk.metadata
      const isFormatted = conditionOf(disk, 'Formatted')?.status === 'True'
      if (isFormatted && deletionTimestamp === undefined && !this.lost.has(uid)) {
        if (!cluster.files.has(uid)) throw new Error(`${uid} has lost its data`)
      }
    }
    for (; this.#checked < cluster.changes.length; this.#checked++) {
      const { plural, object } = cluster.changes[this.#checked] as Change
      if (plural !== 'ondemanddisks') continue
      const uid = object.metadata.uid ?? ''
      if (conditionOf(object, 'Formatted')?.status === 'True') this.#latched.add(uid)
      else if (this.#latched.has(uid)) throw new Error(`${uid} is formatted no more`)
    }
  }

  /** From now on nothing goes wrong any more. */
  async settle(): Promise<void> {
    const { cluster } = this
    cluster.held.clear()
    for (let round = 0; round < 200; round++) {
      const before = cluster.changes.length
      for (const operator of this.operators) {
        for (const plural of ['ondemanddisks', 'jobs'] as const) operator.hear(plural)
        for (const disk of operator.disks.list()) await operator.reconcile(keyOf(disk))
      }
      while (cluster.stepJobs('succeeds'));
      while (cluster.stepGarbage());
      await cluster.stepAgent()
      this.check()
      if (cluster.changes.length > before) continue
      // Only a retry may still be due.
      if (!cluster.all<Job>('jobs').some(({ status }) => status?.conditions?.length)) return
      cluster.now += 700_000
    }
    throw new Error('It does not come to rest.')
  }
}

const reasonOf = (disk: OnDemandDisk) => conditionOf(disk, 'Ready')?.reason

test(
  'Whatever happens, every disk is made once, or gone, and nothing is left over',
  async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 30, maxLength: 150 }), async steps => {
        const simulation = new Simulation(steps)
        const { cluster, lost } = simulation
        for (const name of NAMES) {
          const spec = { poolName: 'lab', size: 2 ** 20 }
          const metadata = { namespace: NAMESPACE, name }
          cluster.create(DISKS, {
            apiVersion: 'ondemanddisk.dev/v1alpha1',
            kind: 'OnDemandDisk',
            metadata,
            spec,
          } as KubeObject)
        }
        await simulation.run()
        await simulation.settle()

        const disks = cluster.disks
        expect(disks.filter(({ metadata }) => metadata.deletionTimestamp !== undefined)).toEqual([])
        for (const disk of disks)
          expect(reasonOf(disk)).toBe(lost.has(disk.metadata.uid ?? '') ? 'DataMissing' : 'Ready')
        const kept = disks.map(({ metadata }) => metadata.uid ?? '').filter(uid => !lost.has(uid))
        const files = [...cluster.files].filter(uid => !cluster.belated.has(uid))
        expect(files.sort()).toEqual(kept.sort())
        expect(cluster.all('jobs')).toEqual([])
        expect(cluster.all('configmaps')).toEqual([])
      }),
      LIMITS,
    )
  },
  30_000 + seconds * 1000,
)
