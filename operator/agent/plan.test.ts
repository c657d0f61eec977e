import { describe, expect, test } from 'vitest'
import { InvalidSpecError, type OnDemandDisk, parseOnDemandDisk } from '../../crds/ondemanddisk.ts'
import type { ExportState } from '../../server/control/state.ts'
import { FINALIZER, FORCE_DELETE_ANNOTATION, SPARE_ANNOTATION } from '../terms/names.ts'
import { deletingManifest, manifestText } from './manifest.ts'
import type { AgentObserved } from './observed.ts'
import { planDisk, SPARE_QUIET_MS } from './plan.ts'

const MIB = 2 ** 20
const UID = '6f0f4a0e-3f0e-4b3e-9d5e-0e8f5f1c2a3b'
const DELETED_AT = '2026-01-01T00:00:00Z'

interface Given {
  readonly spec?: Record<string, unknown>
  readonly metadata?: Record<string, unknown>
  readonly status?: Record<string, unknown>
  /** `Ready False Deleting` each. */
  readonly conditions?: readonly string[]
  readonly served?: Partial<ExportState> | 'unknown' | 'absent'
  /** `written`: as it should be. */
  readonly manifest?: 'written' | 'deleting' | 'none'
  readonly observed?: Partial<AgentObserved>
}

function see(given: Given = {}): AgentObserved {
  const { spec, metadata, status, conditions = ['Provisioned True Formatted'] } = given
  const disk = {
    apiVersion: 'ondemanddisk.dev/v1alpha1',
    kind: 'OnDemandDisk',
    metadata: {
      name: 'alice',
      namespace: 'ns',
      uid: UID,
      generation: 2,
      finalizers: [FINALIZER],
      ...metadata,
    },
    spec: { poolName: 'lab', size: 16 * MIB, reclaimPolicy: 'Delete', mode: 'Persistent', ...spec },
    status: {
      conditions: conditions.map(text => {
        const [type, state, reason, ...message] = text.split(' ')
        return {
          ...{ type, status: state, reason, message: message.join(' '), observedGeneration: 2 },
          lastTransitionTime: DELETED_AT,
        }
      }),
      ...status,
    },
  } as unknown as OnDemandDisk
  let parsed: AgentObserved['parsed']
  try {
    parsed = parseOnDemandDisk(disk)
  } catch (error) {
    parsed = error as InvalidSpecError
  }
  const text = parsed instanceof InvalidSpecError ? '{"metadata":{}}' : manifestText(parsed, parsed.spec.size)
  const manifests = { written: text, deleting: deletingManifest(text, DELETED_AT), none: undefined }
  const { served = {} } = given
  return {
    disk,
    parsed,
    file: { size: 16 * MIB, allocated: 4096 },
    spare: false,
    manifest: manifests[given.manifest ?? 'written'],
    server:
      served === 'unknown'
        ? { state: 'unknown' }
        : {
            state: 'known',
            served:
              served === 'absent'
                ? undefined
                : {
                    name: 'alice',
                    uid: UID,
                    generation: 2,
                    declared: true,
                    work: 'none',
                    connections: [],
                    ...served,
                  },
          },
    uri: 'nbd://lab.ns.svc:10809',
    ...{ copy: { state: 'none' } as const, copiedTo: [], now: 0 },
    sinceWriteMs: Number.POSITIVE_INFINITY,
    ...given.observed,
  }
}

/** Kinds of the steps; of a status, what its conditions say. */
function steps(given: Given): string[] {
  return planDisk(see(given)).actions.map(action =>
    action.kind === 'status'
      ? (action.change.conditions ?? [])
          .map(each => `${each.type} ${each.status} ${each.reason}`)
          .join(', ') || 'numbers'
      : action.kind,
  )
}

