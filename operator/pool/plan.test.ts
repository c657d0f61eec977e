import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type DiskPool, parseDiskPool } from '../../crds/diskpool.ts'
import { InvalidSpecError } from '../../crds/invalid-spec-error.ts'
import type { KubeObject } from '../kube/objects.ts'
import { ACCEPTED_ANNOTATION, FINALIZER } from '../terms/names.ts'
import type { JobView } from './job-view.ts'
import { PARTS, type Part, type PoolAction, type PoolObserved } from './observed.ts'
import { planPool } from './plan.ts'
import { POD_PATIENCE_MS } from './pod-problem.ts'
import { QUIET_MS } from './spares.ts'

const NOW = Date.parse('2026-01-01T00:10:00Z')
const NONE = {
  serviceAccount: undefined,
  roleBinding: undefined,
  service: undefined,
  networkPolicy: undefined,
  server: undefined,
}
const POD = { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'lab-0', namespace: 'ns' } }
const READY_POD = {
  ...POD,
  spec: { nodeName: 'node' },
  status: { phase: 'Running', conditions: [{ type: 'Ready', status: 'True' }] },
}
const CLAIM = {
  ...{ apiVersion: 'v1', kind: 'PersistentVolumeClaim' },
  metadata: {
    name: 'lab-disks',
    namespace: 'ns',
    labels: { 'app.kubernetes.io/managed-by': 'ondemand-disk-operator' },
  },
  spec: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '1Gi' } } },
  status: { phase: 'Bound' },
}
const SPARES = { enabled: true, spares: 2, template: { size: '1Gi' } }

interface Given extends Partial<Omit<PoolObserved, 'pool' | 'parsed'>> {
  readonly spec?: Record<string, unknown>
  readonly metadata?: Record<string, unknown>
  readonly status?: Record<string, unknown>
}

function see({ spec, metadata, status, ...observed }: Given = {}): PoolObserved {
  const pool = {
    apiVersion: 'ondemanddisk.dev/v1alpha1',
    kind: 'DiskPool',
    metadata: {
      ...{ name: 'lab', namespace: 'ns', uid: 'uid-1', generation: 1, finalizers: [FINALIZER] },
      annotations: {
        [ACCEPTED_ANNOTATION]: JSON.stringify({ claimTemplate: { accessModes: ['ReadWriteOnce'] } }),
      },
      ...metadata,
    },
    spec: { storage: { claimTemplate: { size: '1Gi' } }, ...spec },
    ...(status && { status }),
  } as unknown as DiskPool
  let parsed: DiskPool | InvalidSpecError
  try {
    parsed = parseDiskPool(pool)
  } catch (error) {
    if (!(error instanceof InvalidSpecError)) throw error
    parsed = error
  }
  return {
    ...{ pool, parsed, isNamespaceTerminating: false, claim: undefined, parts: NONE, serverPod: undefined },
    ...{ disks: { count: 0, names: [], provisioned: 0 }, spareJob: { state: 'none' }, now: NOW },
    spareTakenAt: undefined,
    settings: { image: 'x', agentClusterRole: 'agent' },
    ...observed,
  }
}

function line(action: PoolAction): string {
  switch (action.kind) {
    case 'apply':
      return `${action.isNew ? 'make' : 'change'} ${action.part}`
    case 'status':
      return (action.change.conditions ?? [])
        .map(({ type, status, reason }) => `${type}=${status}/${reason}`)
        .join(' ')
    case 'release':
      return action.event ? `release +${action.event.reason}` : 'release'
    default:
      return action.kind
  }
}

const lines = (given: Given) => planPool(see(given)).actions.map(line)

/** What the plan makes of an empty cluster, as the API server would have it. */
function built(spec: Record<string, unknown> = {}): Record<Part, KubeObject | undefined> {
  const parts: Record<Part, KubeObject | undefined> = { ...NONE }
  for (const action of planPool(see({ spec })).actions) {
    if (action.kind === 'apply') parts[action.part] = structuredClone(action.object)
  }
  return parts
}

