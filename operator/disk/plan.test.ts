import { describe, expect, test } from 'vitest'
import { InvalidSpecError, type OnDemandDisk, parseOnDemandDisk } from '../../crds/ondemanddisk.ts'
import { type JobView, retryDelay } from '../pool/job-view.ts'
import { POD_PATIENCE_MS } from '../pool/pod-problem.ts'
import {
  ACCEPTED_ANNOTATION,
  BEGUN_ANNOTATION,
  FINALIZER,
  FORCE_DELETE_ANNOTATION,
  POOL_LABEL,
  SPARE_ANNOTATION,
} from '../terms/names.ts'
import type { DiskAction, DiskObserved } from './observed.ts'
import { planDisk, QUIET_MS } from './plan.ts'

const NOW = Date.parse('2026-01-01T00:10:00Z')

interface Given {
  readonly spec?: Record<string, unknown>
  readonly metadata?: Record<string, unknown>
  readonly status?: Record<string, unknown>
  readonly conditions?: readonly string[]
  readonly claimed?: boolean
  readonly begun?: boolean
  readonly observed?: Partial<DiskObserved>
}

/** `Ready False Provisioning` as a condition; what follows is its message. */
function parseCondition(text: string) {
  const [type, status, reason, ...message] = text.split(' ')
  return {
    type,
    status,
    reason,
    message: message.join(' '),
    observedGeneration: 1,
    lastTransitionTime: '2026-01-01T00:00:00Z',
  }
}

function see({
  spec,
  metadata,
  status,
  conditions,
  claimed = true,
  begun,
  observed,
}: Given = {}): DiskObserved {
  const disk = {
    apiVersion: 'ondemanddisk.dev/v1alpha1',
    kind: 'OnDemandDisk',
    metadata: {
      name: 'alice',
      namespace: 'ns',
      uid: 'uid-1',
      generation: 1,
      resourceVersion: '7',
      creationTimestamp: '2026-01-01T00:09:30Z',
      ...(claimed && {
        finalizers: [FINALIZER],
        labels: { [POOL_LABEL]: 'lab' },
        annotations: {
          ...(begun && { [BEGUN_ANNOTATION]: 'true' }),
          [ACCEPTED_ANNOTATION]: JSON.stringify({
            poolName: 'lab',
            exportName: 'alice',
            mode: spec?.mode ?? 'Persistent',
            ...(spec?.upstream ? { upstream: { uri: '' } } : { filesystem: { type: 'ext4' } }),
          }),
        },
      }),
      ...metadata,
    },
    spec: { poolName: 'lab', size: '1Gi', ...spec },
    status: { conditions: (conditions ?? []).map(parseCondition), ...status },
  } as unknown as OnDemandDisk
  let parsed: OnDemandDisk | InvalidSpecError
  try {
    parsed = parseOnDemandDisk(disk)
  } catch (error) {
    if (!(error instanceof InvalidSpecError)) throw error
    parsed = error
  }
  return {
    disk,
    parsed,
    pool: { state: 'there', isReachable: true },
    job: { state: 'none' },
    now: NOW,
    ...observed,
  }
}

/** An action in a line. */
function line(action: DiskAction): string {
  switch (action.kind) {
    case 'status': {
      const attempts = action.change.fields?.attempts
      return [
        'status',
        ...(attempts === undefined ? [] : [`attempts=${attempts}`]),
        ...(action.change.conditions ?? []).map(({ type, status, reason }) => `${type}=${status}/${reason}`),
        ...(action.event ? [`+${action.event.type} ${action.event.reason}`] : []),
      ].join(' ')
    }
    case 'claim':
      return action.begins ? 'claim, attempts=1' : 'claim'
    case 'start job':
      return `start job ${action.attempt}`
    case 'delete job':
      return 'delete job'
    case 'release':
      return action.event ? `release +${action.event.type} ${action.event.reason}` : 'release'
  }
}

