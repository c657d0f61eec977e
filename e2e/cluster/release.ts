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
