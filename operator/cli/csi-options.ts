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
const SERVICES = ['controller', 'node'] as const
export type CsiService = (typeof SERVICES)[number]

function parseServices(text: string): readonly CsiService[] {
  const words = text.split(',').map(word => word.trim())
  const unknown = words.find(word => !SERVICES.some(service => service === word))
  if (unknown === undefined) return SERVICES.filter(service => words.includes(service))
  throw new UsageError(`There is no service ${quote(unknown)}. There are: ${SERVICES.join(', ')}.`)
}

/** CSI's bound of a node's id: twice that of other texts, so that every name of a node is one. */
const MAX_NODE_ID = 256

function parseNodeId(text: string): string {
  if (text !== '' && Buffer.byteLength(text) <= MAX_NODE_ID) return text
  throw new UsageError(`A node's name has 1 to ${MAX_NODE_ID} bytes.`)
}

function parseFolder(text: string): string {
  if (text.startsWith('/') && text.length > 1) return text
  throw new UsageError(`${quote(text)} is no path from the top of the file system.`)
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
    help: 'Services to serve beside Identity: controller, node, or both.',
    default: 'controller',
    parse: parseServices,
  },
  'node-id': {
    group: DRIVER,
    kind: 'text',
    placeholder: 'NAME',
    help: 'Name of the Kubernetes node that this runs on. Needed for the service node.',
    parse: parseNodeId,
  },
  'host-dir': {
    group: DRIVER,
    kind: 'text',
    placeholder: 'DIR',
    help: 'Folder of the host, at the same path here, for what outlives the pod of the service node.',
    shownDefault: 'not in a pod',
    parse: parseFolder,
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
  if (options.services.includes('node') && options['node-id'] === undefined) {
    throw new UsageError('--node-id is missing. The service node needs the name of its node.')
  }
  return { ...options, endpoint }
}
