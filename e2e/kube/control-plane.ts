/** A real API server for tests, with etcd and nothing else: `hack/cluster/control-plane`. */
import { spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parse } from 'yaml'
import { ON_DEMAND_DISKS } from '../../crds/resources.ts'
import { createClient, type KubeClient, type Unnamed } from '../../operator/kube/client.ts'
import { findCluster } from '../../operator/kube/cluster.ts'
import { httpTransport } from '../../operator/kube/http-transport.ts'
import { KubeError } from '../../operator/kube/kube-error.ts'
import { type KubeObject, type Resource, SERVICES } from '../../operator/kube/objects.ts'
import { check, checkout } from '../harness.ts'

const SCRIPT = join(checkout, 'hack/cluster/control-plane')
/** Building the programs takes 5 minutes, on a loaded machine some more; `hack/test` does it before. */
const START_LIMIT = 15 * 60_000

export interface ControlPlane extends AsyncDisposable {
  readonly kubeconfig: string
  readonly client: KubeClient
  /** Installs the CRDs and waits until they are served. */
  installCrds(): Promise<void>
  /** URL of the API server. */
  readonly server: URL
  /** Process of a component. */
  pid(component: 'etcd' | 'apiserver'): Promise<number>
  /** SIGKILL, as a crash. */
  killApiServer(): Promise<void>
  /** Starts it again on its port; resolves when it is ready. */
  startApiServer(): Promise<void>
}

export interface ControlPlaneOptions {
  /** With the controller-manager. */
  readonly controllers?: boolean
  /** The disks' API is served by a program of today's release, with rules in CEL, behind the old API server. */
  readonly customResources?: boolean
}

const API_SERVICES: Resource = {
  group: 'apiregistration.k8s.io',
  version: 'v1',
  kind: 'APIService',
  plural: 'apiservices',
  namespaced: false,
}

/** Starts a control plane. It ends with this process in any case. */
export async function startControlPlane({
  controllers = false,
  customResources = false,
}: ControlPlaneOptions = {}): Promise<ControlPlane> {
  // In memory where that can be had: what etcd syncs need not outlive the machine.
  const state = await mkdtemp(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'ondemand-disk-kube-'))
  const options = [
    ...(controllers ? ['--controllers'] : []),
    ...(customResources ? ['--custom-resources'] : []),
  ]
  const child = spawn(SCRIPT, ['run', state, ...options], { stdio: ['pipe', 'pipe', 'pipe'] })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-10_000)
  })
  const ended = new Promise<void>(resolve => child.once('close', () => resolve()))
  const timer = setTimeout(() => child.stdin.end(), START_LIMIT)
  const kubeconfig = await new Promise<string>((resolve, reject) => {
    createInterface(child.stdout).once('line', resolve)
    void ended.then(() => reject(new Error(`The control plane does not start:\n${said}`)))
  })
  clearTimeout(timer)
  const cluster = await findCluster(kubeconfig)
  const transport = httpTransport(cluster)
  const client = createClient({ transport: transport.send })
  const pid = async (component: string) =>
    Number((await readFile(join(state, 'pid', component), 'utf8')).split(' ')[0])
  return {
    kubeconfig,
    pid,
    client,
    async installCrds() {
      if (!customResources) for (const crd of crds()) await client.create(CUSTOM_RESOURCE_DEFINITIONS, crd)
      else await installBehind(client, join(state, 'custom-resources.kubeconfig'))
      await served(client)
    },
    server: cluster.server,
    async killApiServer() {
      const server = await pid('apiserver')
      process.kill(server, 'SIGKILL')
      // Gone is who no longer listens.
      while (existsSync(`/proc/${server}/fd/0`)) await new Promise(resolve => setTimeout(resolve, 5))
    },
    async startApiServer() {
      await check(SCRIPT, ['up', state, ...options], { timeout: START_LIMIT })
    },
    async [Symbol.asyncDispose]() {
      transport.close()
      child.stdin.end()
      await ended
      await rm(state, { recursive: true, force: true })
    },
  }
}

export const CUSTOM_RESOURCE_DEFINITIONS: Resource = {
  group: 'apiextensions.k8s.io',
  version: 'v1',
  kind: 'CustomResourceDefinition',
  plural: 'customresourcedefinitions',
  namespaced: false,
}

const crds = () =>
  ['ondemanddisk', 'diskpool', 'disksnapshot'].map(name =>
    parse(readFileSync(join(checkout, `crds/${name}.yaml`), 'utf8')),
  )

/** Makes the CRDs on the server that the kubeconfig leads to, and the API server in front pass their group on to it. */
async function installBehind(front: KubeClient, kubeconfig: string): Promise<void> {
  const cluster = await findCluster(kubeconfig)
  const transport = httpTransport(cluster)
  const behind = createClient({ transport: transport.send })
  try {
    // As Helm 4 does it.
    for (const crd of crds())
      await behind.patch(CUSTOM_RESOURCE_DEFINITIONS, crd.metadata, 'apply', crd, { fieldManager: 'e2e' })
  } finally {
    transport.close()
  }
  const service = { namespace: 'default', name: 'custom-resources' }
  await front.create(SERVICES, {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: service,
    spec: { type: 'ExternalName', externalName: cluster.server.hostname },
  } as Unnamed<KubeObject>)
  const { group, version } = ON_DEMAND_DISKS
  await front.create(API_SERVICES, {
    apiVersion: 'apiregistration.k8s.io/v1',
    kind: 'APIService',
    metadata: { name: `${version}.${group}` },
    spec: {
      ...{ group, version, groupPriorityMinimum: 1000, versionPriority: 15 },
      service: { ...service, port: Number(cluster.server.port) },
      insecureSkipTLSVerify: true,
    },
  } as Unnamed<KubeObject>)
}

async function served(client: KubeClient): Promise<void> {
  let cause: unknown
  for (let tries = 0; tries < 300; tries++) {
    try {
      // Discovery says so a moment before objects are taken.
      if (await client.serves(ON_DEMAND_DISKS)) {
        await client.list(ON_DEMAND_DISKS)
        return
      }
    } catch (error) {
      // While it arranges its groups anew it refuses (503).
      if (!(error instanceof KubeError)) throw error
      cause = error
    }
    await new Promise(resolve => setTimeout(resolve, 100))
  }
  throw new Error('The API server does not serve the CRDs.', { cause })
}
