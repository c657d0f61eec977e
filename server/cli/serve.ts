/** `ondemand-disk serve`: from options to a running server, and from a signal to its end. */
import { quote } from '../../crds/quote.ts'
import { RateAccounts } from '../access/rate-limit.ts'
import type { Endpoint } from '../connection/listener.ts'
import type { TlsTerms } from '../connection/negotiation.ts'
import { type NbdServer, type ServerTerms, startServer } from '../connection/server.ts'
import { reasonOf } from '../connection/session.ts'
import { openTls } from '../connection/tls.ts'
import { Activity } from '../control/activity.ts'
import { openControl } from '../control/control.ts'
import { Admission } from '../exports/admission.ts'
import { createCatalog } from '../exports/catalog.ts'
import type { Policy } from '../exports/policy.ts'
import { followPolicy, type PolicyFile } from '../exports/policy-file.ts'
import type { Readiness } from '../metrics/endpoint.ts'
import { ServerMetrics } from '../metrics/server-metrics.ts'
import { createLog, type Log } from './log.ts'
import { limitLog } from './log-limit.ts'
import { countCreations, openMetricsEndpoint } from './metrics-endpoint.ts'
import { type OpenedDisks, openDisks } from './open-disks.ts'
import { addressesToBind, parseServeOptions, type ServeOptions } from './serve-options.ts'
import { STOP_SIGNALS } from './stop-signals.ts'
import { type ActivatedSocket, takeActivatedSockets } from './systemd.ts'
import { findTlsFiles } from './tls-dir.ts'

/** Hooks for programs that embed the command. */
export interface ServeHooks {
  /** The server accepts clients at these addresses. */
  readonly onListening?: (uris: readonly string[]) => void
}

/** Disks that are named where many could not be synced; the log has them all. */
const MAX_NAMED = 5

/** The server has stopped, and what clients wrote last may be lost if the machine goes down now. */
class UnsyncedError extends Error {
  override readonly name = 'UnsyncedError'
  readonly code = 'EIO'

  constructor(disks: readonly string[]) {
    const named = disks.slice(0, MAX_NAMED).map(disk => quote(disk))
    const others = disks.length > MAX_NAMED ? ` and ${disks.length - MAX_NAMED} others` : ''
    super(
      `Stopped, but what was written last may not be durable, since it could not be flushed: ${named.join(', ')}${others}`,
    )
  }
}

function endpointsOf(
  options: ServeOptions,
  activated: readonly ActivatedSocket[],
): (Endpoint & { optional?: boolean })[] {
  return [
    ...addressesToBind(options, activated.length).map(address => ({ kind: 'tcp' as const, ...address })),
    ...(options.unix === undefined ? [] : [{ kind: 'unix' as const, path: options.unix }]),
    ...activated.map(({ descriptor }) => ({ kind: 'descriptor' as const, descriptor })),
  ]
}

/** Resolves with the name of the first signal that asks the server to stop. */
function stopSignal(): Promise<NodeJS.Signals> {
  return new Promise(resolve => {
    for (const signal of STOP_SIGNALS) process.once(signal, resolve)
  })
}

/**
 * Serves until SIGTERM or SIGINT.
 * @throws UsageError, UnsyncedError, and the errors of directories, manifests and addresses that cannot be used
 */