const SERVING = 'Exported True Serving Clients can connect to "alice".'
const KNOWN = {
  size: 16 * MIB,
  allocated: 4096,
  uri: 'nbd://lab.ns.svc:10809/alice',
}
const settled = { conditions: ['Provisioned True Formatted', SERVING], status: KNOWN }
const client = (count: number) =>
  Array.from({ length: count }, (_, index) => ({ client: `10.0.0.${index}:5`, since: DELETED_AT }))

describe('A disk', () => {
  test.for([
    ['that is not made yet is left alone', { conditions: [], manifest: 'none' }, []],
    ['that is made is written out', { manifest: 'none', served: 'absent' }, ['write manifest', 'numbers']],
    ['that the server has is told to be served', {}, ['Exported True Serving']],
    ['of which all has been said is left alone', settled, []],
    ['whose server is away is left as it is', { ...settled, served: 'unknown' }, []],
    [
      'whose server has an older spec is waited for',
      { conditions: ['Provisioned True Formatted'], status: KNOWN, served: { generation: 1 } },
      [],
    ],
    [
      'whose spec has become wrong is served by its last good one',
      { ...settled, spec: { access: { allow: ['x'] } }, manifest: 'written' },
      [],
    ],
    // Exported stayed True, although no server had the disk.
    [
      'whose spec is wrong is not told to be served by a pod that is new',
      { ...settled, spec: { access: { allow: ['x'] } }, manifest: 'none', served: 'absent' },
      ['Exported False Refused'],
    ],
    [
      'that the server refuses is told why',
      { ...settled, served: { problem: 'No such filesystem.' } },
      ['Exported False Refused'],
    ],
    [
      'whose file is missing is told so, and nothing is made',
      { ...settled, observed: { file: undefined } },
      ['Exported False DataMissing'],
    ],
    [
      'that has no file needs none',
      { spec: { mode: 'Temporary' }, observed: { file: undefined } },
      ['Exported True Serving'],
    ],
  ] as [string, Given, string[]][])('%s', ([, given, expected]) => {
    expect(steps(given)).toEqual(expected)
  })

  test('has in its manifest what the server needs, and nothing that changes all the time', () => {
    const [action] = planDisk(
      see({ manifest: 'none', metadata: { resourceVersion: '7', labels: { a: 'b' } } }),
    ).actions
    expect(action?.kind === 'write manifest' && JSON.parse(action.text)).toEqual({
      apiVersion: 'ondemanddisk.dev/v1alpha1',
      kind: 'OnDemandDisk',
      metadata: { name: 'alice', namespace: 'ns', uid: UID, generation: 2 },
      spec: expect.objectContaining({ exportName: 'alice', size: 16 * MIB }),
    })
  })
})

describe('Growth', () => {
  const grown = { ...settled, spec: { size: 64 * MIB } }
  test.for([
    ['is told while it goes on', grown, 'Resizing True Growing'],
    [
      'is told to wait for clients',
      { ...grown, observed: { file: { size: 64 * MIB, allocated: 1 } }, served: { filesystemBehind: true } },
      'Resizing True WaitingForClients',
    ],
    [
      'is told when it is done',
      { ...grown, observed: { file: { size: 64 * MIB, allocated: 1 } } },
      'Resizing False Resized',
    ],
    [
      'is refused with the limit',
      {
        ...grown,
        observed: {
          allotment: { size: 16 * MIB, refusal: { reason: 'QuotaExceeded', message: 'spec.quota' } },
        },
      },
      'Resizing False QuotaExceeded',
    ],
  ] as [string, Given, string][])('%s', ([, given, expected]) => {
    expect(steps({ ...given, manifest: 'written' }).join()).toContain(expected)
  })

  test('that the quota refuses reaches no manifest; nor does a size below that of the file', () => {
    const refusal = { reason: 'QuotaExceeded', message: 'no' } as const
    for (const observed of [
      { allotment: { size: 16 * MIB, refusal } },
      { file: { size: 16 * MIB, allocated: 1 }, parsed: undefined },
    ]) {
      const { parsed: _, ...rest } = observed as Partial<AgentObserved>
      const size = 'allotment' in observed ? 64 * MIB : 8 * MIB
      const [action] = planDisk(see({ ...settled, spec: { size }, manifest: 'none', observed: rest })).actions
      expect(action?.kind === 'write manifest' && JSON.parse(action.text).spec.size).toBe(16 * MIB)
    }
  })
})

