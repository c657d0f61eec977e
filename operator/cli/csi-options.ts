import { quote } from '../../crds/quote.ts'
import { parseSocketPath } from '../../server/cli/option-values.ts'
import { type OptionTable, type Parsed, parseOptions, UsageError } from '../../server/cli/options.ts'
import { CLUSTER_OPTIONS, PROGRAM_OPTIONS, parseLabel } from './common-options.ts'

const CLUSTER = 'Cluster'
const DRIVER = 'Driver'

/** A URI as `CSI_ENDPOINT` has it; returns the path of the socket. */
function parseEndpoint(text: string): string {
  const [, path] = /^unix:(?:\/\/)?(\/.*)$/.exec(text) ?? []
  if (path === undefined) {
    throw new UsageError(`${quote(text)} is no unix socket. Give one such as unix:///run/csi/csi.sock.`)
  }
  return parseSocketPath(path)
}

/** The services of a driver, but for Identity, which is always served. */
function parseServices(text: string): readonly 'controller'[] {
  const services = text.split(',').map(word => word.trim())
  const unknown = services.find(word => word !== 'controller')
  if (unknown === undefined) return ['controller']
  throw new UsageError(`There is no service ${quote(unknown)}. There is: controller.`)
}

/** The options of `ondemand-disk-operator csi`, in the order in which `--help` shows them. */
export const CSI_OPTIONS = {
  ...CLUSTER_OPTIONS,
  namespace: {
    group: CLUSTER,
    kind: 'text',
    placeholder: 'NAME',
    help: 'Make volumes in this namespace only, which is the one of StorageClasses that name none.',
    shownDefault: 'all namespaces',
    parse: parseLabel,
  },
  endpoint: {
    group: DRIVER,
    kind: 'text',
    placeholder: 'URI',
    help: 'Unix socket to serve on: unix:///PATH. Needed.',
    parse: parseEndpoint,
  },
  services: {
    group: DRIVER,
    kind: 'text',
    placeholder: 'LIST',
    help: 'Services to serve beside Identity: controller.',
    default: 'controller',
    parse: parseServices,
  },
  ...PROGRAM_OPTIONS,
} as const satisfies OptionTable

export type CsiOptions = Parsed<typeof CSI_OPTIONS> & {
  /** Path of the socket. */
  readonly endpoint: string
}

/** @throws UsageError */
export function parseCsiOptions(argv: readonly string[]): CsiOptions {
  const options = parseOptions(CSI_OPTIONS, argv)
  const { endpoint } = options
  if (endpoint === undefined) {
    throw new UsageError('--endpoint is missing. Give the socket that the sidecars use: unix:///PATH.')
  }
  return { ...options, endpoint }
}
