import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { eventually } from '../until.ts'
import { awaitRoutes, type ClientPod, needClientImage, startClients } from './client.ts'
import { becomes, condition, disk, diskPath, gone, pool, poolPath, ready, uriOf } from './disks.ts'
import { type Cluster, newNamespace, onCluster, useCluster } from './harness.ts'
import { RELEASE_NAMESPACE } from './release.ts'

/** Milliseconds until a disk is Ready, on a machine that is not busy with anything else. */
const WITH_NEW_POD = 15_000
const WITH_POD = 6_000
/** Kubernetes makes a Pod that was refused again after up to minutes. */
const LONG_PATIENCE = 240_000

let cluster: Cluster
let namespace: Awaited<ReturnType<typeof newNamespace>>
let client: ClientPod
let ns = ''

beforeAll(async () => {
  cluster = await useCluster()
  if (cluster.unavailable !== undefined) return
  namespace = await newNamespace(cluster, 'e2e-disks')
  ns = namespace.name
  await cluster.apply(
    pool(ns, 'lab'),
    disk(ns, 'alice', { poolName: 'lab', size: '1Gi' }),
    disk(ns, 'bob', { poolName: 'lab', size: '64Mi', filesystem: { type: 'vfat' } }),
  )
  for (const name of ['alice', 'bob']) await ready(cluster, diskPath(ns, name))
  if (cluster.clientImage === '') return
  ;[client] = (await startClients(cluster, ns, 'client')) as [ClientPod]
  await awaitRoutes(client, ns, 'lab')
})
afterAll(async () => {
  await namespace?.[Symbol.asyncDispose]()
  await cluster[Symbol.asyncDispose]()
})
beforeEach(context => {
  onCluster(context, cluster, ns, RELEASE_NAMESPACE)
  needClientImage(context, cluster)
})

const remove = (path: string) => cluster.send('DELETE', path)

/** Attempts at a time limit: another program may have had the machine for some seconds. */
const ATTEMPTS = 3

async function timed(work: () => Promise<void>): Promise<number> {
  const begin = performance.now()
  await work()
  return performance.now() - begin
}

/** The first time that is below the limit, in ms, or the best of all attempts. It is told in the run's log. */
async function best(
  what: string,
  limit: number,
  measure: (attempt: number) => Promise<number>,
): Promise<number> {
  const times: number[] = []
  while (times.length < ATTEMPTS && !times.some(time => time < limit)) times.push(await measure(times.length))
  process.stdout.write(`${what}: ${times.map(time => `${(time / 1000).toFixed(1)} s`).join(', ')}\n`)
  return Math.min(...times)
}