describe('Numbers', () => {
  const busy = { ...settled, served: { connections: client(1) } }
  test.for([
    ['connections that changed long ago are written', busy, ['Exported True Serving'], 30_000],
    ['those that have just been written wait', { ...busy, observed: { sinceWriteMs: 500 } }, [], 1500],
    [
      'those that are as they were are not written',
      { ...busy, status: { ...KNOWN, connections: 1, clients: ['10.0.0.0'] } },
      [],
      30_000,
    ],
    [
      'a little more that is allocated is not written',
      { ...settled, observed: { file: { size: 16 * MIB, allocated: 8192 } } },
      [],
      undefined,
    ],
    [
      'much more is',
      { ...settled, observed: { file: { size: 16 * MIB, allocated: 4 * MIB } } },
      ['Exported True Serving'],
      undefined,
    ],
    [
      'but not all the time',
      { ...settled, observed: { file: { size: 16 * MIB, allocated: 4 * MIB }, sinceWriteMs: 10_000 } },
      [],
      20_000,
    ],
  ] as [string, Given, string[], number | undefined][])('%s', ([, given, expected, again]) => {
    expect(steps(given)).toEqual(expected)
    expect(planDisk(see(given)).requeueAfterMs).toBe(again)
  })

  test('name at most 16 clients, each once', () => {
    const connections = [...client(20), ...client(20), { client: '[fd00::1]:9', since: DELETED_AT }]
    const [action] = planDisk(see({ ...settled, served: { connections } })).actions
    const { fields } = (action?.kind === 'status' && action.change) || {}
    expect(fields).toMatchObject({
      connections: 41,
      clients: client(16).map(each => each.client.slice(0, -2)),
    })
  })
})

describe('A spare', () => {
  const promised = {
    conditions: [],
    manifest: 'none',
    served: 'absent',
    metadata: { annotations: { [SPARE_ANNOTATION]: '0123456789abcdef-0' } },
  } as const
  const taken = 'Formatted True Formatted, Provisioned True SpareTaken'
  test.for([
    [
      'is taken, and served before it is told',
      { ...promised, observed: { file: undefined, spare: true } },
      ['take spare', 'write manifest', taken],
    ],
    [
      'that was taken before a crash is served and told',
      { ...promised, observed: { spare: false } },
      ['write manifest', taken],
    ],
    [
      'that was served before a crash is told',
      { ...promised, manifest: 'written', observed: { spare: false } },
      [taken],
    ],
    ['that is gone leaves the disk to the operator', { ...promised, observed: { file: undefined } }, []],
    [
      'is never taken for a disk that has been made, though its file is missing',
      {
        ...promised,
        conditions: ['Provisioned True Formatted'],
        manifest: 'written',
        observed: { file: undefined, spare: true },
      },
      ['Exported False DataMissing'],
    ],
  ] as [string, Given, string[]][])('%s', ([, given, expected]) => {
    expect(steps(given)).toEqual(expected)
  })

  describe('that has just become a disk', () => {
    const born = Date.parse('2026-01-01T00:00:00Z')
    const young = (ageMs: number, given: Given = {}) => ({
      ...promised,
      manifest: 'written' as const,
      status: { conditions: undefined },
      metadata: { ...promised.metadata, creationTimestamp: '2026-01-01T00:00:00Z' },
      ...given,
      observed: { spare: false, now: born + ageMs, ...given.observed },
    })

    test('is told of together with its server’s word', () => {
      expect(steps(young(100))).toEqual([])
      expect(planDisk(see(young(100))).requeueAfterMs).toBe(SPARE_QUIET_MS - 100)
      expect(steps(young(100, { served: {} }))).toEqual([`${taken}, Exported True Serving, Ready True Ready`])
    })

    test('is made and served at once all the same', () => {
      const fresh = young(100, { manifest: 'none', observed: { file: undefined, spare: true } })
      expect(steps(fresh)).toEqual(['take spare', 'write manifest'])
    })

    test.for([
      ['when its server does not tell of it', young(SPARE_QUIET_MS)],
      ['when its server cannot serve it', young(100, { served: { problem: 'It is broken.' } })],
      ['whatever the clocks say', young(-3_600_000)],
      [
        'when somebody has spoken of it',
        young(100, { status: {}, conditions: ['Ready False Provisioning'] }),
      ],
    ] as [string, Given][])('is told of without it %s', ([, given]) => {
      expect(steps(given)).toEqual([taken])
    })
  })
})

