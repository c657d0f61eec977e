import { parseSocketPath, parseText } from '../../server/cli/option-values.ts'
import { type OptionTable, type Parsed, parseOptions, UsageError } from '../../server/cli/options.ts'
import { CLUSTER_OPTIONS, PROGRAM_OPTIONS, parseLabel } from './common-options.ts'

const CLUSTER = 'Cluster'
const POOL = 'Pool'

/** The options of `ondemand-disk-operator agent`, in the order in which `--help` shows them. */
export const AGENT_OPTIONS = {
  ...CLUSTER_OPTIONS,
  namespace: {
    group: CLUSTER,
    kind: 'text',
    placeholder: 'NAME',
    help: 'Namespace of the pool.',
    shownDefault: 'that of the Pod, or of the kubeconfig',
    parse: parseLabel,
  },
  pool: {
    group: POOL,
    kind: 'text',
    placeholder: 'NAME',
    help: 'The DiskPool that the server beside this agent serves. Needed.',
    parse: parseLabel,
  },
  dir: {
    group: POOL,
    kind: 'text',
    placeholder: 'DIR',
    help: "The pool's volume: disks/, spares/ and retained/ are in it.",
    default: '/pool',
    parse: parseText,
  },
  manifests: {
    group: POOL,
    kind: 'text',
    placeholder: 'DIR',
    help: 'Where to write the manifests that the server follows.',
    default: '/manifests',
    parse: parseText,
  },
  control: {
    group: POOL,
    kind: 'text',
    placeholder: 'PATH',
    help: "The server's control socket.",
    default: '/control/nbd.sock',
    parse: parseSocketPath,
  },
  ask: {
    group: POOL,
    kind: 'text',
    placeholder: 'PATH',
    help: 'Socket to listen on for the names that clients ask the server for.',
    default: '/control/agent.sock',
    parse: parseSocketPath,
  },
  policy: {
    group: POOL,
    kind: 'text',
    placeholder: 'FILE',
    help: 'Where to write who may connect to the server.',
    default: '/control/policy.json',
    parse: parseText,
  },
  ...PROGRAM_OPTIONS,
} as const satisfies OptionTable

export type AgentOptions = Parsed<typeof AGENT_OPTIONS> & { readonly pool: string }

/** @throws UsageError */
export function parseAgentOptions(argv: readonly string[]): AgentOptions {
  const options = parseOptions(AGENT_OPTIONS, argv)
  const { pool } = options
  if (pool === undefined) throw new UsageError('--pool is missing. Name the DiskPool to look after.')
  return { ...options, pool }
}
