/** A real server inside the test's own process, on a directory of real files, and what it leaves behind. */
import {
  existsSync,
  lstatSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { expect, onTestFinished, vi } from 'vitest'
import { compileAccessRules } from '../../crds/access-rules.ts'
import { NO_LIMITS, RateAccounts } from '../access/rate-limit.ts'
import type { Backend, LayeredBackend } from '../backends/backend.ts'
import { HIDDEN_NAME, openDiskDirectory } from '../backends/disks/directory.ts'
import { createDisksBackend } from '../backends/disks/disks.ts'
import { prepareRecipe, type Recipe } from '../backends/disks/recipe.ts'
import { makeDirectory } from '../backends/disks/test-directory.ts'
import { fillIn } from '../backends/layer.ts'
import { createTemporaryBackend, openTemporaryArea } from '../backends/temporary/temporary.ts'
import { Activity } from '../control/activity.ts'
import { Admission } from '../exports/admission.ts'
import { type Catalog, createCatalog } from '../exports/catalog.ts'
import { ServerMetrics } from '../metrics/server-metrics.ts'
import type { Endpoint } from './listener.ts'
import { type NbdServer, type ServerTerms, startServer } from './server.ts'
import { attach, connectRaw, greet, type RawClient, type Wishes } from './test-client.ts'

export const MIB = 2 ** 20

/** Quick, and the disk is all zeroes. */
const BLANK: Recipe = { command: 'truncate -s "$size" "$disk"' }

/** A line of the server's log. */
export interface LogLine {
  readonly level: string
  readonly message: string
  readonly fields: Readonly<Record<string, unknown>>
}

/** What is not the default. */
export interface Setup extends Partial<ServerTerms> {
  /** Bytes of a new disk (1 MiB). */
  readonly size?: number
  readonly recipe?: Recipe
  readonly temporary?: boolean
  readonly readOnly?: boolean
  readonly connections?: number
  readonly maxSize?: number
  readonly backend?: Backend
  readonly path?: string
  readonly endpoints?: readonly Endpoint[]
  readonly allow?: readonly string[]
  readonly deny?: readonly string[]
  /** Puts something in front of the catalog. */
  readonly around?: (catalog: Catalog) => Catalog
}

/** A running server. */
export interface TestServer {
  readonly server: NbdServer
  readonly admission: Admission
  readonly metrics: ServerMetrics
  readonly port: number
  /** Directory of the disks. */
  readonly path: string
  readonly log: readonly LogLine[]
  connect(): Promise<RawClient>
  /** Connects and says hello; options can follow. */
  greeted(): Promise<RawClient>
  /** Connects up to the transmission phase of a disk that is there already, blank if it is new. */
  attached(name?: string, wishes?: Wishes): Promise<RawClient>
}

/** A disk that the server would make too, but with a program and with syncs, which take their time. */
function makeBlank(path: string, size: number): void {
  if (existsSync(path)) return
  writeFileSync(path, '')
  truncateSync(path, size)
}

const layered = <Inner>(backend: Backend<Inner>) =>
  fillIn(backend, { readOnly: false, onProblem: () => undefined })

async function backendOf(setup: Setup, path: string): Promise<LayeredBackend> {
  if (setup.backend !== undefined) return layered(setup.backend)
  const { size = MIB, recipe = BLANK } = setup
  const prepared = await prepareRecipe(recipe)
  if (setup.temporary) {
    const area = await openTemporaryArea(path)
    onTestFinished(() => area.close())
    return layered(createTemporaryBackend({ area, recipe: prepared, size }))
  }
  const directory = await openDiskDirectory({ path, create: true })
  onTestFinished(() => directory.close())
  return layered(createDisksBackend({ directory, recipe: prepared, size }))
}

/** Starts a server that is stopped with the test. */
export async function serve(setup: Setup = {}): Promise<TestServer> {
  const { temporary = false, readOnly = false, connections = 1, maxSize, allow = [], deny = [] } = setup
  const path = setup.path ?? makeDirectory()
  const backend = await backendOf(setup, path)
  const log: LogLine[] = []
  const logTo = (level: string) => (fields: Readonly<Record<string, unknown>>, message: string) => {
    log.push({ level, message, fields })
  }
  const undeclared = { backend, readOnly, temporary, connections, maxSize }
  const access = compileAccessRules({ allow, deny })
  const catalog = createCatalog({ access, names: 'strict', undeclared, declared: undefined })
  const terms: ServerTerms = {
    catalog: setup.around?.(catalog) ?? catalog,
    admission: new Admission(),
    patience: 0,
    list: true,
    handshakeTimeoutMs: 10_000,
    log: { error: logTo('error'), warn: logTo('warn'), info: logTo('info'), debug: logTo('debug') },
    access,
    tls: undefined,
    oldstyle: false,
    limits: NO_LIMITS,
    accounts: new RateAccounts(),
    metrics: new ServerMetrics(),
    activity: new Activity(),
    maxConnections: 1000,
    maxConnectionsPerClient: 1000,
    ...setup,
  }
  const endpoints = setup.endpoints ?? [{ kind: 'tcp', host: '127.0.0.1', port: 0 }]
  const server = await startServer(terms, endpoints)
  onTestFinished(async () => void (await server.stop()))
  const port = Number(new URL(server.uris[0] ?? '').port)
  const connect = () => connectRaw(port)
  return {
    server,
    admission: terms.admission,
    metrics: terms.metrics,
    port,
    path,
    log,
    connect,
    greeted: async () => greet(await connect()),
    async attached(name = 'disk', wishes = {}) {
      if (setup.backend === undefined && !temporary) makeBlank(join(path, name), setup.size ?? MIB)
      const client = await connect()
      await attach(client, name, wishes)
      return client
    },
  }
}

/** Resolves once the server has no connection left. */
export async function allGone({ server }: TestServer, left = 0): Promise<void> {
  await vi.waitFor(() => expect(server.connections).toBe(left), { timeout: 5000, interval: 5 })
}

/** What a server holds of the machine: counted before and after, it must be the same. */
export interface Holdings {
  readonly sockets: number
  /** Open files of the directory. */
  readonly files: readonly string[]
  /** Locks on files of the directory. */
  readonly locks: number
  /** What lies in the hidden directory. */
  readonly staged: readonly string[]
}

/** Counts descriptors, locks and half-made disks of the server on this directory. */
export function holdings(path: string): Holdings {
  const targets = readdirSync('/proc/self/fd').flatMap(descriptor => {
    try {
      return [readlinkSync(`/proc/self/fd/${descriptor}`)]
    } catch {
      return []
    }
  })
  const hidden = join(path, HIDDEN_NAME)
  const staged = readdirSync(path)
    .filter(name => name === HIDDEN_NAME)
    .flatMap(() => readdirSync(hidden, { recursive: true, encoding: 'utf8' }))
  const inodes = readdirSync(path, { recursive: true, encoding: 'utf8' }).map(
    name => lstatSync(join(path, name)).ino,
  )
  const locks = readFileSync('/proc/locks', 'utf8').split('\n')
  return {
    sockets: targets.filter(target => target.startsWith('socket:')).length,
    files: targets.filter(target => target.startsWith(path)).sort(),
    locks: locks.filter(line => inodes.some(inode => line.includes(`:${inode} `))).length,
    staged: staged.sort(),
  }
}