const lines = (given: Given) => planDisk(see(given)).actions.map(line)
const ready = (given: Given) => {
  for (const action of planDisk(see(given)).actions) {
    if (action.kind !== 'status') continue
    const found = action.change.conditions?.find(({ type }) => type === 'Ready')
    if (found) return found
  }
  return undefined
}

const FAILED: JobView = {
  state: 'failed',
  message: 'mkfs.ext4 failed: no luck',
  isFinal: false,
  generation: 1,
  attempt: 1,
  finishedAt: NOW - 1000,
}
const PROVISIONING = 'Provisioned=False/Provisioning Formatted=False/Provisioning Ready=False/Provisioning'
const MADE = ['Formatted True Formatted', 'Provisioned True Formatted']
const UNKNOWN = 'Provisioned=Unknown/PoolNotReady'
const DELETED = { deletionTimestamp: '2026-01-01T00:09:59Z' }
const job = (view: JobView): Partial<DiskObserved> => ({ job: view })
const running = (age: number) => job({ state: 'running', startedAt: NOW - age })

describe('A disk on its way', () => {
  test.for<[string, Given, string[]]>([
    [
      'is taken into care before anything is done, and counted at the same stroke',
      { claimed: false },
      ['claim, attempts=1', 'start job 1'],
    ],
    [
      'that has to wait is taken into care alone',
      { claimed: false, observed: { pool: { state: 'there', isReachable: false } } },
      ['claim'],
    ],
    [
      'that is taken into care again is not begun again',
      { claimed: false, status: { attempts: 1 } },
      ['claim'],
    ],
    [
      'whose Job was never made is counted again',
      { begun: true },
      [`status attempts=2 ${PROVISIONING}`, 'start job 2'],
    ],
    ['gets a Job, counted first', {}, [`status attempts=1 ${PROVISIONING}`, 'start job 1']],
    [
      'whose Job vanished gets another, counted again',
      { status: { attempts: 3 } },
      [`status attempts=4 ${PROVISIONING}`, 'start job 4'],
    ],
    ['waits for its Job', { observed: running(30_000) }, [`status ${PROVISIONING}`]],
    ['waits for a Job that is going', { observed: job({ state: 'terminating' }) }, []],
    [
      'is latched when the Job is done, and only then the Job goes',
      { observed: job({ state: 'succeeded', finishedAt: NOW }) },
      [
        'status Formatted=True/Formatted Provisioned=True/Formatted Ready=False/WaitingForServer +Normal Provisioned',
        'delete job',
      ],
    ],
    [
      'that is latched never gets a Job again',
      { conditions: ['Formatted True Formatted'] },
      ['status Provisioned=True/Formatted Ready=False/WaitingForServer +Normal Provisioned'],
    ],
    [
      'whose file is missing never gets a Job again',
      { conditions: [...MADE, 'Exported False DataMissing The file is gone.'] },
      ['status Ready=False/DataMissing'],
    ],
    [
      'is ready when it is exported',
      { conditions: [...MADE, 'Exported True Serving'] },
      ['status Ready=True/Ready'],
    ],
    [
      'cleans up after a crash between latch and deletion',
      { conditions: MADE, observed: job({ state: 'succeeded', finishedAt: NOW }) },
      ['status Ready=False/WaitingForServer', 'delete job'],
    ],
    [
      'that is temporary needs no Job',
      { spec: { mode: 'Temporary' } },
      ['status Provisioned=True/NothingToMake Ready=False/WaitingForServer'],
    ],
    [
      'with upstream needs no Job',
      { spec: { size: undefined, upstream: { uri: 'nbd://other' } } },
      ['status Provisioned=True/NothingToMake Ready=False/WaitingForServer'],
    ],
  ])('%s', ([, given, expected]) => {
    expect(lines(given)).toEqual(expected)
  })

  test('made of a spare has no Job while the agent is at it, and one when it was not', () => {
    const annotations = { ...see().disk.metadata.annotations, [SPARE_ANNOTATION]: 'x-1' }
    const young = planDisk(see({ metadata: { annotations } }))
    expect(young.actions.map(line)).toEqual([`status ${PROVISIONING}`])
    expect(young.requeueAfterMs).toBe(30_000)
    // The agent tells all at one stroke, as a rule.
    const born = Date.parse('2026-01-01T00:09:30Z')
    const quiet = (now: number, given: Given = {}) =>
      planDisk(
        see({ metadata: { annotations }, status: { conditions: undefined }, observed: { now }, ...given }),
      )
    expect(quiet(born + 1000)).toEqual({ actions: [], requeueAfterMs: QUIET_MS - 1000 })
    expect(quiet(born + 1000, { conditions: ['Ready False PoolNotReady'], status: {} }).actions).toHaveLength(
      1,
    )
    expect(quiet(born + QUIET_MS).actions).toHaveLength(1)
    expect(quiet(born - 3_600_000).actions).toHaveLength(1)
    expect(lines({ metadata: { annotations }, observed: { now: NOW + 30_000 } })).toContain('start job 1')
  })
})

