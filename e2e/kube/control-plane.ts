/** A real API server for tests, with etcd and nothing else: `hack/cluster/control-plane`. */
import { spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parse } from 'yaml'
import { ON_DEMAND_DISKS } from '../../crds/resources.ts'
import { createClient, type KubeClient } from '../../operator/kube/client.ts'
import { findCluster } from '../../operator/kube/cluster.ts'
import { httpTransport } from '../../operator/kube/http-transport.ts'
import type { Resource } from '../../operator/kube/objects.ts'
import { check, checkout } from '../harness.ts'

const SCRIPT = join(checkout, 'hack/cluster/control-plane')
/** Building the programs takes 5 minutes, on a loaded machine some more; `hack/test` does it before. */
const START_LIMIT = 15 * 60_000

export interface ControlPlane extends AsyncDisposable {
  readonly kubeconfig: string
  readonly client: KubeClient
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
}

/** Starts a control plane. It ends with this process in any case. */
export async function startControlPlane({
  controllers = false,
}: ControlPlaneOptions = {}): Promise<ControlPlane> {
  // In memory where that can be had: what etcd syncs need not outlive the machine.
  const state = await mkdtemp(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'ondemand-disk-kube-'))
  const options = controllers ? ['--controllers'] : []
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
  const pid = async (component: string) =>
    Number((await readFile(join(state, 'pid', component), 'utf8')).split(' ')[0])
  return {
    kubeconfig,
    pid,
    client: createClient({ transport: transport.send }),
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

const CUSTOM_RESOURCE_DEFINITIONS: Resource = {
  group: 'apiextensions.k8s.io',
  version: 'v1',
  kind: 'CustomResourceDefinition',
  plural: 'customresourcedefinitions',
  namespaced: false,
}

/** Installs the CRDs and waits until the API server serves them. */
export async function installCrds(client: KubeClient): Promise<void> {
  for (const name of ['ondemanddisk', 'diskpool', 'disksnapshot']) {
    const text = readFileSync(join(checkout, `crds/${name}.yaml`), 'utf8')
    await client.create(CUSTOM_RESOURCE_DEFINITIONS, parse(text))
  }
  await served(client)
}

async function served(client: KubeClient): Promise<void> {
  for (let tries = 0; tries < 300; tries++) {
    // Discovery says so a moment before objects are taken.
    if (await client.serves(ON_DEMAND_DISKS)) {
      const taken = await client.list(ON_DEMAND_DISKS).then(
        () => true,
        () => false,
      )
      if (taken) return
    }
    await new Promise(resolve => setTimeout(resolve, 100))
  }
  throw new Error('The API server does not serve the CRDs.')
}
