import { execFileSync } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { ClusterError, findCluster } from './cluster.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ondemand-disk-cluster-'))
})
afterEach(async () => {
  vi.useRealTimers()
  await rm(folder, { recursive: true })
})

const IN_POD = { KUBERNETES_SERVICE_HOST: 'fd00::1', KUBERNETES_SERVICE_PORT: '443' }
const write = (name: string, text: string) => writeFile(join(folder, name), text)

describe('in a Pod', () => {
  beforeEach(async () => {
    await write('token', 'first\n')
    await write('ca.crt', 'CA')
    await write('namespace', 'here\n')
  })

  test('the cluster is the one around', async () => {
    const cluster = await findCluster(undefined, IN_POD, folder)
    expect([cluster.server.href, cluster.namespace]).toEqual(['https://[fd00::1]/', 'here'])
    expect(await cluster.credentials(false)).toEqual({
      headers: { authorization: 'Bearer first' },
      tls: { ca: Buffer.from('CA') },
    })
  })

  test('a new token is used within half a minute, or at once where the old one is refused', async () => {
    vi.useFakeTimers({ toFake: ['performance'] })
    const cluster = await findCluster(undefined, IN_POD, folder)
    const first = await cluster.credentials(false)
    await write('token', 'second')
    expect(await cluster.credentials(false)).toBe(first)
    const second = await cluster.credentials(true)
    expect(second.headers.authorization).toBe('Bearer second')
    // The same connections will do.
    expect(second.tls).toBe(first.tls)
    await write('token', 'third')
    await write('ca.crt', 'CA2')
    vi.advanceTimersByTime(30_000)
    const third = await cluster.credentials(false)
    expect(third.headers.authorization).toBe('Bearer third')
    expect(third.tls).not.toBe(first.tls)
  })

  test('a token that cannot be read is a clear error', async () => {
    await rm(join(folder, 'token'))
    const cluster = await findCluster(undefined, IN_POD, folder)
    await expect(cluster.credentials(false)).rejects.toThrow(`Cannot read ${join(folder, 'token')}`)
    await write('token', 'back')
    expect((await cluster.credentials(false)).headers.authorization).toBe('Bearer back')
  })
})

describe('by a kubeconfig', () => {
  const kubeconfig = (user: object, extra: object = {}) =>
    JSON.stringify({
      'current-context': 'c',
      clusters: [{ name: 'k', cluster: { server: 'https://example.org:6443/prefix', ...extra } }],
      users: [{ name: 'u', user }],
      contexts: [{ name: 'c', context: { cluster: 'k', user: 'u', namespace: 'there' } }],
    })
  const base64 = (text: string) => Buffer.from(text).toString('base64')

  test('tokens and certificates are understood, and the option wins over the Pod', async () => {
    await write(
      'config',
      kubeconfig(
        { token: 'secret', 'client-certificate-data': base64('CERT'), 'client-key-data': base64('KEY') },
        { 'certificate-authority-data': base64('CA'), 'tls-server-name': 'api' },
      ),
    )
    const cluster = await findCluster(join(folder, 'config'), IN_POD)
    expect([cluster.server.href, cluster.namespace]).toEqual(['https://example.org:6443/prefix', 'there'])
    expect(await cluster.credentials(false)).toEqual({
      headers: { Authorization: 'Bearer secret' },
      tls: {
        ca: Buffer.from('CA'),
        cert: Buffer.from('CERT'),
        key: Buffer.from('KEY'),
        servername: 'api',
      },
    })
  })

  test('a password, and the name of a file with a token', async () => {
    await write('config', kubeconfig({ username: 'me', password: 'pass' }))
    const cluster = await findCluster(undefined, { KUBECONFIG: join(folder, 'config') })
    expect((await cluster.credentials(false)).headers.authorization).toBe(`Basic ${base64('me:pass')}`)
  })

  test('several files are one', async () => {
    await write('config', kubeconfig({ token: 'x' }))
    await write('more', JSON.stringify({ clusters: [], users: [], contexts: [], 'current-context': 'other' }))
    const cluster = await findCluster(undefined, {
      KUBECONFIG: `${join(folder, 'config')}:${join(folder, 'more')}`,
    })
    expect(cluster.server.host).toBe('example.org:6443')
  })

  test('connections go through the proxy that it names', async () => {
    await write('config', kubeconfig({ token: 'x' }, { 'proxy-url': 'http://proxy:3128' }))
    const cluster = await findCluster(join(folder, 'config'))
    expect((await cluster.credentials(false)).agent).toBeDefined()
  })

  test.each([
    ['absent', undefined, 'Cannot read the kubeconfig'],
    ['broken', '{', 'Cannot read the kubeconfig'],
    ['empty', '', 'Cannot read the kubeconfig'],
    ['without a context', JSON.stringify({ clusters: [], users: [], contexts: [] }), 'names no server'],
    ['without a server', kubeconfig({}, { server: 'example org' }), 'names no server'],
  ])('one that is %s is a clear error', async (_, text, message) => {
    if (text !== undefined) await write('config', text)
    const error = await findCluster(join(folder, 'config')).catch(thrown => thrown)
    expect(error).toBeInstanceOf(ClusterError)
    expect(error.message).toContain(message)
    expect(error.message).toContain(join(folder, 'config'))
  })
})

test('without either there is nothing to talk to', async () => {
  await expect(findCluster(undefined, {})).rejects.toThrow('give --kubeconfig')
})

test('in a Pod client-node is not loaded', () => {
  const load = (name: string) => `await import(${JSON.stringify(new URL(name, import.meta.url).href)})`
  const script = `
    import { registerHooks } from 'node:module'
    let loaded = false
    registerHooks({
      resolve(specifier, context, next) {
        loaded ||= specifier.includes('client-node')
        return next(specifier, context)
      },
    })
    ${load('./http-transport.ts')}
    ${load('./client.ts')}
    const { findCluster } = ${load('./cluster.ts')}
    await findCluster()
    console.log(loaded)
    await findCluster('/nowhere').catch(() => {})
    console.log(loaded)`
  const output = execFileSync(process.execPath, ['--input-type=module', '-e', script], {
    encoding: 'utf8',
    env: { ...process.env, ...IN_POD },
  })
  expect(output).toBe('false\ntrue\n')
})
