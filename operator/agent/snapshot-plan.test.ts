/**
 * The agent's plan for a snapshot: by cases, and against a world in which everything happens at any time. Whatever the
 * order, it is taken once, never again, and nothing is removed without leave.
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { DiskSnapshot } from '../../crds/disksnapshot.ts'
import { mergeConditions, type StatusCondition } from '../kube/conditions.ts'
import { FINALIZER } from '../terms/names.ts'
import type { CopyView } from './copier.ts'
import { planSnapshot, type SnapshotAction, type SnapshotObserved } from './snapshot-plan.ts'

const TAKEN_AT = new Date('2026-01-01T00:00:00.123Z')
const FILE = { size: 4096, takenAt: TAKEN_AT }

const conditionOf = (text: string): StatusCondition => {
  const [type = '', status, reason = ''] = text.split(' ')
  return { type, status: status as 'True', reason, message: '', lastTransitionTime: '' }
}

function see(
  conditions: readonly string[],
  observed: Partial<SnapshotObserved> = {},
  isDeleted = false,
): SnapshotObserved {
  const snapshot = {
    metadata: {
      ...{ name: 'a', namespace: 'ns', uid: 'u', generation: 1, finalizers: [FINALIZER] },
      ...(isDeleted && { deletionTimestamp: '2026-01-01T00:00:00Z' }),
    },
    spec: { diskName: 'disk' },
    status: { diskUid: 'd', conditions: conditions.map(conditionOf) },
  } as unknown as DiskSnapshot
  return { snapshot, file: undefined, copy: { state: 'none' }, clones: [], now: 1000, ...observed }
}

/** The steps in short: `Taken True Taken` of a status. */
const stepsOf = (observed: SnapshotObserved) =>
  planSnapshot(observed).actions.map(action => {
    if (action.kind !== 'status') return action.kind
    const [change] = action.change.conditions ?? []
    return `${change?.type} ${change?.status} ${change?.reason}`
  })

const ACCEPTED = 'Accepted True Accepted'
const DELETING = 'Ready False Deleting'
const failed: CopyView = { state: 'failed', message: 'No space.', retryAt: 2000 }

describe('A snapshot', () => {
  test.each([
    ['that is not accepted is left alone', see([]), []],
    ['that is accepted is taken', see([ACCEPTED]), ['Taken False Copying', 'start copy']],
    ['that is being taken', see([ACCEPTED], { copy: { state: 'running' } }), ['Taken False Copying']],
    ['whose file is there has been taken', see([ACCEPTED], { file: FILE }), ['Taken True Taken']],
    ['that failed waits', see([ACCEPTED], { copy: failed }), ['Taken False CopyFailed']],
    ['that failed is tried again', see([ACCEPTED], { copy: failed, now: 2000 }), ['start copy']],
    ['that was taken is never taken again', see([ACCEPTED, 'Taken True Taken']), ['Taken True DataMissing']],
    ['that goes keeps its file until the operator says so', see([ACCEPTED], { file: FILE }, true), []],
    [
      'that goes has its copy called off at once',
      see([ACCEPTED], { copy: { state: 'running' } }, true),
      ['call off copy'],
    ],
    ['that goes is removed', see([DELETING], { file: FILE }, true), ['remove file', 'Taken False Removed']],
    ['that goes and was never there', see([DELETING], {}, true), ['Taken False Removed']],
    [
      'that goes waits for its clones',
      see([DELETING], { file: FILE, clones: ['b'] }, true),
      ['Taken True InUse'],
    ],
  ] as const)('%s', (_, observed, steps) => {
    expect(stepsOf(observed)).toEqual(steps)
  })

  test('has the moment of its file, and the way in which it was made', () => {
    const copy: CopyView = { state: 'done', method: 'reflink' }
    const [action] = planSnapshot(see([ACCEPTED], { file: FILE, copy })).actions
    expect(action).toMatchObject({
      change: { fields: { size: 4096, creationTime: TAKEN_AT.toISOString(), method: 'reflink' } },
    })
  })
})