describe('A pool', () => {
  test('is taken into care first', () => {
    expect(lines({ metadata: { finalizers: [] } })).toEqual(['claim'])
  })

  test('gets its parts, the server last', () => {
    expect(lines({})).toEqual([
      'create claim',
      ...PARTS.map(part => `make ${part}`),
      'StorageReady=False/ClaimPending ServerReady=False/ServerStarting Ready=False/ClaimPending',
    ])
  })

  test('is left alone when all is there, whatever the API server has added', () => {
    const parts = built({ server: { resources: { requests: { cpu: '0.5' } } } })
    ;(parts.service as unknown as { spec: Record<string, unknown> }).spec.clusterIP = '10.0.0.1'
    const server = parts.server as unknown as {
      spec: { template: { spec: { containers: { resources: unknown }[] } } }
    }
    for (const container of server.spec.template.spec.containers)
      container.resources = { requests: { cpu: '500m' } }
    expect(
      lines({
        parts,
        claim: CLAIM,
        serverPod: READY_POD,
        spec: { server: { resources: { requests: { cpu: '0.5' } } } },
      }),
    ).toEqual(['StorageReady=True/Bound ServerReady=True/Serving Ready=True/Ready'])
  })

  test.for<[string, Record<string, unknown>, string[]]>([
    ['its Service', { server: { serviceType: 'NodePort' } }, ['change service']],
    ['its server', { exportNames: 'Relaxed' }, ['change server']],
    ['a field that is wanted no longer', { server: { podLabels: {} } }, ['change server']],
    [
      'nothing for rules of clients, which must not restart the server',
      { access: { allow: ['10.0.0.0/8'] } },
      [],
    ],
  ])('follows a change: %s', ([, spec, expected]) => {
    const parts = built({ server: { podLabels: { team: 'a' } } })
    const wanted = {
      server: { podLabels: { team: 'a' }, ...(spec.server as object) },
      ...Object.fromEntries(Object.entries(spec).filter(([key]) => key !== 'server')),
    }
    expect(lines({ parts, claim: CLAIM, serverPod: READY_POD, spec: wanted }).slice(0, -1)).toEqual(expected)
  })

  test('lives with a claim that a person has made larger than any disk', () => {
    const claim = { ...CLAIM, spec: { ...CLAIM.spec, resources: { requests: { storage: '16Pi' } } } }
    expect(lines({ parts: built(), claim: claim as KubeObject, serverPod: READY_POD })).toEqual([
      'StorageReady=True/Bound ServerReady=True/Serving Ready=True/Ready',
    ])
  })

  test('does not send clients to a Service that is somebody else’s', () => {
    const status = { loadBalancer: { ingress: [{ ip: '192.0.2.1' }] } }
    const uriOf = (service: object | undefined) => {
      const parts = { ...NONE, service: { ...service, status } as unknown as KubeObject }
      const said = planPool(
        see({ claim: CLAIM as KubeObject, serverPod: READY_POD as KubeObject, parts }),
      ).actions.at(-1)
      return said?.kind === 'status' ? said.change.fields?.uri : undefined
    }
    expect(uriOf(built().service)).toBe('nbd://192.0.2.1:10809')
    expect(uriOf({ apiVersion: 'v1', kind: 'Service', metadata: { name: 'lab' } })).toBe(
      'nbd://lab.ns.svc:10809',
    )
  })

  test('lets its claim grow', () => {
    expect(
      lines({ parts: built(), claim: CLAIM, spec: { storage: { claimTemplate: { size: '2Gi' } } } }),
    ).toContain('grow claim')
  })

  test.for<[string, Given, string]>([
    ['bad spec', { spec: { storage: {} } }, 'Ready=False/InvalidSpec'],
    ['another claim than before', { spec: { storage: { claimName: 'other' } } }, 'Ready=False/InvalidSpec'],
    [
      'no claim',
      {
        metadata: { annotations: { [ACCEPTED_ANNOTATION]: '{"claimName":"mine"}' } },
        spec: { storage: { claimName: 'mine' } },
      },
      'StorageReady=False/ClaimNotFound ServerReady=False/ServerStarting Ready=False/ClaimNotFound',
    ],
    [
      'claim lost',
      { claim: { ...CLAIM, status: { phase: 'Lost' } } as KubeObject },
      'StorageReady=False/ClaimLost ServerReady=False/ServerStarting Ready=False/ClaimLost',
    ],
    [
      'no node for the server',
      {
        claim: CLAIM,
        serverPod: {
          ...POD,
          status: {
            conditions: [
              { type: 'PodScheduled', status: 'False', reason: 'Unschedulable', message: '0/1 nodes' },
            ],
          },
        } as KubeObject,
      },
      'StorageReady=True/Bound ServerReady=False/ServerNotRunning Ready=False/ServerNotRunning',
    ],
    [
      'a Service of somebody else',
      {
        claim: CLAIM,
        serverPod: READY_POD,
        parts: { ...NONE, service: { apiVersion: 'v1', kind: 'Service', metadata: { name: 'lab' } } },
      },
      'StorageReady=True/Bound ServerReady=True/Serving Ready=False/NameTaken',
    ],
  ])('says what is wrong: %s', ([, given, expected]) => {
    expect(lines(given).at(-1)).toBe(expected)
  })

  // Of a Secret that is missing the pool told no more than exit code 2.
  test.each([
    ['start\nodd: --tls-dir: /tls has neither.\n', ', exit code 2: odd: --tls-dir: /tls has neither.'],
    [
      '{"level":"fatal","time":"T","reason":"It is full.","msg":"It ended"}\n',
      ', exit code 2: It ended: It is full.',
    ],
    ['{"level":"info","time":"T","msg":"A client left"}\n', ', exit code 2'],
    ['', ', exit code 2'],
  ])('tells the last words of a server that does not start: %j', (message, words) => {
    const parts = built()
    expect(JSON.stringify(parts.server).split('"FallbackToLogsOnError"')).toHaveLength(3)
    const container = {
      name: 'nbd',
      state: { waiting: { reason: 'CrashLoopBackOff', message: 'back-off 20s' } },
      lastState: { terminated: { exitCode: 2, message } },
    }
    const serverPod = { ...POD, status: { containerStatuses: [container] } } as KubeObject
    const said = planPool(see({ claim: CLAIM as KubeObject, parts, serverPod })).actions.at(-1)
    expect(JSON.stringify(said)).toContain(
      JSON.stringify(`The Pod lab-0 does not run. Container nbd: CrashLoopBackOff${words}`),
    )
  })

  // A quota that refuses the Pod tells nobody but the StatefulSet: the server "was starting" for ever.
  test('whose server gets no Pod says so after a while, and where to look', () => {
    const plan = (age: number) => {
      const lastTransitionTime = new Date(NOW - age).toISOString()
      const starting = { type: 'ServerReady', status: 'False', reason: 'ServerStarting', message: '' }
      const status = { conditions: [{ ...starting, lastTransitionTime }] }
      const { actions, requeueAfterMs } = planPool(see({ claim: CLAIM, parts: built(), status }))
      return { said: JSON.stringify(actions), requeueAfterMs }
    }
    expect(plan(POD_PATIENCE_MS - 1)).toMatchObject({ requeueAfterMs: 1 })
    expect(plan(POD_PATIENCE_MS - 1).said).not.toContain('describe')
    expect(plan(POD_PATIENCE_MS).said).toMatch(/"ServerNotRunning".*kubectl describe statefulset /)
    expect(plan(POD_PATIENCE_MS).requeueAfterMs).toBeUndefined()
  })

  // The claim waits for the Pod then, not the Pod for the claim.
  test('whose server gets no Pod says so also where its claim is not bound', () => {
    const since = { lastTransitionTime: new Date(NOW - POD_PATIENCE_MS).toISOString(), message: '' }
    const status = {
      conditions: [{ type: 'ServerReady', status: 'False', reason: 'ServerStarting', ...since }],
    }
    const claim = { ...CLAIM, status: { phase: 'Pending' } } as KubeObject
    expect(lines({ claim, parts: built(), status }).at(-1)).toBe(
      'StorageReady=False/ClaimPending ServerReady=False/ServerNotRunning Ready=False/ServerNotRunning',
    )
  })

  test('makes nothing where a name is taken', () => {
    const service = { apiVersion: 'v1', kind: 'Service', metadata: { name: 'lab' } }
    expect(lines({ claim: CLAIM, parts: { ...NONE, service } })).toHaveLength(1)
  })
})

