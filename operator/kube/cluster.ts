/** Which API server to talk to, and how to show it who asks. */
import { readFile } from 'node:fs/promises'
import { Agent } from 'node:http'
import type { RequestOptions } from 'node:https'
import { isIPv6 } from 'node:net'
import { delimiter, join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'

/** What a request needs to be let in. */
export interface Credentials {
  readonly headers: Readonly<Record<string, string>>
  readonly tls: TlsOptions
  /** Makes the connections, where they go through a proxy. */
  readonly agent?: Agent
}

export type TlsOptions = Pick<
  RequestOptions,
  'ca' | 'cert' | 'key' | 'pfx' | 'passphrase' | 'servername' | 'rejectUnauthorized'
>

export interface Cluster {
  readonly server: URL
  /** Namespace of the Pod or of the kubeconfig's context. */
  readonly namespace: string | undefined
  /** Asked before every request; `renew` is set after the server did not accept the last ones. */
  credentials(renew: boolean): Promise<Credentials>
}

/** A cluster that cannot be found, or credentials that cannot be read. */
export class ClusterError extends Error {
  override readonly name = 'ClusterError'
  readonly code = 'ECLUSTER'
}

const SERVICE_ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount'
/** Tokens and certificates of files are read again after so long, in ms; kubelet renews them well before they end. */
const RENEWAL_MS = 30_000

/**
 * The cluster that a kubeconfig file names; without one that in which this process runs, else $KUBECONFIG.
 * @throws ClusterError
 */
export async function findCluster(
  kubeconfig?: string,
  env: NodeJS.ProcessEnv = process.env,
  serviceAccount = SERVICE_ACCOUNT,
): Promise<Cluster> {
  if (kubeconfig === undefined) {
    const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port } = env
    if (host && port) return inCluster(host, port, serviceAccount)
  }
  const paths =
    kubeconfig === undefined ? (env.KUBECONFIG ?? '').split(delimiter).filter(Boolean) : [kubeconfig]
  if (paths.length === 0) {
    throw new ClusterError(
      'There is no cluster to talk to. Run this in a Pod, give --kubeconfig, or set KUBECONFIG.',
    )
  }
  return fromKubeconfig(paths)
}

/**
 * Keeps credentials for a while, whoever asks for them, and hands out the same objects as long as nothing in
 * them has changed: other TLS options mean other connections.
 */
function renewable(read: (renew: boolean) => Promise<Credentials>): Cluster['credentials'] {
  let current: Credentials | undefined
  let readAt = Number.NEGATIVE_INFINITY
  let reading: Promise<Credentials> | undefined
  return async renew => {
    if (current && !renew && performance.now() - readAt < RENEWAL_MS) return current
    reading ??= read(renew).finally(() => {
      reading = undefined
    })
    const latest = await reading
    if (latest === current) return current
    readAt = performance.now()
    const tls = current && isDeepStrictEqual(current.tls, latest.tls) ? current.tls : latest.tls
    current = { ...latest, tls }
    return current
  }
}

/**
 * The cluster in which this process runs. client-node could say that as well, at 85 MB of memory and a second of
 * start-up, which an agent beside every server must not cost.
 */
async function inCluster(host: string, port: string, folder: string): Promise<Cluster> {
  const namespace = await readIn(folder, 'namespace').catch(() => undefined)
  return {
    server: new URL(`https://${isIPv6(host) ? `[${host}]` : host}:${port}`),
    namespace: namespace?.toString().trim(),
    credentials: renewable(async () => {
      const [token, ca] = await Promise.all([readIn(folder, 'token'), readIn(folder, 'ca.crt')])
      return { headers: { authorization: `Bearer ${token.toString().trim()}` }, tls: { ca } }
    }),
  }
}

async function readIn(folder: string, name: string): Promise<Buffer> {
  const path = join(folder, name)
  try {
    return await readFile(path)
  } catch (error) {
    throw new ClusterError(`Cannot read ${path}, which a Pod with a service account has.`, { cause: error })
  }
}

/** What client-node reads of kubeconfig files: tokens, certificates, exec plug-ins, OIDC, proxies. */
async function fromKubeconfig(paths: readonly string[]): Promise<Cluster> {
  // Loaded here, when it is needed: see inCluster.
  const { KubeConfig } = await import('@kubernetes/client-node')
  const load = () => {
    const config = new KubeConfig()
    for (const path of paths) {
      try {
        const one = new KubeConfig()
        one.loadFromFile(path)
        config.mergeConfig(one, config.getCurrentContext() !== undefined)
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error)
        throw new ClusterError(`Cannot read the kubeconfig ${path}: ${reason}`, { cause: error })
      }
    }
    return config
  }
  let config = load()
  const cluster = config.getCurrentCluster()
  if (!cluster || !URL.canParse(cluster.server)) {
    throw new ClusterError(`The kubeconfig ${paths.join(', ')} names no server in its current context.`)
  }
  const proxied = cluster.proxyUrl !== undefined
  return {
    server: new URL(cluster.server),
    namespace: config.getContextObject(config.getCurrentContext())?.namespace,
    credentials: renewable(async renew => {
      if (renew) config = load()
      const options: RequestOptions = { headers: {} }
      await config.applyToHTTPSOptions(options)
      return credentialsOf(options, proxied)
    }),
  }
}

function credentialsOf(options: RequestOptions, proxied: boolean): Credentials {
  const headers = { ...(options.headers as Record<string, string>) }
  if (options.auth) headers.authorization = `Basic ${Buffer.from(options.auth).toString('base64')}`
  const tls: TlsOptions = {
    ...(options.ca && { ca: options.ca }),
    ...(options.cert && { cert: options.cert }),
    ...(options.key && { key: options.key }),
    ...(options.pfx && { pfx: options.pfx }),
    ...(options.passphrase && { passphrase: options.passphrase }),
    ...(options.servername && { servername: options.servername }),
    ...(options.rejectUnauthorized !== undefined && { rejectUnauthorized: options.rejectUnauthorized }),
  }
  return { headers, tls, ...(proxied && options.agent instanceof Agent && { agent: options.agent }) }
}