const EVENTS = [
  'agent',
  'agent',
  'agent',
  'half',
  'copied',
  'fails',
  'dies',
  'time',
  'clone',
  'cloned',
] as const
const RARE = ['delete', 'operator', 'operator', 'lose file'] as const

/** One snapshot and all around it. */
class World {
  conditions: readonly StatusCondition[] = [conditionOf(ACCEPTED)]
  deleted = false
  gone = false
  file = false
  copy: CopyView = { state: 'none' }
  clones = 0
  now = 1000
  copies = 0
  lost = false
  readonly wrongs: string[] = []

  observe(): SnapshotObserved {
    const observed = {
      file: this.file ? FILE : undefined,
      copy: this.copy,
      clones: this.clones > 0 ? ['clone'] : [],
      now: this.now,
    }
    const { snapshot, ...rest } = see([], observed, this.deleted)
    const status = { ...snapshot.status, conditions: this.conditions }
    return { snapshot: { ...snapshot, status } as DiskSnapshot, ...rest }
  }

  is(type: string, reason: string): boolean {
    return this.conditions.some(each => each.type === type && each.reason === reason)
  }

  take(action: SnapshotAction): void {
    switch (action.kind) {
      case 'start copy':
        if (this.file || this.lost) this.wrongs.push('taken twice')
        if (this.deleted) this.wrongs.push('taken though it goes')
        if (this.copy.state !== 'running') this.copy = { state: 'running' }
        return
      case 'call off copy':
        this.copy = { state: 'none' }
        return
      case 'remove file':
        if (!this.is('Ready', 'Deleting')) this.wrongs.push('removed without leave')
        if (this.clones > 0) this.wrongs.push('removed under a clone')
        if (this.copy.state === 'running') this.wrongs.push('removed while it was made')
        this.file = false
        return
      case 'status':
        this.conditions = mergeConditions(this.conditions, action.change.conditions ?? [], new Date(0))
    }
  }

  agent(steps = Number.POSITIVE_INFINITY): void {
    if (this.gone) return
    for (const action of planSnapshot(this.observe()).actions.slice(0, steps)) this.take(action)
  }

  event(event: (typeof EVENTS)[number] | (typeof RARE)[number]): void {
    if (event === 'agent') this.agent()
    else if (event === 'half') this.agent(1)
    else if (event === 'dies') this.copy = { state: 'none' }
    else if (event === 'time') this.now += 10_000
    else if (event === 'delete') this.deleted = true
    else if (event === 'clone' && this.is('Taken', 'Taken') && !this.deleted) this.clones++
    else if (event === 'cloned') this.clones = 0
    else if (event === 'operator') this.operator()
    else if (event === 'lose file' && this.is('Taken', 'Taken') && !this.deleted) {
      this.lost = true
      this.file = false
    } else if (this.copy.state === 'running') {
      if (event === 'copied') {
        this.copies++
        this.file = true
        this.copy = { state: 'done', method: 'copy' }
      } else if (event === 'fails') {
        this.copy = { state: 'failed', message: 'x', retryAt: this.now + 1000 }
      }
    }
  }

  operator(): void {
    if (!this.deleted) return
    if (this.is('Taken', 'Removed')) this.gone = true
    else this.conditions = mergeConditions(this.conditions, [conditionOf(DELETING)], new Date(0))
  }
}

test('whatever happens, it is taken once, is never lost, and goes when it is to go', () => {
  const events = fc.array(fc.constantFrom(...EVENTS, ...EVENTS, ...RARE), { maxLength: 40 })
  fc.assert(
    fc.property(events, sequence => {
      const world = new World()
      for (const event of sequence) world.event(event)
      // The world comes to rest.
      for (let round = 0; round < 6; round++) {
        for (const event of ['cloned', 'time', 'agent', 'copied', 'agent', 'operator'] as const)
          world.event(event)
      }
      expect(world.wrongs).toEqual([])
      if (world.deleted) expect([world.gone, world.file]).toEqual([true, false])
      else if (world.lost) expect(world.is('Taken', 'DataMissing')).toBe(true)
      else expect([world.file, world.copies, world.is('Taken', 'Taken')]).toEqual([true, 1, true])
    }),
    { numRuns: 300 },
  )
})