describe('Spares', () => {
  const given = (spareJob: JobView, status = { spares: 0 }): Given => ({
    ...{ spec: { onDemand: SPARES }, parts: built({ onDemand: SPARES }), claim: CLAIM, serverPod: READY_POD },
    ...{ spareJob, status },
  })
  const failed: JobView = {
    state: 'failed',
    message: 'no luck',
    isFinal: false,
    generation: 1,
    attempt: 1,
    finishedAt: NOW - 1000,
  }
  test.for<[string, Given, string[]]>([
    ['are made when they are missing', given({ state: 'none' }), ['start spares']],
    ['are not made when they are there', given({ state: 'none' }, { spares: 2 }), []],
    ['wait for the Job', given({ state: 'running', startedAt: 0 }), []],
    [
      'wait for the Pod of the Job',
      given({ state: 'running', startedAt: NOW, withoutPod: { name: 'odd-spares-1' } }),
      [],
    ],
    [
      'say that the Job has no Pod',
      given({ state: 'running', startedAt: NOW - POD_PATIENCE_MS, withoutPod: { name: 'odd-spares-1' } }),
      ['SparesReady=False/SparesFailed'],
    ],
    ['wait until the agent has counted', given({ state: 'succeeded', finishedAt: NOW }), []],
    ['are done', given({ state: 'succeeded', finishedAt: NOW }, { spares: 2 }), ['delete spare job']],
    ['that fail say so', given(failed), ['SparesReady=False/SparesFailed']],
    [
      'that failed are tried again',
      { ...given(failed), now: NOW + 9000 },
      ['delete spare job', 'start spares'],
    ],
    ['need the server’s node', { ...given({ state: 'none' }), serverPod: undefined }, []],
  ])('%s', ([, observed, expected]) => {
    expect(lines(observed).slice(1)).toEqual(expected)
  })

  describe('that clients are taking', () => {
    const onDemand = { ...SPARES, spares: 4 }
    const plan = (left: number, since: number) => {
      const observed = { ...given({ state: 'none' }, { spares: left }), spec: { onDemand } }
      const { actions, requeueAfterMs } = planPool(
        see({ ...observed, parts: built({ onDemand }), spareTakenAt: NOW - since }),
      )
      return { isStarted: actions.some(({ kind }) => kind === 'start spares'), requeueAfterMs }
    }

    test('are made up for when nobody has come for a while', () => {
      expect(plan(3, 0)).toEqual({ isStarted: false, requeueAfterMs: QUIET_MS })
      expect(plan(3, QUIET_MS - 1)).toEqual({ isStarted: false, requeueAfterMs: 1 })
      expect(plan(3, QUIET_MS)).toEqual({ isStarted: true })
    })

    test('are made up for at once when half of them are gone', () => {
      expect(plan(2, 0)).toEqual({ isStarted: true })
      expect(plan(0, 0)).toEqual({ isStarted: true })
    })

    test('are made up for whatever the clocks say', () => {
      expect(plan(3, -1000)).toEqual({ isStarted: false, requeueAfterMs: QUIET_MS })
      expect(plan(3, -3_600_000)).toEqual({ isStarted: true })
    })

    test('never run out for good: of any number, at any time, the plan makes some or looks again soon', () => {
      const times = fc.integer({ min: -2 * QUIET_MS, max: 2 * QUIET_MS })
      fc.assert(
        fc.property(fc.nat(3), times, (left, since) => {
          const { isStarted, requeueAfterMs = Number.NaN } = plan(left, since)
          expect(isStarted || (requeueAfterMs > 0 && requeueAfterMs <= QUIET_MS)).toBe(true)
          if (left <= 2) expect(isStarted).toBe(true)
          // By the time that it looks again, nobody else having come, it makes them.
          if (!isStarted) expect(plan(left, since + requeueAfterMs).isStarted || since < 0).toBe(true)
        }),
      )
    })
  })

  test('whose template does not fit their Job say so, by the name of the field', () => {
    const long = Array.from({ length: 64 }, (_, index) => [`v${index}`, 'x'.repeat(4096)])
    const template = { size: '1Mi', command: 'true', variables: Object.fromEntries(long) }
    const onDemand = { ...SPARES, template }
    const { actions } = planPool(
      see({ ...given({ state: 'none' }), spec: { onDemand }, parts: built({ onDemand }) }),
    )
    const message = expect.stringMatching(/^spec\.onDemand\.template\.variables: /)
    expect(actions).toContainEqual(
      expect.objectContaining({
        change: { conditions: [expect.objectContaining({ type: 'SparesReady', message })] },
      }),
    )
    expect(actions.map(({ kind }) => kind)).not.toContain('start spares')
  })
})

describe('A pool that is deleted', () => {
  const metadata = { deletionTimestamp: '2026-01-01T00:00:00Z' }
  const disks = { count: 7, names: ['a', 'b', 'c', 'd', 'e'], provisioned: 0 }

  test('waits for its disks and says which', () => {
    const [action] = planPool(see({ metadata, disks })).actions
    expect(action).toMatchObject({
      change: {
        conditions: [{ reason: 'Deleting', message: expect.stringMatching(/a, b, c, d, e, and 2 more/) }],
      },
    })
  })

  test('goes without disks, with its namespace, and with a bad spec; its claim stays', () => {
    expect(lines({ metadata })).toEqual(['release +ClaimKept'])
    expect(lines({ metadata, disks, isNamespaceTerminating: true })).toEqual(['release +ClaimKept'])
    expect(lines({ metadata, spec: { storage: {} } })).toEqual(['release'])
    expect(lines({ metadata: { ...metadata, finalizers: [] } })).toEqual([])
  })
})