export async function serve(argv: readonly string[], hooks: ServeHooks = {}): Promise<void> {
  const options = parseServeOptions(argv)
  // Before anything is started that would inherit what they say.
  const activated = takeActivatedSockets()
  const log = createLog(options.logLevel, 2, process.stderr.isTTY)
  const limitedLog = limitLog(log, { level: options.logLevel })
  const metrics = new ServerMetrics()
  const activity = new Activity()
  let readiness: Readiness = 'starting'
  let server: NbdServer | undefined
  let tls: TlsTerms | undefined
  let disks: OpenedDisks | undefined
  let control: { close(): Promise<void> } | undefined
  let policy: PolicyFile | undefined
  let unsynced: readonly string[] = []
  const endpoint =
    options.metrics && (await openMetricsEndpoint(options.metrics, metrics, () => readiness, log))
  try {
    // First, since it makes nothing that credentials that cannot be used would leave behind.
    tls = await tlsOf(options, log)
    policy = await policyOf(options, log, () => server?.enforceAccess())
    disks = await openDisks(options, log, {
      created: countCreations(metrics),
      termsChanged: () => server?.enforceAccess(),
      changed: name => activity.changed(name),
    })
    const { declared } = disks
    if (options.control !== undefined) {
      control = await openControl(options.control, {
        ...{ activity, declared, refusals: metrics.refusals },
        rescan: async manifests => {
          await policy?.refresh()
          await declared?.rescan(manifests)
        },
        onError: error => log.error(reasonOf(error), 'A request to the control socket failed'),
      })
    }
    const terms = serverTerms(options, disks, policy, { tls, metrics, activity, log: limitedLog })
    server = await startServer(terms, endpointsOf(options, activated))
    // Until here a signal ends the process at once (see first-signals.ts), which no step of the start minds.
    const stopped = stopSignal()
    // Manifests may have changed between the first look and the first client.
    server.enforceAccess()
    for (const uri of server.uris) log.info({ uri }, 'Listening')
    readiness = 'ready'
    hooks.onListening?.(server.uris)
    const signal = await stopped
    readiness = 'stopping'
    log.info({ signal, connections: server.connections }, 'Stopping')
    unsynced = await server.stop()
  } finally {
    tls?.acceptor.close()
    await control?.close()
    await policy?.close()
    await disks?.close()
    await endpoint?.close()
    limitedLog.close()
  }
  if (unsynced.length > 0) throw new UnsyncedError(unsynced)
  log.info({}, 'Stopped')
}

async function tlsOf({ tls }: ServeOptions, log: Log): Promise<TlsTerms | undefined> {
  if (tls === undefined) return undefined
  const files = tls.dir === undefined ? tls.files : await findTlsFiles(tls.dir)
  const acceptor = await openTls(files, {
    reloaded: () => log.info({}, 'New TLS credentials are in use'),
    failed: error => log.error(reasonOf(error), 'New TLS credentials cannot be used; the old ones stay'),
  })
  return { required: tls.required, acceptor }
}

async function policyOf(
  { policy: path, tls }: ServeOptions,
  log: Log,
  onChange: () => void,
): Promise<PolicyFile | undefined> {
  if (path === undefined) return undefined
  return await followPolicy(path, {
    tls: tls !== undefined,
    onChange,
    onMissing: () => log.info({ path }, 'Nobody is admitted until there is a policy'),
    onProblem: error => log.error(reasonOf(error), 'The policy cannot be used; what held before stays'),
  })
}

/** Rules and limits: from the options or, looked at anew each time, from the policy. */
function serverTerms(
  options: ServeOptions,
  { undeclared, declared }: OpenedDisks,
  policy: PolicyFile | undefined,
  shared: Pick<ServerTerms, 'tls' | 'metrics' | 'activity' | 'log'>,
): ServerTerms {
  const { names, waitMs: patience, list, oldstyle, handshakeTimeoutMs } = options
  const bounds = (): Policy => policy?.policy ?? options
  const access = {
    get allow() {
      return bounds().access.allow
    },
    get deny() {
      return bounds().access.deny
    },
  }
  return {
    ...shared,
    catalog: createCatalog({ access, names, undeclared, declared }),
    admission: new Admission(),
    accounts: new RateAccounts(),
    patience,
    list,
    oldstyle,
    handshakeTimeoutMs,
    access,
    get maxConnections() {
      return bounds().maxConnections
    },
    get maxConnectionsPerClient() {
      return bounds().maxConnectionsPerClient
    },
    get limits() {
      return bounds().limits
    },
  }
}
