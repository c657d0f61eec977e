/** What commands do around their own work, against a stand-in for the API server. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { startElection } from '../kube/lease.ts'
import { LEASES, PODS } from '../kube/objects.ts'
import { TestApi } from '../kube/test-api.ts'
import { connect } from './program.ts'

async function connected(qps: number) {
  const api = new TestApi()
  const server = await api.listen()
  onTestFinished(() => server.close())
  const directory = mkdtempSync(join(tmpdir(), 'ondemand-disk-program-'))
  onTestFinished(() => rmSync(directory, { recursive: true }))
  const kubeconfig = join(directory, 'kubeconfig')
  writeFileSync(
    kubeconfig,
    JSON.stringify({
      ...{ apiVersion: 'v1', kind: 'Config', 'current-context': 'c' },
      clusters: [{ name: 'c', cluster: { server: server.url.origin, 'insecure-skip-tls-verify': true } }],
      contexts: [{ name: 'c', context: { cluster: 'c', user: 'u' } }],
      users: [{ name: 'u', user: {} }],
    }),
  )
  const program = await connect('run', { kubeconfig, 'log-level': 'error', 'kube-api-qps': qps })
  onTestFinished(() => program.close())
  return { api, program }
}

// The renewals stood in one queue with the requests of all workers: a leader with work to do lost its Lease, and ended.
test('a Lease is renewed however many requests wait for --kube-api-qps', async () => {
  const { api, program } = await connected(1)
  const working = new AbortController()
  const requests = Array.from({ length: 48 }, (_, index) =>
    program.client.find(PODS, { namespace: 'a', name: `pod-${index}` }, { signal: working.signal }),
  )
  const ended = Promise.allSettled(requests)
  const election = startElection({
    ...{ client: program.urgent, namespace: 'a', name: 'lease', identity: 'me' },
    ...{ leaseMs: 9000, renewDeadlineMs: 6000, retryMs: 200 },
  })
  await expect.poll(() => election.isLeader, { timeout: 20_000 }).toBe(true)
  await new Promise(resolve => setTimeout(resolve, 3000))
  expect(election.isLeader).toBe(true)
  expect(api.requests.filter(request => request.includes('/leases')).length).toBeGreaterThan(5)
  expect(api.requests.filter(request => request.includes('/pods')).length).toBeLessThan(10)
  await election.stop()
  expect(await program.urgent.get(LEASES, { namespace: 'a', name: 'lease' })).toMatchObject({
    spec: { holderIdentity: '' },
  })
  working.abort()
  await ended
})