describe('A disk whose Job has just begun', () => {
  const fresh = (age: number, given: Given = {}) =>
    planDisk(see({ begun: true, status: { conditions: undefined }, observed: running(age), ...given }))

  test('has no status until somebody has to wait', () => {
    expect(fresh(1000)).toEqual({ actions: [], requeueAfterMs: QUIET_MS - 1000 })
    expect(fresh(QUIET_MS).actions.map(line)).toEqual([`status attempts=1 ${PROVISIONING}`])
  })

  test('has one at once where its Pod does not run, and where the clocks differ', () => {
    const observed = job({ state: 'running', startedAt: NOW, problem: 'ErrImagePull' })
    expect(fresh(0, { observed }).actions.map(line)).toEqual([`status attempts=1 ${PROVISIONING}`])
    expect(fresh(-100).requeueAfterMs).toBe(QUIET_MS)
    expect(fresh(-3_600_000).actions).toHaveLength(1)
  })

  test('has one that goes on where it said something before', () => {
    expect(fresh(0, { conditions: ['Ready False PoolNotReady'], status: {} }).actions).toHaveLength(1)
  })
})

// A quota that refuses the Pod tells nobody but the Job: the disk was "being made" until the Job's deadline.
test('A disk whose Job gets no Pod says so after a while, and where to look', () => {
  const plan = (age: number) => {
    const withoutPod = { name: 'odd-uid-1' }
    return planDisk(
      see({ begun: true, observed: job({ state: 'running', startedAt: NOW - age, withoutPod }) }),
    )
  }
  const said = (age: number) => JSON.stringify(plan(age).actions)
  expect(said(POD_PATIENCE_MS - 1)).not.toContain('describe')
  expect(plan(POD_PATIENCE_MS - 1).requeueAfterMs).toBe(1)
  expect(said(POD_PATIENCE_MS)).toContain('kubectl describe job odd-uid-1')
  expect(plan(POD_PATIENCE_MS).requeueAfterMs).toBeUndefined()
})

// Each try wrote the count of attempts, and that news had the next one made at once.
test('A Job that the API server does not take waits, and says so once', () => {
  const given = (restMs: number): Given => ({
    status: { attempts: 2 },
    observed: { refusedJob: { message: 'exceeded quota', restMs } },
  })
  const waiting = planDisk(see(given(4000)))
  expect(waiting.requeueAfterMs).toBe(4000)
  expect(waiting.actions.map(line)).toEqual([
    'status Provisioned=False/JobRefused Formatted=False/JobRefused Ready=False/JobRefused +Warning JobRefused',
  ])
  expect(ready(given(4000))?.message).toBe('exceeded quota')
  expect(lines(given(0))).toEqual(['status attempts=3', 'start job 3'])
})

