import { join } from 'node:path'
import { checkout, type Ended } from '../harness.ts'
import { helm, type Kubectl } from './kubectl.ts'

/** The release under test, and its namespace. */
export const RELEASE = 'odd'
export const RELEASE_NAMESPACE = 'ondemand-disk-e2e'

export const chart = join(checkout, 'helm/ondemand-disk')

/** Server-side apply before this version of Kubernetes refuses what it does not know of a CRD: CEL rules. */
const FIRST_WITH_RULES = 25

/** Installs or upgrades the release, and waits until the operator is available. Throws what helm said. */
export async function install(
  terms: { readonly kubeconfig: string; readonly image: string; readonly kubectl: Kubectl },
  ...values: readonly string[]
): Promise<void> {
  const { gitVersion } = JSON.parse(await terms.kubectl(['version', '-o', 'json'])).serverVersion
  const isOld = Number(/^v1\.(\d+)/.exec(gitVersion)?.[1]) < FIRST_WITH_RULES
  const { status, stdout, stderr } = await helm(
    terms.kubeconfig,
    [
      ...['upgrade', '--install', RELEASE, chart, '--namespace', RELEASE_NAMESPACE, '--create-namespace'],
      ...(isOld ? ['--server-side=false'] : []),
      ...['--wait', '--timeout', '120s', '--set', 'operator.logLevel=debug'],
      ...[...imageValues(terms.image), ...values].flatMap(value => ['--set', value]),
    ],
    { timeout: 150_000 },
  )
  if (status !== 0) throw new Error(`helm upgrade ended with ${status}:\n${stdout}${stderr}`)
}

/** Uninstalls the release; whether that went well is the caller's to judge. */
export const uninstall = (kubeconfig: string): Promise<Ended> =>
  helm(kubeconfig, ['uninstall', RELEASE, '--namespace', RELEASE_NAMESPACE, '--wait', '--timeout', '120s'], {
    timeout: 150_000,
  })

/** Names of the product's CRDs that the cluster has. */
export async function crdsOf(kubectl: Kubectl): Promise<string[]> {
  const names = await kubectl(['get', 'crd', '-o', 'name'])
  return names.split('\n').filter(name => name.endsWith('.ondemanddisk.dev'))
}

/**
 * Removes the release, its namespace, and the CRDs that are not among the known ones. Throws what helm says where the
 * tests have left disks or pools: then all stays, so that they can be looked at and deleted.
 */
export async function remove(kubeconfig: string, kubectl: Kubectl, known: readonly string[]): Promise<void> {
  const { status, stdout, stderr } = await uninstall(kubeconfig)
  if (status !== 0 && !/release: not found/i.test(stderr)) {
    throw new Error(`helm uninstall ended with ${status}:\n${stdout}${stderr}`)
  }
  const late = { timeout: 150_000 }
  await kubectl(['delete', 'namespace', RELEASE_NAMESPACE, '--ignore-not-found', '--timeout=120s'], late)
  const added = (await crdsOf(kubectl)).filter(name => !known.includes(name))
  if (added.length > 0) await kubectl(['delete', ...added, '--timeout=120s'], late)
}

function imageValues(image: string): string[] {
  const [name = '', digest] = image.split('@')
  const colon = name.lastIndexOf(':')
  const hasTag = colon > name.lastIndexOf('/')
  return [
    `image.repository=${hasTag ? name.slice(0, colon) : name}`,
    ...(hasTag ? [`image.tag=${name.slice(colon + 1)}`] : []),
    ...(digest === undefined ? [] : [`image.digest=${digest}`]),
  ]
}
