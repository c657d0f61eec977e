/**
 * What the tests on a cluster share: the API, namespaces that are deleted afterwards, and the logs of all that ran
 * when a test failed.
 */
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { inject, type TestContext } from 'vitest'
import { type Ended, run } from '../harness.ts'
import { eventually } from '../until.ts'
import { helm, type Kubectl, kubectl } from './kubectl.ts'
import type { ClusterSetup } from './setup.ts'

/** An object of the API, as JSON; its fields are the test's to know. */
// biome-ignore lint/suspicious/noExplicitAny: objects of every kind, read by tests that know their shape
export type KubeObject = any

export interface Cluster extends AsyncDisposable, ClusterSetup {
  readonly kubectl: Kubectl
  helm(args: readonly string[]): Promise<Ended>
  /** Creates or changes objects, as `kubectl apply` does. */
  apply(...objects: readonly KubeObject[]): Promise<void>
  /** The object at this path of the API (`/api/v1/namespaces/x`), or the list; undefined where there is none. */
  get(path: string): Promise<KubeObject | undefined>
  /** A request that changes something; throws what the API server says against it. */
  send(method: 'POST' | 'PUT' | 'PATCH' | 'DELETE', path: string, body?: KubeObject): Promise<KubeObject>
}

/** kubectl's proxy to the API server, which ends when its stdin does: also when this process is killed. */
const PROXY = `exec 3<&0
{ cat <&3; kill $$; } >/dev/null 2>&1 &
exec 3<&- "$0" proxy --port=0`

/** The cluster of this run; the test is skipped, with the reason, where there is none. */
export async function useCluster(): Promise<Cluster> {
  const setup = inject('cluster')
  if (setup.unavailable !== undefined) return nothing(setup)
  const proxy = spawn(
    'sh',
    ['-c', PROXY, join(import.meta.dirname, '../../hack/tools/node_modules/.bin/kubectl')],
    { stdio: ['pipe', 'pipe', 'ignore'], env: { ...process.env, KUBECONFIG: setup.kubeconfig } },
  )
  const base = await new Promise<string>((resolve, reject) => {
    proxy.once('error', reject)
    proxy.once('exit', code => reject(new Error(`kubectl proxy ended with ${code}`)))
    proxy.stdout.setEncoding('utf8').on('data', (line: string) => {
      const [address] = /127\.0\.0\.1:\d+/.exec(line) ?? []
      if (address !== undefined) resolve(`http://${address}`)
    })
  })
  const request = async (method: string, path: string, body?: KubeObject) => {
    const type = method === 'PATCH' ? 'application/merge-patch+json' : 'application/json'
    const response = await fetch(`${base}${path}`, {
      method,
      headers: { 'content-type': type },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    })
    const text = await response.text()
    return { status: response.status, text }
  }
  const cluster: Cluster = {
    ...setup,
    kubectl: kubectl(setup.kubeconfig),
    helm: args => helm(setup.kubeconfig, args),
    async apply(...items) {
      const list = { apiVersion: 'v1', kind: 'List', items }
      await cluster.kubectl(['apply', '-f', '-'], { input: JSON.stringify(list) })
    },
    async get(path) {
      const { status, text } = await request('GET', path)
      if (status === 404) return undefined
      if (status !== 200) throw new Error(`GET ${path}: ${status} ${text}`)
      return JSON.parse(text)
    },
    async send(method, path, body) {
      const { status, text } = await request(method, path, body)
      if (status >= 300) throw new Error(`${method} ${path}: ${status} ${text}`)
      return JSON.parse(text)
    },
    async [Symbol.asyncDispose]() {
      proxy.stdin.end()
    },
  }
  return cluster
}

/** What stands in for a cluster where there is none: tests are skipped before they use it. */
function nothing(setup: ClusterSetup): Cluster {
  const none = () => Promise.reject(new Error(setup.unavailable))
  return {
    ...setup,
    kubectl: none,
    helm: none,
    apply: none,
    get: none,
    send: none,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  }
}

/** Skips the test where there is no cluster, and keeps what the cluster says when the test fails. */
export function onCluster(
  context: TestContext,
  cluster: Cluster,
  ...namespaces: (string | undefined)[]
): void {
  context.skip(cluster.unavailable !== undefined, cluster.unavailable)
  const known = namespaces.filter(name => name !== undefined)
  context.onTestFailed(() => keepLogs(cluster, context.task.name, known))
}

/** A new namespace with this label set; it is deleted, with all that is in it, by `dispose`. */
export async function newNamespace(
  cluster: Cluster,
  prefix: string,
): Promise<AsyncDisposable & { name: string }> {
  const name = `${prefix}-${randomBytes(3).toString('hex')}`
  const labels = { 'pod-security.kubernetes.io/enforce': 'restricted' }
  await cluster.send('POST', '/api/v1/namespaces', { metadata: { name, labels } })
  // No pod can be made before its service account, which a controller makes.
  await eventually(`${name} has a service account`, 60_000, () =>
    cluster.get(`/api/v1/namespaces/${name}/serviceaccounts/default`),
  )
  return {
    name,
    async [Symbol.asyncDispose]() {
      // The API server may be on its way up again.
      await eventually(`${name} is gone`, 180_000, async () => {
        await cluster.kubectl(['delete', 'namespace', name, '--ignore-not-found', '--timeout=120s'], {
          timeout: 130_000,
        })
        return true
      })
    },
  }
}

/** Writes objects, events and containers' logs of these namespaces to a folder in TEST_LOGS, or to stderr's place. */
async function keepLogs(cluster: Cluster, test: string, namespaces: readonly string[]): Promise<void> {
  const folder = join(process.env.TEST_LOGS ?? join('.cache', 'test'), test.replace(/[^a-zA-Z0-9]+/g, '-'))
  await mkdir(folder, { recursive: true })
  const kinds =
    'diskpools,ondemanddisks,pods,jobs,statefulsets,deployments,services,endpoints,configmaps,persistentvolumeclaims,events'
  for (const namespace of namespaces) {
    const said = await cluster
      .kubectl(['get', kinds, '-n', namespace, '-o', 'yaml'])
      .catch(error => `${error}`)
    await writeFile(join(folder, `${namespace}.yaml`), said)
    const pods = await cluster.get(`/api/v1/namespaces/${namespace}/pods`).catch(() => undefined)
    for (const pod of pods?.items ?? [])
      for (const { name } of pod.spec.containers)
        for (const previous of [false, true]) {
          const { stdout } = await run(
            join(import.meta.dirname, '../../hack/tools/node_modules/.bin/kubectl'),
            ['logs', '-n', namespace, pod.metadata.name, '-c', name, ...(previous ? ['--previous'] : [])],
            { env: { KUBECONFIG: cluster.kubeconfig } },
          )
          if (stdout !== '')
            await writeFile(
              join(folder, `${pod.metadata.name}-${name}${previous ? '-previous' : ''}.log`),
              stdout,
            )
        }
  }
}