test('An object that does not fit its Job is refused by the name of the field', () => {
  const values = (value: string) =>
    Object.fromEntries(Array.from({ length: 64 }, (_, index) => [`v${index}`, value]))
  const spec = { filesystem: undefined, command: 'true', variables: values('x'.repeat(4096)) }
  const given: Given = { spec, metadata: { annotations: { [ACCEPTED_ANNOTATION]: '{"command":""}' } } }
  expect(ready(given)).toMatchObject({ reason: 'InvalidSpec' })
  expect(ready(given)?.message).toMatch(/^spec\.variables: .*2[67]\d{4} bytes.*245760/)
  expect(lines({ ...given, spec: { ...spec, variables: values('x'.repeat(3500)) } })).toContain('start job 1')
})

describe('A disk that cannot be made says why', () => {
  test.for<[string, Given, string, RegExp]>([
    ['bad spec', { spec: { size: '1GiB' } }, 'InvalidSpec', /^spec\.size: /],
    [
      'no pool',
      { observed: { pool: { state: 'missing', isReachable: false } } },
      'PoolNotFound',
      /DiskPool lab/,
    ],
    ['bad pool', { observed: { pool: { state: 'invalid', isReachable: false } } }, 'PoolInvalid', /lab/],
    [
      'pool that goes',
      { observed: { pool: { state: 'deleting', isReachable: true } } },
      'PoolDeleting',
      /lab/,
    ],
    [
      'pool without a server',
      { observed: { pool: { state: 'there', isReachable: false } } },
      'PoolNotReady',
      /no place/,
    ],
    ['name taken', { observed: { nameHolder: 'bob' } }, 'ExportNameTaken', /bob.*"alice"/],
    [
      'quota',
      { observed: { refusal: { reason: 'QuotaExceeded', message: 'Full.' } } },
      'QuotaExceeded',
      /^Full\.$/,
    ],
    [
      'temporary and over the limit',
      { spec: { mode: 'Temporary' }, observed: { refusal: { reason: 'TooManyDisks', message: 'Full.' } } },
      'TooManyDisks',
      /^Full\.$/,
    ],
    ['foreign Job', { observed: job({ state: 'foreign', name: 'odd-uid-1' }) }, 'NameTaken', /odd-uid-1/],
    [
      'Pod that does not run',
      { observed: job({ state: 'running', startedAt: NOW, problem: 'ErrImagePull' }) },
      'Provisioning',
      /ErrImagePull/,
    ],
    [
      'failed',
      { observed: job(FAILED) },
      'FormatFailed',
      /^mkfs\.ext4 failed: no luck \(attempt 1; the next is at 2026-01-01T00:10:09Z\)$/,
    ],
    [
      'invalid for mkfs',
      { observed: job({ ...FAILED, isFinal: true, message: 'spec.filesystem.type: There is none.' }) },
      'InvalidSpec',
      /^spec\.filesystem\.type: There is none\.$/,
    ],
  ])('%s', ([, given, reason, message]) => {
    const plan = planDisk(see(given))
    expect(ready(given)).toMatchObject({ status: 'False', reason, message: expect.stringMatching(message) })
    expect(plan.actions.some(({ kind }) => kind === 'start job')).toBe(false)
  })

  test('and the API conventions want Unknown for what is not known yet', () => {
    expect(lines({ observed: { nameHolder: 'bob' } })).toEqual([
      `status ${UNKNOWN} Ready=False/ExportNameTaken`,
    ])
  })
})

describe('A failed attempt', () => {
  test('is followed by the next after its delay', () => {
    expect(planDisk(see({ observed: job(FAILED) })).requeueAfterMs).toBe(9000)
    expect(lines({ observed: { job: FAILED, now: NOW + 9000 } })).toEqual(['delete job'])
    expect([1, 2, 3, 6, 7, 1000].map(retryDelay)).toEqual([10_000, 20_000, 40_000, 320_000, 600_000, 600_000])
  })

  test('is followed by the next at once when the spec has changed', () => {
    expect(lines({ metadata: { generation: 2 }, observed: job({ ...FAILED, isFinal: true }) })).toEqual([
      'delete job',
    ])
  })

  test('that cannot be helped is not tried again', () => {
    expect(
      planDisk(see({ observed: { job: { ...FAILED, isFinal: true }, now: NOW + 1e9 } })).requeueAfterMs,
    ).toBeUndefined()
  })
})

