/** Clients that want a disk of which there is an object that the agent does not follow. */
import { setImmediate } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { DISKPOOL_KIND, type DiskPool } from '../../crds/diskpool.ts'
import type { DiskSnapshot } from '../../crds/disksnapshot.ts'
import { API_GROUP_VERSION, ONDEMANDDISK_KIND, type OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { createClient } from '../kube/client.ts'
import { ObjectStore } from '../kube/store.ts'
import { TestApi } from '../kube/test-api.ts'
import type { Transport } from '../kube/transport.ts'
import { createOnDemand, type OnDemandTerms } from './on-demand.ts'
import { createPoolView, FRESH_MS } from './pool-view.ts'

const log = { debug() {}, info() {}, warn() {}, error() {} }

beforeEach(() => void vi.useFakeTimers({ toFake: ['performance'] }))
afterEach(() => void vi.useRealTimers())

function setUp() {
  const api = new TestApi()
  const disks = new ObjectStore<OnDemandDisk>({
    export: ({ metadata, spec }) => [spec.exportName ?? metadata.name],
  })
  const view = createPoolView({ disks, snapshots: new ObjectStore<DiskSnapshot>(), log, onAdd: () => {} })
  const pool = {
    apiVersion: API_GROUP_VERSION,
    kind: DISKPOOL_KIND,
    metadata: { namespace: 'ns', name: 'lab', generation: 1 },
    spec: { storage: { claimName: 'claim' }, onDemand: { enabled: true, template: { size: '8Mi' } } },
  }
  view.poolChanged({ type: 'added', object: pool as unknown as DiskPool, initial: true })
  // As over a network: whatever asks all the time must not keep clocks from running.
  const transport: Transport = async request => {
    await setImmediate()
    return await api.transport(request)
  }
  const { answer } = createOnDemand({
    ...{ client: createClient({ transport }), namespace: 'ns', poolName: 'lab', view, log },
    volume: { spares: async () => [] } as unknown as OnDemandTerms['volume'],
    isDeclared: () => false,
    isSynced: () => true,
    counted: { made: 0, refused: 0, spares: 0 },
  })
  const ask = (ms: number) =>
    answer({ name: 'alice', client: '10.0.0.1:5', create: true }, AbortSignal.timeout(ms))
  const made = () => api.requests.filter(request => request.startsWith('POST')).length
  return { api, ask, made }
}

/** The operator has not taken it into its care, and so it has no label. */
const unlabelled = (conditions: readonly object[] = []) => ({
  apiVersion: API_GROUP_VERSION,
  kind: ONDEMANDDISK_KIND,
  metadata: { namespace: 'ns', name: 'alice' },
  spec: { poolName: 'lab', size: '8Mi' },
  status: { conditions },
})
const INVALID = { type: 'Ready', status: 'False', reason: 'InvalidSpec', message: 'spec.size: Bad.' }

// One without exportName was not found by it: the agent asked for the same object as fast as the API server answered.
test('A disk that the operator has not seen yet is asked for once', async () => {
  const { api, ask, made } = setUp()
  api.put(unlabelled())
  expect(await ask(200)).toEqual({ result: 'waiting' })
  expect(made()).toBe(1)
})

// The agent is not told of what becomes of such an object: its name was refused until the agent started anew.
test('A disk that is not valid refuses its name for as long as it is there', async () => {
  const { api, ask, made } = setUp()
  api.put(unlabelled([INVALID]))
  const refusal = { result: 'refused', kind: 'failed', message: INVALID.message }
  expect(await ask(200)).toEqual(refusal)
  vi.advanceTimersByTime(FRESH_MS)
  expect(await ask(200)).toEqual(refusal)
  api.remove('alice', 'ns')
  vi.advanceTimersByTime(FRESH_MS)
  expect(await ask(200)).toEqual({ result: 'waiting' })
  expect(made()).toBe(3)
})
