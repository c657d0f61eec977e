import { parseChoice, parseCount, parseText } from '../../server/cli/option-values.ts'
import { type OptionTable, type Parsed, parseOptions, UsageError } from '../../server/cli/options.ts'
import { CLUSTER_OPTIONS, PROGRAM_OPTIONS, parseLabel } from './common-options.ts'

const CLUSTER = 'Cluster'
const PODS = 'Pods'
const ELECTION = 'Election'

const MAX_WORKERS = 1000
const MAX_QPS = 100_000

/** The options of `ondemand-disk-operator run`, in the order in which `--help` shows them. */
export const RUN_OPTIONS = {
  ...CLUSTER_OPTIONS,
  namespace: {
    group: CLUSTER,
    kind: 'text',
    placeholder: 'NAME',
    help: 'Look after the disks and pools of this namespace only.',
    shownDefault: 'all namespaces',
    parse: parseLabel,
  },
  workers: {
    group: CLUSTER,
    kind: 'text',
    placeholder: 'N',
    help: 'How many disks are worked on at once, and how many pools.',
    default: '16',
    parse: parseCount(1, MAX_WORKERS),
  },
  'kube-api-qps': {
    group: CLUSTER,
    kind: 'text',
    placeholder: 'N',
    help: 'Most requests a second to the API server, with bursts of twice as many; 0 leaves it to the API server to say what is too much. The Lease is renewed beside them.',
    default: '0',
    parse: parseCount(0, MAX_QPS),
  },
  image: {
    group: PODS,
    kind: 'text',
    placeholder: 'IMAGE',
    help: 'Image of the Pods that serve and format disks: the one that this program is in. Needed.',
    parse: parseText,
  },
  'image-pull-policy': {
    group: PODS,
    kind: 'text',
    placeholder: 'POLICY',
    help: 'When to pull that image: Always, IfNotPresent or Never.',
    shownDefault: "Kubernetes' own",
    parse: parseChoice(['Always', 'IfNotPresent', 'Never']),
  },
  'image-pull-secret': {
    group: PODS,
    kind: 'repeatable',
    placeholder: 'NAME',
    help: 'Secret with which to pull it, in the namespace of the Pod. Repeatable.',
    parse: parseText,
  },
  'agent-cluster-role': {
    group: PODS,
    kind: 'text',
    placeholder: 'NAME',
    help: "ClusterRole that each pool's agent is bound to in its namespace.",
    default: 'ondemand-disk-agent',
    parse: parseText,
  },
  'no-leader-election': {
    group: ELECTION,
    kind: 'flag',
    help: 'Act at once, without asking whether another operator does. For one that runs outside of the cluster alone.',
  },
  'lease-namespace': {
    group: ELECTION,
    kind: 'text',
    placeholder: 'NAME',
    help: 'Namespace of the Lease by which one of several operators is elected.',
    shownDefault: 'that of the Pod, or of the kubeconfig',
    parse: parseLabel,
  },
  'lease-name': {
    group: ELECTION,
    kind: 'text',
    placeholder: 'NAME',
    help: 'Name of the Lease.',
    default: 'ondemand-disk-operator',
    parse: parseLabel,
  },
  ...PROGRAM_OPTIONS,
} as const satisfies OptionTable

export type RunOptions = Parsed<typeof RUN_OPTIONS> & { readonly image: string }

/** @throws UsageError */
export function parseRunOptions(argv: readonly string[]): RunOptions {
  const options = parseOptions(RUN_OPTIONS, argv)
  const { image } = options
  if (image === undefined) {
    throw new UsageError('--image is missing. Give the image that the Pods of pools and Jobs are to run.')
  }
  return { ...options, image }
}
