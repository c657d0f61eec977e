import { join } from 'node:path'
import type { TestContext } from 'vitest'
import { checkout } from '../harness.ts'
import { type Held, hold } from '../held.ts'
import { eventually } from '../until.ts'
import { hostOf } from './disks.ts'
import type { Cluster, KubeObject } from './harness.ts'

/** A pod with libnbd's programs, the userspace client of the tests. It ends with its namespace. */
export interface ClientPod {
  readonly name: string
  readonly ip: string
  /** Runs a program in it, and returns what that wrote to stdout; throws what it said when it fails. */
  exec(...command: string[]): Promise<string>
  /** Runs a Python program with libnbd's `nbd` at hand. */
  python(program: string, ...args: string[]): Promise<string>
  /** Opens a disk and keeps it open, reading a block every 50 ms, until the connection ends. */
  hold(uri: string): Promise<Held>
}

/** Why there can be no such pod; undefined if there can. */
export const noClientImage = ({ clientImage }: Pick<Cluster, 'clientImage'>): string | undefined =>
  clientImage === '' ? 'E2E_CLIENT_IMAGE names no image with libnbd' : undefined

/** Skips the test where there can be no client pod. */
export function needClientImage(context: TestContext, cluster: Cluster): void {
  const reason = noClientImage(cluster)
  context.skip(reason !== undefined, reason)
}

/** Pod Security "restricted" for a container that needs nothing. */
export const RESTRICTED = {
  allowPrivilegeEscalation: false,
  runAsNonRoot: true,
  capabilities: { drop: ['ALL'] },
  seccompProfile: { type: 'RuntimeDefault' },
}

/** Starts client pods side by side, and waits until they run. */
export async function startClients(
  cluster: Cluster,
  namespace: string,
  ...names: string[]
): Promise<ClientPod[]> {
  const path = `/api/v1/namespaces/${namespace}/pods`
  for (const name of names) await cluster.send('POST', path, clientPod(name, cluster.clientImage))
  return Promise.all(
    names.map(async name => {
      const pod: KubeObject = await eventually(`the client pod ${name} runs`, 60_000, async () => {
        const found = await cluster.get(`${path}/${name}`)
        return found?.status.phase === 'Running' && found.status.containerStatuses[0].ready
          ? found
          : undefined
      })
      return clientOf(cluster, namespace, name, pod.status.podIP)
    }),
  )
}

/** Looks for a TCP connection to the host named; prints nothing. */
const KNOCK = 'import socket, sys; socket.create_connection((sys.argv[1], 10809), 5).close()'

/**
 * Waits until the Services of the pools lead from the client to their pods. A pool is Ready when its Pod is, which
 * kube-proxy learns when everybody does: until it has told its kernel, whoever connects is refused.
 */
export async function awaitRoutes(
  client: ClientPod,
  namespace: string,
  ...services: string[]
): Promise<void> {
  for (const service of services)
    await eventually(`the Service ${service} leads to its pod`, 60_000, async () => {
      await client.python(KNOCK, hostOf(namespace, service))
      return true
    })
}

const clientPod = (name: string, image: string): KubeObject => ({
  metadata: { name, labels: { app: name } },
  spec: {
    automountServiceAccountToken: false,
    terminationGracePeriodSeconds: 0,
    containers: [
      {
        name: 'client',
        image,
        imagePullPolicy: 'IfNotPresent',
        command: ['sleep', 'infinity'],
        securityContext: { ...RESTRICTED, runAsUser: 65534 },
      },
    ],
  },
})

function clientOf(cluster: Cluster, namespace: string, name: string, ip: string): ClientPod {
  const into = ['exec', '-n', namespace, name, '--']
  const exec = (...command: string[]) => cluster.kubectl([...into, ...command])
  return {
    name,
    ip,
    exec,
    python: (program, ...args) => exec('python3', '-c', program, ...args),
    hold: uri =>
      hold(
        join(checkout, 'hack/tools/node_modules/.bin/kubectl'),
        ['exec', '-i', '-n', namespace, name, '--'],
        uri,
        { KUBECONFIG: cluster.kubeconfig },
      ),
  }
}
