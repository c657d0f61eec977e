import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { checkout } from '../harness.ts'
import { type Cluster, eventually, type KubeObject } from './harness.ts'

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

/** A connection that is open. */
export interface Held extends AsyncDisposable {
  /** Resolves with `performance.now()` of the moment at which this process was told that it ended. */
  readonly ended: Promise<number>
}

/** Pod Security "restricted" for a container that needs nothing. */
export const RESTRICTED = {
  allowPrivilegeEscalation: false,
  runAsNonRoot: true,
  capabilities: { drop: ['ALL'] },
  seccompProfile: { type: 'RuntimeDefault' },
}

/** Ends when its stdin does: a program in a pod outlives the kubectl that started it. */
const HOLD = `
import nbd, select, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
print('open', flush=True)
try:
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        h.pread(512, 0)
except nbd.Error as error:
    print('ended', error, flush=True)
`

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
    async hold(uri) {
      const child = spawn(
        join(checkout, 'hack/tools/node_modules/.bin/kubectl'),
        ['exec', '-i', '-n', namespace, name, '--', 'python3', '-c', HOLD, uri],
        { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, KUBECONFIG: cluster.kubeconfig } },
      )
      let said = ''
      let opened: () => void = () => undefined
      const open = new Promise<void>(resolve => {
        opened = resolve
      })
      const ended = new Promise<number>(resolve => {
        const take = (text: string) => {
          said += text
          if (said.includes('open\n')) opened()
          if (said.includes('ended')) resolve(performance.now())
        }
        child.stdout.setEncoding('utf8').on('data', take)
        child.stderr.setEncoding('utf8').on('data', take)
      })
      child.stdin.on('error', () => undefined)
      const closed = new Promise<never>((_, reject) => {
        child.once('error', reject)
        child.once('close', code => reject(new Error(`The client ended with ${code}:\n${said}`)))
      })
      // Whoever waits for `ended` is told by its own limit.
      closed.catch(() => undefined)
      await Promise.race([open, closed])
      return {
        ended,
        async [Symbol.asyncDispose]() {
          child.stdin.end()
          await closed.catch(() => undefined)
        },
      }
    },
  }
}
