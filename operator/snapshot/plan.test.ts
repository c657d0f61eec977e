import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type DiskSnapshot, parseDiskSnapshot } from '../../crds/disksnapshot.ts'
import type { InvalidSpecError } from '../../crds/invalid-spec-error.ts'
import type { SourceView } from '../disk/source.ts'
import { ACCEPTED_ANNOTATION, FINALIZER, POOL_LABEL } from '../terms/names.ts'
import { planSnapshot, type SnapshotObserved } from './plan.ts'

interface Given {
  readonly conditions?: readonly string[]
  readonly spec?: object
  readonly claimed?: boolean
  readonly deleted?: boolean
  readonly readyToUse?: boolean
  readonly observed?: Partial<SnapshotObserved>
}

const DISK: SourceView = { state: 'ready', uid: 'd', poolName: 'lab', size: 4096, filesystem: 'ext4' }

function see({ conditions = [], spec, claimed = true, deleted = false, readyToUse, observed }: Given = {}) {
  const snapshot = {
    apiVersion: 'ondemanddisk.dev/v1alpha1',
    kind: 'DiskSnapshot',
    metadata: {
      ...{ name: 'a', namespace: 'ns', uid: 'u', generation: 1, resourceVersion: '7' },
      ...(deleted && { deletionTimestamp: '2026-01-01T00:00:00Z' }),
      ...(claimed && {
        finalizers: [FINALIZER],
        labels: { [POOL_LABEL]: 'lab' },
        annotations: { [ACCEPTED_ANNOTATION]: 'disk' },
      }),
    },
    spec: spec ?? { diskName: 'disk' },
    status: {
      ...(readyToUse !== undefined && { readyToUse }),
      conditions: conditions.map(text => {
        const [type, status, reason, ...message] = text.split(' ')
        return {
          type,
          status,
          reason,
          message: message.join(' '),
          lastTransitionTime: '2026-01-01T00:00:00Z',
        }
      }),
    },
  } as unknown as DiskSnapshot
  let parsed: DiskSnapshot | InvalidSpecError
  try {
    parsed = parseDiskSnapshot(snapshot)
  } catch (error) {
    parsed = error as InvalidSpecError
  }
  return { snapshot, parsed, disk: DISK, pool: { state: 'there' }, ...observed } as SnapshotObserved
}

/** The steps in short: what conditions become, and of an event its reason. */
const stepsOf = (observed: SnapshotObserved) =>
  planSnapshot(observed).actions.map(action => {
    const event = 'event' in action && action.event ? ` !${action.event.reason}` : ''
    if (action.kind !== 'status') return action.kind + event
    const told = action.change.conditions?.map(each => `${each.type} ${each.status} ${each.reason}`)
    return `${told?.join(', ')}${event}`
  })

const ACCEPTED = 'Accepted True Accepted'
const refusal = { reason: 'QuotaExceeded', message: 'Full.' } as const

test.each([
  ['not claimed yet', { claimed: false }, ['claim']],
  ['claimed', {}, ['Accepted True Accepted, Ready False WaitingForServer']],
  ['of no disk', { observed: { disk: { state: 'missing' } } }, ['Ready False DiskNotFound']],
  [
    'of a disk that is not made',
    { observed: { disk: { state: 'not ready', message: 'is not made yet.' } } },
    ['Ready False DiskNotReady'],
  ],
  ['of a pool that goes', { observed: { pool: { state: 'deleting' } } }, ['Ready False PoolNotReady']],
  ['for which there is no place', { observed: { refusal } }, ['Ready False QuotaExceeded']],
  ['without a disk name', { spec: {} }, ['Ready False InvalidSpec !InvalidSpec']],
  ['of another disk than at first', { spec: { diskName: 'b' } }, ['Ready False InvalidSpec !InvalidSpec']],
  ['accepted', { conditions: [ACCEPTED] }, ['Ready False WaitingForServer']],
  ['at work', { conditions: [ACCEPTED, 'Taken False Copying x'] }, ['Ready False Copying']],
  [
    'that failed',
    { conditions: [ACCEPTED, 'Taken False CopyFailed Full.'] },
    ['Ready False CopyFailed !CopyFailed'],
  ],
  ['taken', { conditions: [ACCEPTED, 'Taken True Taken x'] }, ['Ready True Ready !Taken']],
  ['taken before', { conditions: [ACCEPTED, 'Taken True Taken x'], readyToUse: true }, ['Ready True Ready']],
  [
    'taken, whose disk and pool are of no interest any more',
    {
      conditions: [ACCEPTED, 'Taken True Taken x'],
      readyToUse: true,
      observed: { disk: { state: 'missing' }, pool: { state: 'missing' }, refusal },
    },
    ['Ready True Ready'],
  ],
  ['lost', { conditions: [ACCEPTED, 'Taken True DataMissing x'] }, ['Ready False DataMissing !DataMissing']],
  ['that goes, and is not ours', { deleted: true, claimed: false }, []],
  ['that goes before it was accepted', { deleted: true }, ['release']],
  ['that goes', { deleted: true, conditions: [ACCEPTED] }, ['Ready False Deleting']],
  [
    'that goes, and is removed',
    { deleted: true, conditions: [ACCEPTED, 'Taken False Removed x'] },
    ['release !Deleted'],
  ],
  [
    'that goes, and nobody can remove',
    { deleted: true, conditions: [ACCEPTED], observed: { pool: { state: 'missing', lost: 'Gone.' } } },
    ['release !DataLeft'],
  ],
] as const)('A snapshot %s', (_, given, steps) => {
  expect(stepsOf(see(given as Given))).toEqual(steps)
})

test('what it is of is noted when it is accepted', () => {
  const [action] = planSnapshot(see()).actions
  expect(action).toMatchObject({
    change: { fields: { diskUid: 'd', poolName: 'lab', size: 4096, filesystem: 'ext4', readyToUse: false } },
  })
})

test('its deletion tells what it waits for', () => {
  const given = { deleted: true, conditions: [ACCEPTED, 'Taken True InUse Disks: b.'] }
  expect(planSnapshot(see(given)).actions).toMatchObject([
    { change: { conditions: [{ reason: 'Deleting', message: 'Disks: b.' }] } },
  ])
})

test('whatever is seen, nothing is released that an agent can still remove, and nothing is ready that is not taken', () => {
  const taken = fc.constantFrom('', 'False Copying x', 'True Taken x', 'True InUse x', 'False Removed x')
  fc.assert(
    fc.property(
      fc.boolean(),
      fc.boolean(),
      fc.boolean(),
      taken,
      fc.boolean(),
      (claimed, deleted, accepted, told, lost) => {
        const conditions = [...(accepted ? [ACCEPTED] : []), ...(told ? [`Taken ${told}`] : [])]
        const observed = lost ? { pool: { state: 'missing', lost: 'Gone.' } as const } : {}
        const { actions } = planSnapshot(see({ claimed, deleted, conditions, observed }))
        const released = actions.some(({ kind }) => kind === 'release')
        if (released) expect(deleted && (!accepted || lost || told.includes('Removed'))).toBe(true)
        const ready = actions.some(
          action => action.kind === 'status' && action.change.fields?.readyToUse === true,
        )
        expect(ready).toBe(!deleted && accepted && told === 'True Taken x')
      },
    ),
  )
})