describe('What cannot be changed is refused though the API server let it through', () => {
  test.for<[string, Given, RegExp]>([
    ['the name', { spec: { exportName: 'bob' } }, /^spec\.exportName: .*"alice"/],
    ['the pool', { spec: { poolName: 'other' } }, /^spec\.poolName: .*"lab"/],
    ['the filesystem', { spec: { filesystem: { type: 'xfs' } } }, /^spec\.filesystem: /],
    ['from filesystem to command', { spec: { command: 'x' } }, /^spec\.command: /],
    [
      'the size, downwards',
      { status: { size: 2 ** 31 }, conditions: MADE },
      /^spec\.size: A disk cannot shrink/,
    ],
  ])('%s', ([, given, message]) => {
    expect(ready(given)).toMatchObject({ reason: 'InvalidSpec', message: expect.stringMatching(message) })
  })

  test('growing is not', () => {
    expect(
      ready({ status: { size: 2 ** 20 }, conditions: [...MADE, 'Exported True Serving'] }),
    ).toMatchObject({ status: 'True' })
  })

  test('and an annotation that a user has spoilt does no harm', () => {
    for (const text of ['', '{', '7', '[]']) {
      const annotations = { [ACCEPTED_ANNOTATION]: text }
      expect(lines({ metadata: { annotations } }).length).toBeGreaterThan(0)
    }
  })
})

describe('A disk that is deleted', () => {
  const deleted = (given: Given = {}): Given => ({ ...given, metadata: { ...DELETED, ...given.metadata } })
  test.for<[string, Given, string[]]>([
    ['is not ours any more', deleted({ claimed: false }), []],
    ['goes at once where nothing was done', deleted(), ['release']],
    [
      'stops its Job first',
      deleted({ status: { attempts: 1 }, observed: running(30_000) }),
      ['status Ready=False/StoppingJob', 'delete job'],
    ],
    [
      'waits for the Job to go',
      deleted({ status: { attempts: 1 }, observed: job({ state: 'terminating' }) }),
      ['status Ready=False/StoppingJob'],
    ],
    ['then lets the agent begin', deleted({ status: { attempts: 1 } }), ['status Ready=False/Deleting']],
    [
      'waits for the agent',
      deleted({ conditions: [...MADE, 'Exported True Serving'] }),
      ['status Ready=False/Deleting'],
    ],
    [
      'goes when the agent is done',
      deleted({ conditions: [...MADE, 'Exported False Removed'] }),
      ['release +Normal Deleted'],
    ],
    [
      'goes when the data is kept',
      deleted({ conditions: [...MADE, 'Exported False Retained'] }),
      ['release +Normal Deleted'],
    ],
    [
      'goes with a warning where there is no agent any more',
      deleted({
        conditions: MADE,
        observed: { pool: { state: 'missing', isReachable: false, lost: 'The pool is gone.' } },
      }),
      ['release +Warning DataLeft'],
    ],
    [
      'with a bad spec goes all the same',
      deleted({ spec: { size: 'x' }, conditions: [...MADE, 'Exported False Removed'] }),
      ['release +Normal Deleted'],
    ],
  ])('%s', ([, given, expected]) => {
    expect(lines(given)).toEqual(expected)
  })

  test('while it is in use says by whom, and what to do', () => {
    const conditions = [...MADE, 'Exported True InUse In use by 10.0.0.7 since noon.']
    expect(ready(deleted({ conditions }))?.message).toMatch(
      /In use by 10\.0\.0\.7 since noon\..*force-delete=true/,
    )
    const annotations = { [FORCE_DELETE_ANNOTATION]: 'true' }
    expect(ready(deleted({ conditions, metadata: { annotations } }))?.message).toContain('being disconnected')
  })
})
