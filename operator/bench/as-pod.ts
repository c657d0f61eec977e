/** The operator's process as a Pod's: its credentials are files of a service account, and its code is compiled. */
import { spawn } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse } from 'yaml'

/** The operator's program. */
export const MAIN = join(import.meta.dirname, '../main.ts')

export interface PodTerms extends AsyncDisposable {
  /** Goes before the program. */
  readonly command: readonly string[]
  /** Goes behind it. */
  readonly options: readonly string[]
  readonly env: Readonly<Record<string, string>>
  /** What is different from a Pod; undefined if nothing that counts is. */
  readonly caveat: string | undefined
}

interface Kubeconfig {
  readonly clusters: readonly [{ readonly cluster: Record<'server' | 'certificate-authority', string> }]
  readonly users: readonly [{ readonly user: { readonly token: string } }]
}

const SERVICE_ACCOUNT = 'secrets/kubernetes.io/serviceaccount'

/**
 * Without root a kubeconfig has to do in place of a service account, and reading it takes 85 MB that a Pod does not
 * need.
 */
export async function asPod(kubeconfig: string): Promise<PodTerms> {
  const folder = await mkdtemp(join(tmpdir(), 'ondemand-disk-bench-'))
  const dispose = () => rm(folder, { recursive: true, force: true })
  // As in the image, by the same run that fails.
  const env = { NODE_COMPILE_CACHE: join(folder, 'compiled') }
  const compiling = ['run', '--image', 'x', '--kubeconfig', '/nowhere', '--lease-namespace', 'x']
  await new Promise<void>((resolve, reject) => {
    const child = spawn(process.execPath, [MAIN, ...compiling], {
      stdio: 'ignore',
      env: { ...process.env, ...env },
    })
    child.once('error', reject).once('exit', () => resolve())
  })
  if (process.getuid?.() !== 0) {
    return {
      ...{ command: [], options: ['--kubeconfig', kubeconfig], env },
      caveat: 'with the 85 MB that reading a kubeconfig takes, since this is not run by root',
      [Symbol.asyncDispose]: dispose,
    }
  }
  const { clusters, users } = parse(await readFile(kubeconfig, 'utf8')) as Kubeconfig
  const { server, 'certificate-authority': authority } = clusters[0].cluster
  await writeFile(join(folder, 'token'), users[0].user.token, { mode: 0o600 })
  await writeFile(join(folder, 'ca.crt'), await readFile(authority))
  await writeFile(join(folder, 'namespace'), 'default')
  const { hostname, port } = new URL(server)
  // In a mount namespace of its own: this machine's /run stays as it is.
  const script = `mount -t tmpfs none /run && mkdir -p /run/${SERVICE_ACCOUNT} &&
    cp ${folder}/token ${folder}/ca.crt ${folder}/namespace /run/${SERVICE_ACCOUNT} && exec "$@"`
  return {
    command: ['unshare', '--mount', 'sh', '-c', script, 'sh'],
    options: [],
    env: { ...env, KUBERNETES_SERVICE_HOST: hostname, KUBERNETES_SERVICE_PORT: port },
    caveat: undefined,
    [Symbol.asyncDispose]: dispose,
  }
}
