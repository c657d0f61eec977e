import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { createClient } from './client.ts'
import { type Election, startElection } from './lease.ts'
import type { Lease } from './objects.ts'
import { TestApi } from './test-api.ts'
import type { Transport } from './transport.ts'

const NAME = { namespace: 'system', name: 'operator' }

let api: TestApi
let candidates: Election[]

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance', 'Date'] })
  api = new TestApi()
  candidates = []
})
afterEach(async () => {
  const stopped = Promise.all(candidates.map(candidate => candidate.stop()))
  await vi.advanceTimersByTimeAsync(60_000)
  await stopped
  vi.useRealTimers()
})

/** A candidate; `send` may stand between it and the API server. */
function candidate(identity: string, send: Transport = api.transport): Election {
  const election = startElection({ client: createClient({ transport: send }), ...NAME, identity })
  candidates.push(election)
  return election
}

const lease = () => api.objects[0] as Lease
const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms)
/** A way to the API server that can be cut. */
function line() {
  let cut = false
  const send: Transport = async request => {
    if (cut) throw new Error('connect ECONNREFUSED')
    return api.transport(request)
  }
  return {
    send,
    cut: (value: boolean) => {
      cut = value
    },
  }
}

test('the first takes the Lease and keeps it, with one request each 2 s', async () => {
  const first = candidate('first')
  await first.leading
  expect(lease().spec).toMatchObject({
    holderIdentity: 'first',
    leaseDurationSeconds: 15,
    leaseTransitions: 0,
  })
  const { acquireTime, renewTime } = lease().spec ?? {}
  expect(renewTime).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/)
  const before = api.requests.length
  await pass(60_000)
  expect(api.requests.slice(before)).toEqual(
    Array(30).fill('PUT /apis/coordination.k8s.io/v1/namespaces/system/leases/operator'),
  )
  expect(lease().spec?.acquireTime).toBe(acquireTime)
  expect(lease().spec?.renewTime).not.toBe(renewTime)
  expect([first.isLeader, first.holder]).toEqual([true, 'first'])
})

test('a leader that dies is followed within 20 s, and not before its Lease has ended', async () => {
  for (let round = 0; round < 20; round++) {
    api = new TestApi()
    const way = line()
    const first = candidate('first', way.send)
    await first.leading
    const second = candidate('second')
    let leads = false
    void second.leading.then(() => {
      leads = true
    })
    await pass(10_000 + round * 97)
    expect([second.isLeader, second.holder]).toEqual([false, 'first'])
    const renewedAt = Date.parse(lease().spec?.renewTime ?? '')
    // As by SIGKILL: it writes no more, and gives nothing back.
    way.cut(true)
    const killedAt = Date.now()
    while (!leads) await pass(50)
    expect(Date.now() - killedAt).toBeLessThan(20_000)
    expect(Date.now() - renewedAt).toBeGreaterThanOrEqual(15_000)
    expect(lease().spec).toMatchObject({ holderIdentity: 'second', leaseTransitions: 1 })
    await Promise.all([first.stop(), second.stop()])
    candidates = []
  }
})

test('a leader that cannot renew gives up after 10 s, before another may lead', async () => {
  const way = line()
  const first = candidate('first', way.send)
  await first.leading
  await pass(5000)
  const second = candidate('second')
  way.cut(true)
  const cutAt = Date.now()
  let lostAt = 0
  let leadsAt = 0
  void first.lost.then(() => {
    lostAt = Date.now()
  })
  void second.leading.then(() => {
    leadsAt = Date.now()
  })
  while (leadsAt === 0) {
    await pass(50)
    expect(first.isLeader && second.isLeader).toBe(false)
  }
  expect(lostAt - cutAt).toBeGreaterThan(7000)
  expect(lostAt - cutAt).toBeLessThanOrEqual(10_000)
  expect(leadsAt).toBeGreaterThan(lostAt)
})

test('a short time without the API server costs nothing', async () => {
  const way = line()
  const first = candidate('first', way.send)
  await first.leading
  const second = candidate('second')
  let lost = false
  void first.lost.then(() => {
    lost = true
  })
  for (let n = 0; n < 5; n++) {
    way.cut(true)
    await pass(6000)
    way.cut(false)
    await pass(6000)
  }
  expect([lost, first.isLeader, second.isLeader]).toEqual([false, true, false])
})

test('whose Lease was taken leads no more', async () => {
  const first = candidate('first')
  await first.leading
  let lost = false
  void first.lost.then(() => {
    lost = true
  })
  api.put({ ...lease(), spec: { ...lease().spec, holderIdentity: 'thief' } } as Lease)
  await pass(2100)
  expect([lost, first.isLeader, first.holder]).toEqual([true, false, 'thief'])
})

test('a leader that stops gives the Lease back, and the next need not wait', async () => {
  const first = candidate('first')
  await first.leading
  const second = candidate('second')
  await pass(3000)
  await first.stop()
  expect(lease().spec).toMatchObject({ holderIdentity: '', leaseDurationSeconds: 1 })
  // At most 2 s and 1.2 times as much.
  await pass(4500)
  expect([second.isLeader, lease().spec?.holderIdentity]).toEqual([true, 'second'])
})

test('one that stops without leading writes nothing', async () => {
  const first = candidate('first')
  await first.leading
  const second = candidate('second')
  await pass(3000)
  const before = lease().metadata.resourceVersion
  await second.stop()
  expect(lease().metadata.resourceVersion).toBe(before)
})

test("others' clocks do not matter", async () => {
  api.put({
    apiVersion: 'coordination.k8s.io/v1',
    kind: 'Lease',
    metadata: NAME,
    spec: {
      holderIdentity: 'first',
      leaseDurationSeconds: 15,
      // Long ago by its own clock; it may have been renewed just now.
      renewTime: '2001-01-01T00:00:00.000000Z',
      acquireTime: '2001-01-01T00:00:00.000000Z',
      leaseTransitions: 3,
    },
  } as Lease)
  const second = candidate('second')
  await pass(14_900)
  expect(second.isLeader).toBe(false)
  await pass(400)
  expect(second.isLeader).toBe(true)
  expect(lease().spec?.leaseTransitions).toBe(4)
})

test('of many at once one leads', async () => {
  const all = Array.from({ length: 10 }, (_, n) => candidate(`c${n}`))
  await pass(10_000)
  expect(all.filter(({ isLeader }) => isLeader)).toHaveLength(1)
  expect(new Set(all.map(({ holder }) => holder)).size).toBe(1)
})
