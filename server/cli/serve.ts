/** `ondemand-disk serve`: from options to a running server, and from a signal to its end. */
import type { FilledBackend } from '../backends/backend.ts'
import { type DiskDirectory, openDiskDirectory } from '../backends/disks/directory.ts'
import { createDisksBackend } from '../backends/disks/disks.ts'
import { prepareRecipe, type Recipe } from '../backends/disks/recipe.ts'
import { createTemporaryBackend, openTemporaryArea } from '../backends/temporary/temporary.ts'
import type { Endpoint } from '../connection/listener.ts'
import { type NbdServer, startServer } from '../connection/server.ts'
import { reasonOf } from '../connection/session.ts'
import { Admission } from '../exports/admission.ts'
import { createCatalog, type UndeclaredDisks } from '../exports/catalog.ts'
import { createLog, type Log } from './log.ts'
import { limitLog } from './log-limit.ts'
import { addressesToBind, type DiskContent, parseServeOptions, type ServeOptions } from './serve-options.ts'
import { takeActivatedSockets } from './systemd.ts'

/** Hooks for programs that embed the command. */
export interface ServeHooks {
  /** The server accepts clients at these addresses. */
  readonly onListening?: (uris: readonly string[]) => void
}

/** What has to be given back when the server ends. */
type CleanUp = () => Promise<void>

function recipeOf(content: DiskContent): Recipe {
  if (content.kind === 'command') {
    return { command: content.command, variables: Object.fromEntries(content.variables) }
  }
  const { type, label, mkfsOptions } = content
  return { type, mkfsOptions, ...(label !== undefined && { label }) }
}

/** A recipe is needed to serve what exists, too, though it is never followed then. */
const NO_RECIPE: Recipe = { command: 'false' }

interface Disks {
  readonly backend: FilledBackend | undefined
  readonly close: CleanUp
}

async function openTemporary(options: ServeOptions): Promise<Disks> {
  const { newDisk, dir, commandTimeoutMs } = options
  if (newDisk === undefined) throw new Error('A temporary disk needs to be made.')
  const recipe = await prepareRecipe(recipeOf(newDisk.content))
  const area = await openTemporaryArea(dir)
  const backend = createTemporaryBackend({ area, recipe, size: newDisk.size, commandTimeoutMs })
  return { backend: backend as FilledBackend, close: () => area.close() }
}

async function openDisks(options: ServeOptions, directory: DiskDirectory): Promise<FilledBackend> {
  const { newDisk, names, commandTimeoutMs } = options
  const recipe = await prepareRecipe(newDisk === undefined ? NO_RECIPE : recipeOf(newDisk.content))
  return createDisksBackend({
    directory,
    recipe,
    size: newDisk?.size ?? 0,
    names,
    commandTimeoutMs,
  }) as FilledBackend
}

async function openPersistent(options: ServeOptions, log: Log): Promise<Disks> {
  const { dir, newDisk, maxDisks } = options
  // Checked before the directory is touched: a bad option leaves nothing behind.
  if (newDisk !== undefined) await prepareRecipe(recipeOf(newDisk.content))
  const directory = await openDiskDirectory({
    path: dir as string,
    create: newDisk !== undefined,
    ...(maxDisks !== undefined && { maxDisks }),
    onProblem: problem => log.warn(reasonOf(problem), 'Problem in the directory of disks'),
  })
  return { backend: await openDisks(options, directory), close: () => directory.close() }
}

function undeclaredDisks(
  options: ServeOptions,
  backend: FilledBackend | undefined,
): UndeclaredDisks | undefined {
  if (backend === undefined) return undefined
  const { readOnly, temporary, connectionsPerDisk, newDisk } = options
  return { backend, readOnly, temporary, connections: connectionsPerDisk, maxSize: newDisk?.maxSize }
}

function endpointsOf(options: ServeOptions): (Endpoint & { optional?: boolean })[] {
  const activated = takeActivatedSockets()
  return [
    ...addressesToBind(options, activated.length).map(address => ({ kind: 'tcp' as const, ...address })),
    ...(options.unix === undefined ? [] : [{ kind: 'unix' as const, path: options.unix }]),
    ...activated.map(({ descriptor }) => ({ kind: 'descriptor' as const, descriptor })),
  ]
}

async function start(options: ServeOptions, log: Log, disks: Disks): Promise<NbdServer> {
  const { names, access, maxConnections, maxConnectionsPerClient, waitMs, list, handshakeTimeoutMs } = options
  const catalog = createCatalog({
    names,
    undeclared: undeclaredDisks(options, disks.backend),
    declared: undefined,
  })
  const terms = {
    catalog,
    admission: new Admission(),
    patience: waitMs,
    list,
    handshakeTimeoutMs,
    log: limitLog(log),
    access,
    maxConnections,
    maxConnectionsPerClient,
  }
  return startServer(terms, endpointsOf(options))
}

/** Resolves with the name of the first signal that asks the server to stop. */
function stopSignal(): Promise<NodeJS.Signals> {
  return new Promise(resolve => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, resolve)
  })
}

/**
 * Serves until SIGTERM or SIGINT.
 * @throws UsageError, and the errors of directories, recipes and addresses that cannot be used
 */
export async function serve(argv: readonly string[], hooks: ServeHooks = {}): Promise<void> {
  const options = parseServeOptions(argv)
  const log = createLog(options.logLevel, 2, process.stderr.isTTY)
  const stopped = stopSignal()
  const disks = options.temporary ? await openTemporary(options) : await openPersistent(options, log)
  try {
    const server = await start(options, log, disks)
    for (const uri of server.uris) log.info({ uri }, 'Listening')
    hooks.onListening?.(server.uris)
    const signal = await stopped
    log.info({ signal, connections: server.connections }, 'Stopping')
    await server.stop()
  } finally {
    await disks.close()
  }
  log.info({}, 'Stopped')
}
