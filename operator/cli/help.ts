import packageJson from '../../package.json' with { type: 'json' }
import { optionGroups } from '../../server/cli/option-help.ts'
import { hasFlag, type OptionTable } from '../../server/cli/options.ts'
import { AGENT_OPTIONS } from './agent-options.ts'
import { CSI_OPTIONS } from './csi-options.ts'
import { RUN_OPTIONS } from './run-options.ts'

const OVERVIEW = `Usage: ondemand-disk-operator COMMAND [OPTION]...

Disks on demand in Kubernetes.

Commands:
  run          Look after DiskPools and OnDemandDisks.
               See ondemand-disk-operator run --help.
  agent        Keep a pool's server and its disks' objects in step.
               See ondemand-disk-operator agent --help.
  csi          Give disks to Pods by PersistentVolumeClaims.
               See ondemand-disk-operator csi --help.

Options:
  -h, --help   Show this text.
  --version    Show the version.
`

const RUN_INTRODUCTION = `Usage: ondemand-disk-operator run --image IMAGE [OPTION]...

Gives every DiskPool its server and every OnDemandDisk its file, and reports how
that goes in their status. Several may run at once: one of them acts.
`

const AGENT_INTRODUCTION = `Usage: ondemand-disk-operator agent --pool NAME [OPTION]...

Runs beside a pool's server, which itself knows nothing of Kubernetes: tells
it which disks to serve to whom, and reports in their status what becomes of
them. The operator starts it; nobody else has to.
`

const CSI_INTRODUCTION = `Usage: ondemand-disk-operator csi --endpoint unix:///PATH [OPTION]...

Serves the Container Storage Interface, version 1.12, as the driver
csi.ondemanddisk.dev: volumes are OnDemandDisks. Kubernetes' sidecars call it.
`

/** The commands that have options: their tables, and what their help begins with. */
export const COMMAND_OPTIONS: Readonly<
  Record<string, { readonly table: OptionTable; readonly introduction: string }>
> = {
  run: { table: RUN_OPTIONS, introduction: RUN_INTRODUCTION },
  agent: { table: AGENT_OPTIONS, introduction: AGENT_INTRODUCTION },
  csi: { table: CSI_OPTIONS, introduction: CSI_INTRODUCTION },
}

/**
 * What to print on standard output, and then exit with 0, if the arguments of the whole program ask for help or the
 * version, whatever else is wrong with them; undefined if they ask for neither.
 */
export function requestedText(argv: readonly string[]): string | undefined {
  const [first = '', ...rest] = argv
  if (first === '--help' || first === '-h') return OVERVIEW
  if (first === '--version') return versionText()
  const command = Object.hasOwn(COMMAND_OPTIONS, first) ? COMMAND_OPTIONS[first] : undefined
  if (command === undefined) return undefined
  if (hasFlag(command.table, rest, 'help')) return helpOf(command)
  if (hasFlag(command.table, rest, 'version')) return versionText()
  return undefined
}

function versionText(): string {
  return `ondemand-disk-operator ${packageJson.version}\n`
}

function helpOf({
  table,
  introduction,
}: {
  readonly table: OptionTable
  readonly introduction: string
}): string {
  return [introduction, ...optionGroups(table)].join('\n')
}