describe('Disks on a cluster', () => {
  test('are Ready soon, with the pool new and with its pod running', async () => {
    const withNewPod = await best('Pool and disk Ready, pod new', WITH_NEW_POD, async () => {
      await using fresh = await newNamespace(cluster, 'e2e-new')
      return await timed(async () => {
        await cluster.apply(
          pool(fresh.name, 'lab'),
          disk(fresh.name, 'first', { poolName: 'lab', size: '1Gi' }),
        )
        await ready(cluster, diskPath(fresh.name, 'first'))
      })
    })
    const withPod = await best('Disk Ready, pod running', WITH_POD, attempt =>
      timed(async () => {
        await cluster.apply(disk(ns, `quick-${attempt}`, { poolName: 'lab', size: '1Gi' }))
        await ready(cluster, diskPath(ns, `quick-${attempt}`))
      }),
    )
    expect(withNewPod).toBeLessThan(WITH_NEW_POD)
    expect(withPod).toBeLessThan(WITH_POD)
  }, 300_000)

  test('are shown with size, filesystem, readiness and URI', async () => {
    const table = await cluster.kubectl(['get', 'odd', '-n', ns])
    const [head, ...rows] = table.trimEnd().split('\n')
    expect(head).toMatch(/^NAME\s+SIZE\s+FS\s+READY\s+REASON\s+URI\s+AGE$/)
    expect(rows.find(row => row.startsWith('alice'))).toMatch(
      new RegExp(`^alice\\s+1Gi\\s+ext4\\s+True\\s+Ready\\s+nbd://lab\\.${ns}\\.svc:10809/alice\\s`),
    )
    expect(rows.find(row => row.startsWith('bob'))).toMatch(/^bob\s+64Mi\s+vfat\s+True\s/)
    expect(await cluster.kubectl(['get', 'storage', '-n', ns])).toContain('lab')
  })

  test('are formatted, written and read by a client in another pod, through the Service', async () => {
    const uri = uriOf(ns, 'lab', 'alice')
    expect(await client.exec('nbdinfo', '--size', uri)).toBe(`${1024 ** 3}\n`)
    const said = await client.python(
      `
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
assert h.pread(2, 1024 + 56) == b'\\x53\\xef', 'no ext4'
h.pwrite(b'written by a pod' * 256, 512 * 2**20, nbd.CMD_FLAG_FUA)
h.shutdown()
h = nbd.NBD()
h.connect_uri(sys.argv[1])
print(h.pread(16, 512 * 2**20).decode())
`,
      uri,
    )
    expect(said).toBe('written by a pod\n')
  })

  test('grow, and never shrink', async () => {
    await cluster.send('PATCH', diskPath(ns, 'alice'), { spec: { size: '2Gi' } })
    await eventually('the disk is larger', 60_000, async () => {
      const { status } = (await cluster.get(diskPath(ns, 'alice'))) ?? {}
      return status?.size === 2 * 1024 ** 3
    })
    const uri = uriOf(ns, 'lab', 'alice')
    expect(await client.exec('nbdinfo', '--size', uri)).toBe(`${2 * 1024 ** 3}\n`)
    const shrink = cluster.send('PATCH', diskPath(ns, 'bob'), { spec: { size: '32Mi' } })
    const refused = await shrink.then(
      () => undefined,
      error => `${error}`,
    )
    if (refused === undefined)
      await becomes(cluster, diskPath(ns, 'bob'), 'Ready', ({ reason }) => reason === 'InvalidSpec')
    else expect(refused).toContain('size')
    expect(await client.exec('nbdinfo', '--size', uriOf(ns, 'lab', 'bob'))).toBe(`${64 * 1024 ** 2}\n`)
  })

  test('in use are not deleted until their client has left, and say who that is', async () => {
    await cluster.apply(disk(ns, 'used', { poolName: 'lab', size: '64Mi' }))
    await ready(cluster, diskPath(ns, 'used'))
    {
      await using _held = await client.hold(uriOf(ns, 'lab', 'used'))
      await remove(diskPath(ns, 'used'))
      await becomes(cluster, diskPath(ns, 'used'), 'Ready', ({ reason, message }) => {
        return reason === 'Deleting' && message.includes(client.ip)
      })
    }
    await gone(cluster, diskPath(ns, 'used'))
  })

  test('in use are deleted at once where that is forced', async () => {
    await cluster.apply(disk(ns, 'forced', { poolName: 'lab', size: '64Mi' }))
    await ready(cluster, diskPath(ns, 'forced'))
    await using held = await client.hold(uriOf(ns, 'lab', 'forced'))
    await remove(diskPath(ns, 'forced'))
    await becomes(cluster, diskPath(ns, 'forced'), 'Ready', ({ reason }) => reason === 'Deleting')
    await cluster.send('PATCH', diskPath(ns, 'forced'), {
      metadata: { annotations: { 'ondemanddisk.dev/force-delete': 'true' } },
    })
    await held.ended
    await gone(cluster, diskPath(ns, 'forced'))
  })

  test('that are retained leave their file on the volume, others leave nothing', async () => {
    const uids: string[] = []
    for (const [name, reclaimPolicy] of [
      ['kept', 'Retain'],
      ['dropped', 'Delete'],
    ] as const) {
      await cluster.apply(disk(ns, name, { poolName: 'lab', size: '64Mi', reclaimPolicy }))
      const { metadata } = await ready(cluster, diskPath(ns, name))
      uids.push(metadata.uid)
      await remove(diskPath(ns, name))
      await gone(cluster, diskPath(ns, name))
    }
    const files = await cluster.kubectl(['exec', '-n', ns, 'lab-0', '-c', 'nbd', '--', 'find', '/pool'])
    expect(files).toContain(`/pool/retained/${uids[0]}`)
    expect(files).not.toContain(`/pool/disks/${uids[0]}`)
    expect(files).not.toContain(uids[1])
  })

  test.for([
    ['spec.size', { poolName: 'lab', size: 'big' }],
    ['spec.size', { poolName: 'lab', size: -1 }],
    ['spec.mode', { poolName: 'lab', size: '64Mi', mode: 'Sometimes' }],
    ['spec.poolName', { poolName: '../etc', size: '64Mi' }],
    ['spec.exportName', { poolName: 'lab', size: '64Mi', exportName: '../../etc/passwd' }],
    ['spec.exportName', { poolName: 'lab', size: '64Mi', exportName: 'a.b' }],
    ['spec.access.allow', { poolName: 'lab', size: '64Mi', access: { allow: ['everyone'] } }],
    ['spec.filesystem.type', { poolName: 'lab', size: '64Mi', filesystem: { type: 'ext4; rm -rf /' } }],
    ['spec.variables', { poolName: 'lab', size: '64Mi', command: 'true', variables: { 'a b': 'x' } }],
  ] as const)('whose %s is wrong are refused, or say so', async ([field, spec]) => {
    const name = 'bad'
    const refused = await cluster
      .send('POST', diskPath(ns, '').slice(0, -1), disk(ns, name, spec))
      .then(() => undefined)
      .catch((error: Error) => error.message)
    const leaf = field.split('.').at(-1) ?? field
    if (refused !== undefined) {
      expect(refused).toContain(leaf)
      return
    }
    const object = await becomes(
      cluster,
      diskPath(ns, name),
      'Ready',
      ({ reason }) => reason === 'InvalidSpec',
    )
    expect(condition(object, 'Ready')?.message).toContain(leaf)
    await remove(diskPath(ns, name))
    await gone(cluster, diskPath(ns, name))
  })

  test('of a pool that is not there say so, and go when they are deleted', async () => {
    await cluster.apply(disk(ns, 'lost', { poolName: 'nowhere', size: '64Mi' }))
    await becomes(cluster, diskPath(ns, 'lost'), 'Ready', ({ message }) => message.includes('nowhere'))
    await remove(diskPath(ns, 'lost'))
    await gone(cluster, diskPath(ns, 'lost'))
  })

  test('whose mkfs fails say what mkfs said', async () => {
    await cluster.apply(disk(ns, 'unmade', { poolName: 'lab', size: '1Mi', filesystem: { type: 'xfs' } }))
    const object = await becomes(
      cluster,
      diskPath(ns, 'unmade'),
      'Ready',
      ({ status, message }) => status === 'False' && /xfs|size|blocks/i.test(message),
    )
    expect(condition(object, 'Formatted')?.status).not.toBe('True')
    await remove(diskPath(ns, 'unmade'))
    await gone(cluster, diskPath(ns, 'unmade'))
  })

  test('say where no Pod is made for their pool or their Job, and why is to be found', async () => {
    await using other = await newNamespace(cluster, 'e2e-quota')
    const quotas = `/api/v1/namespaces/${other.name}/resourcequotas`
    const quota = {
      apiVersion: 'v1',
      kind: 'ResourceQuota',
      metadata: { name: 'few' },
      spec: { hard: { pods: '0' } },
    }
    await cluster.send('POST', quotas, quota)
    await cluster.apply(pool(other.name, 'lab'))
    const says =
      (command: string) =>
      ({ message }: { message: string }) =>
        message.includes(command)
    await becomes(cluster, poolPath(other.name, 'lab'), 'Ready', says('kubectl describe statefulset lab'))
    await cluster.send('PATCH', `${quotas}/few`, { spec: { hard: { pods: '1' } } })
    await ready(cluster, poolPath(other.name, 'lab'), LONG_PATIENCE)
    await cluster.apply(disk(other.name, 'x', { poolName: 'lab', size: '64Mi' }))
    const { metadata } = await becomes(
      cluster,
      diskPath(other.name, 'x'),
      'Ready',
      says('kubectl describe job odd-'),
    )
    expect(await cluster.kubectl(['describe', 'job', '-n', other.name, `odd-${metadata.uid}`])).toContain(
      'exceeded quota',
    )
    await cluster.send('DELETE', `${quotas}/few`)
    await ready(cluster, diskPath(other.name, 'x'), LONG_PATIENCE)
  }, 600_000)

  test('keep their pool from being deleted, which says which they are', async () => {
    await remove(poolPath(ns, 'lab'))
    await becomes(cluster, poolPath(ns, 'lab'), 'Ready', ({ reason, message }) => {
      return reason === 'Deleting' && message.includes('alice')
    })
    expect(await client.exec('nbdinfo', '--size', uriOf(ns, 'lab', 'alice'))).toBe(`${2 * 1024 ** 3}\n`)
    const { items } = (await cluster.get(diskPath(ns, '').slice(0, -1))) ?? {}
    for (const { metadata } of items) await remove(diskPath(ns, metadata.name))
    await gone(cluster, poolPath(ns, 'lab'))
    // The volume is the user's to delete.
    expect(await cluster.get(`/api/v1/namespaces/${ns}/persistentvolumeclaims/lab-disks`)).toBeDefined()
  })

  test('leave neither Jobs nor ConfigMaps behind, and no trace of an exception in the log', async () => {
    const jobs = await cluster.get(`/apis/batch/v1/namespaces/${ns}/jobs`)
    expect(jobs?.items.map(({ metadata }: { metadata: { name: string } }) => metadata.name)).toEqual([])
    const maps = await cluster.get(`/api/v1/namespaces/${ns}/configmaps`)
    const names = maps?.items.map(({ metadata }: { metadata: { name: string } }) => metadata.name)
    expect(names.filter((name: string) => name.startsWith('odd-'))).toEqual([])
    const log = await cluster.kubectl([
      'logs',
      '-n',
      RELEASE_NAMESPACE,
      'deploy/odd-ondemand-disk',
      '--tail=-1',
    ])
    expect(log).not.toMatch(/\\n\s+at |"stack"/)
  })

  test('end with their namespace', async () => {
    await using other = await newNamespace(cluster, 'e2e-doomed')
    await cluster.apply(pool(other.name, 'lab'), disk(other.name, 'x', { poolName: 'lab', size: '64Mi' }))
    await ready(cluster, diskPath(other.name, 'x'))
    await cluster.send('DELETE', `/api/v1/namespaces/${other.name}`)
    await gone(cluster, `/api/v1/namespaces/${other.name}`)
  })
})