describe('A disk that is deleted', () => {
  const deleted = { metadata: { deletionTimestamp: DELETED_AT, annotations: {} } }
  const agreed = { ...deleted, conditions: ['Provisioned True Formatted', 'Ready False Deleting'] }
  const closed = { ...agreed, manifest: 'deleting', served: { deleting: true } } as const
  const forced = {
    metadata: {
      deletionTimestamp: DELETED_AT,
      finalizers: [FINALIZER],
      annotations: { [FORCE_DELETE_ANNOTATION]: 'true' },
    },
  }
  const unserved = { ...agreed, manifest: 'none', served: 'absent' } as const
  test.for([
    ['is closed to new clients at once', { ...settled, ...deleted }, ['write manifest']],
    ['keeps its file while a Job may still make it', { ...deleted, manifest: 'none', served: 'absent' }, []],
    ['is closed before anything else', agreed, ['write manifest']],
    ['waits for the server to close it', { ...closed, served: {} }, []],
    ['waits for a server that is away', { ...closed, served: 'unknown' }, []],
    [
      'waits for its clients',
      { ...closed, served: { deleting: true, connections: client(2) } },
      ['Exported True InUse'],
    ],
    [
      'does not wait if it is forced',
      { ...closed, ...forced, served: { deleting: true, connections: client(2) } },
      ['remove manifest'],
    ],
    ['is let go of when nobody has it', closed, ['remove manifest']],
    ['keeps its file until the server has let go of it', { ...unserved, served: {} }, []],
    ['keeps its file while the server is away', { ...unserved, served: 'unknown' }, []],
    ['loses its file then', unserved, ['remove file', 'Exported False Removed']],
    [
      'may keep it elsewhere',
      { ...unserved, spec: { reclaimPolicy: 'Retain' } },
      ['retain file', 'Exported False Retained'],
    ],
    // The agent was killed between the two steps: the data was said to be gone.
    [
      'that was kept elsewhere before a crash is told so',
      { ...unserved, spec: { reclaimPolicy: 'Retain' }, observed: { file: undefined, isRetained: true } },
      ['Exported False Retained'],
    ],
    ['without a file is gone', { ...unserved, observed: { file: undefined } }, ['Exported False Removed']],
    [
      'that is gone is left alone',
      {
        ...unserved,
        conditions: [...agreed.conditions, 'Exported False Removed'],
        observed: { file: undefined },
      },
      [],
    ],
    [
      'that is not in our care is never removed',
      { ...unserved, metadata: { deletionTimestamp: DELETED_AT, finalizers: ['other'] } },
      [],
    ],
    [
      'and has a wrong spec is deleted all the same',
      { ...closed, spec: { access: { allow: ['x'] } }, manifest: 'deleting' },
      ['remove manifest'],
    ],
  ] as [string, Given, string[]][])('%s', ([, given, expected]) => {
    expect(steps(given)).toEqual(expected)
  })
})
