import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { eventually } from '../until.ts'
import { disk, diskPath, gone, pool, poolPath, ready } from './disks.ts'
import { type Cluster, newNamespace, onCluster, useCluster } from './harness.ts'
import { install, RELEASE, RELEASE_NAMESPACE, uninstall } from './release.ts'

let cluster: Cluster

beforeAll(async () => {
  cluster = await useCluster()
})
afterAll(async () => {
  // Other files count on the release as setup.ts left it.
  if (cluster.unavailable === undefined) await install(cluster)
  await cluster[Symbol.asyncDispose]()
})
beforeEach(context => onCluster(context, cluster, RELEASE_NAMESPACE))

const helmTest = () => cluster.helm(['test', RELEASE, '-n', RELEASE_NAMESPACE, '--timeout', '240s', '--logs'])

describe('The release', () => {
  test('brings a default pool, and passes its own test', { timeout: 400_000 }, async () => {
    await install(cluster, 'defaultPool.enabled=true', 'defaultPool.spec.storage.claimTemplate.size=1Gi')
    await ready(cluster, poolPath(RELEASE_NAMESPACE, 'default'))
    const { status, stdout, stderr } = await helmTest()
    expect(`${status} ${stdout}${stderr}`).toMatch(/^0 [\s\S]*Succeeded/)
    expect(stdout).toContain('The operator is available, and the pool default answers.')
  })

  test('tells scrapers and probes what it does', async () => {
    const pods = await cluster.get(
      `/api/v1/namespaces/${RELEASE_NAMESPACE}/pods?labelSelector=app.kubernetes.io/component=operator`,
    )
    const running = pods?.items.find(
      ({ status }: { status: { phase: string } }) => status.phase === 'Running',
    )
    const script = `fetch('http://127.0.0.1:8080/metrics').then(r => r.text()).then(t => process.stdout.write(t))`
    const into = ['exec', '-n', RELEASE_NAMESPACE, running.metadata.name, '--', 'node', '-e', script]
    const text = await cluster.kubectl(into)
    expect(text).toMatch(/^leader_election_master_status\{name="ondemand-disk-operator"\} 1$/m)
    expect(text).toMatch(/^controller_runtime_reconcile_total\{controller="\w+",result="success"\} [1-9]/m)
  })

  test('is not uninstalled while there is a disk, which it names', { timeout: 400_000 }, async () => {
    await cluster.apply(disk(RELEASE_NAMESPACE, 'precious', { poolName: 'default', size: '16Mi' }))
    await ready(cluster, diskPath(RELEASE_NAMESPACE, 'precious'))
    const { status, stdout, stderr } = await uninstall(cluster.kubeconfig)
    expect(status).not.toBe(0)
    expect(`${stdout}${stderr}`).toContain(`Disks are left: ${RELEASE_NAMESPACE}/precious`)
    await ready(cluster, diskPath(RELEASE_NAMESPACE, 'precious'))
    await cluster.send('DELETE', diskPath(RELEASE_NAMESPACE, 'precious'))
    await gone(cluster, diskPath(RELEASE_NAMESPACE, 'precious'))
  })

  test('is not uninstalled while there is a pool of others', { timeout: 400_000 }, async () => {
    await using other = await newNamespace(cluster, 'e2e-other')
    await cluster.apply(pool(other.name, 'mine'))
    const { status, stdout, stderr } = await uninstall(cluster.kubeconfig)
    expect(status).not.toBe(0)
    expect(`${stdout}${stderr}`).toContain(`Pools are left: ${other.name}/mine`)
    await cluster.send('DELETE', poolPath(other.name, 'mine'))
    await gone(cluster, poolPath(other.name, 'mine'))
  })

  test('is uninstalled with its empty pool, and leaves the volume and the CRDs', {
    timeout: 400_000,
  }, async () => {
    const { status, stdout, stderr } = await uninstall(cluster.kubeconfig)
    expect(`${status} ${stdout}${stderr}`).toMatch(/^0 /)
    expect(await cluster.get(poolPath(RELEASE_NAMESPACE, 'default'))).toBeUndefined()
    const claims = await cluster.get(`/api/v1/namespaces/${RELEASE_NAMESPACE}/persistentvolumeclaims`)
    expect(claims?.items.map(({ metadata }: { metadata: { name: string } }) => metadata.name)).toEqual([
      'default-disks',
    ])
    // A kubelet that has missed the end of a container looks at its pods again after up to 90 s.
    await eventually('no pod is left', 180_000, async () => {
      const pods = await cluster.get(`/api/v1/namespaces/${RELEASE_NAMESPACE}/pods`)
      return pods?.items.length === 0
    })
    const crds = await cluster.kubectl(['get', 'crd', '-o', 'name'])
    expect(crds).toContain('diskpools.ondemanddisk.dev')
    expect(crds).toContain('ondemanddisks.ondemanddisk.dev')
  })
})
