import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { check, checkout, type Scratch, scratch } from '../harness.ts'
import { awaitRoutes, type ClientPod, needClientImage, startClients } from './client.ts'
import { disk, diskPath, GROUP, hostOf, pool, ready } from './disks.ts'
import { type Cluster, newNamespace, onCluster, useCluster } from './harness.ts'
import { RELEASE_NAMESPACE } from './release.ts'

const PKI = '/tmp/pki'

let cluster: Cluster
let namespace: Awaited<ReturnType<typeof newNamespace>>
let folder: Scratch
let ns = ''
let client: ClientPod

beforeAll(async () => {
  cluster = await useCluster()
  if (cluster.unavailable !== undefined || cluster.clientImage === '') return
  namespace = await newNamespace(cluster, 'e2e-tls')
  ns = namespace.name
  folder = await scratch()
  await check(join(checkout, 'hack/test-certificates'), [join(folder.path, 'pki')])
  await certifyServer(hostOf(ns, 'certified'))
  ;[client] = (await startClients(cluster, ns, 'client')) as [ClientPod]
  for (const path of ['keys.psk', 'wrong.psk']) await carry(path)
  for (const who of ['alice', 'bob'])
    for (const file of ['ca-cert.pem', 'client-cert.pem', 'client-key.pem']) await carry(`${who}/${file}`)
  await secret('keys', { 'keys.psk': 'keys.psk' })
  await secret('certificates', {
    'tls.crt': 'service/server-cert.pem',
    'tls.key': 'service/server-key.pem',
    'ca.crt': 'authority/ca-cert.pem',
  })
  await cluster.apply(
    pool(ns, 'keyed', { tls: { mode: 'Require', secretName: 'keys' } }),
    disk(ns, 'with-key', { poolName: 'keyed', size: '64Mi' }),
    pool(ns, 'certified', {
      tls: { mode: 'Require', secretName: 'certificates' },
      access: { allow: ['dn:CN=alice,O=lab'] },
    }),
    disk(ns, 'with-name', { poolName: 'certified', size: '64Mi' }),
  )
  for (const name of ['with-key', 'with-name']) await ready(cluster, diskPath(ns, name))
  await awaitRoutes(client, ns, 'keyed', 'certified')
})
afterAll(async () => {
  await namespace?.[Symbol.asyncDispose]()
  await folder?.[Symbol.asyncDispose]()
  await cluster[Symbol.asyncDispose]()
})
beforeEach(context => {
  onCluster(context, cluster, ns, RELEASE_NAMESPACE)
  needClientImage(context, cluster)
})

/** A certificate for the name that clients find the pool's server by. */
async function certifyServer(host: string): Promise<void> {
  const pki = join(folder.path, 'pki')
  await writeFile(join(pki, 'names'), `subjectAltName=DNS:${host}\n`)
  const script = `mkdir service
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout service/server-key.pem \\
      -subj /CN=service -out request
    openssl x509 -req -in request -CA authority/ca-cert.pem -CAkey authority/ca-key.pem -CAcreateserial \\
      -days 30 -extfile names -out service/server-cert.pem`
  await check('bash', ['-ec', `cd "$1"; ${script}`, 'bash', pki])
}

/** Brings a file to the client's pod. */
async function carry(path: string): Promise<void> {
  const text = await readFile(join(folder.path, 'pki', path), 'utf8')
  await client.exec(
    ...['sh', '-ec', 'mkdir -p "$(dirname "$1")"; printf %s "$2" >"$1"', 'sh', `${PKI}/${path}`, text],
  )
}

async function secret(name: string, files: Readonly<Record<string, string>>): Promise<void> {
  const data: Record<string, string> = {}
  for (const [key, path] of Object.entries(files)) {
    data[key] = (await readFile(join(folder.path, 'pki', path))).toString('base64')
  }
  await cluster.apply({ apiVersion: 'v1', kind: 'Secret', metadata: { namespace: ns, name }, data })
}

const host = (poolName: string) => hostOf(ns, poolName)
const size = (uri: string) => client.exec('nbdinfo', '--size', uri)
const MIB = 2 ** 20

describe('A pool that requires TLS', () => {
  test('says so in the URI of its disks', async () => {
    const found = await cluster.get(`${GROUP}/namespaces/${ns}/ondemanddisks/with-key`)
    expect(found?.status.uri).toMatch(/^nbds:\/\/keyed\./)
  })

  test('admits who has its pre-shared key, and nobody else', async () => {
    const uri = (keys: string) =>
      `nbds://alice@${host('keyed')}/with-key?tls-psk-file=${encodeURIComponent(`${PKI}/${keys}`)}`
    expect(Number(await size(uri('keys.psk')))).toBe(64 * MIB)
    await expect(size(uri('wrong.psk'))).rejects.toThrow('nbdinfo')
    await expect(size(`nbd://${host('keyed')}/with-key`)).rejects.toThrow('nbdinfo')
  })

  test('admits by the name in the client’s certificate', async () => {
    const uri = (who: string) =>
      `nbds://${host('certified')}/with-name?tls-certificates=${encodeURIComponent(`${PKI}/${who}`)}`
    expect(Number(await size(uri('alice')))).toBe(64 * MIB)
    await expect(size(uri('bob'))).rejects.toThrow('nbdinfo')
  })
})
