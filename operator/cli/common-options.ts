import { quote } from '../../crds/quote.ts'
import { parseText } from '../../server/cli/option-values.ts'
import { type OptionTable, UsageError } from '../../server/cli/options.ts'
import { SERVE_OPTIONS } from '../../server/cli/serve-option-table.ts'

const CLUSTER = 'Cluster'

/** A name as namespaces and pools have it. */
export function parseLabel(text: string): string {
  if (text.length <= 63 && /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/.test(text)) return text
  throw new UsageError(`${quote(text)} is no such name. Give at most 63 lower-case letters, digits and "-".`)
}

/** The options of every command of `ondemand-disk-operator` that say which API server to talk to. */
export const CLUSTER_OPTIONS = {
  kubeconfig: {
    group: CLUSTER,
    kind: 'text',
    placeholder: 'FILE',
    help: 'The kubeconfig that says which API server to talk to, and as whom.',
    shownDefault: 'the cluster that this runs in, or else the files that $KUBECONFIG names',
    parse: parseText,
  },
} as const satisfies OptionTable

/** Those of the program itself, which end the list. */
export const PROGRAM_OPTIONS = {
  metrics: SERVE_OPTIONS.metrics,
  'log-level': SERVE_OPTIONS['log-level'],
  help: SERVE_OPTIONS.help,
  version: SERVE_OPTIONS.version,
} as const satisfies OptionTable
