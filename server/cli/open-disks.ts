/** The disks that a command line speaks of: which there are, and what serves them. */
import { join } from 'node:path'
import type { Backend, LayeredBackend } from '../backends/backend.ts'
import { type DiskDirectory, HIDDEN_NAME, openDiskDirectory } from '../backends/disks/directory.ts'
import { createDisksBackend } from '../backends/disks/disks.ts'
import { RecipeError } from '../backends/disks/errors.ts'
import { type PreparedRecipe, prepareRecipe, type Recipe } from '../backends/disks/recipe.ts'
import { makeDirectory } from '../backends/disks/records.ts'
import type { Staging } from '../backends/disks/staging.ts'
import { createForwardBackend } from '../backends/forward/forward.ts'
import { fillIn } from '../backends/layer.ts'
import { createTemporaryBackend, openTemporaryArea } from '../backends/temporary/temporary.ts'
import { parseNbdUri } from '../client/uri.ts'
import { reasonOf } from '../connection/session.ts'
import type { CopiedSource } from '../control/copies.ts'
import type { DeclaredSource } from '../control/state.ts'
import type { DeclaredDisks, UndeclaredDisks } from '../exports/catalog.ts'
import { createDeclaredDisks } from '../exports/declared.ts'
import { type DeclaredFiles, openDeclaredFiles, withoutDeclared } from '../exports/declared-files.ts'
import { type ManifestState, watchManifests } from '../exports/manifests.ts'
import { createAskedDisks } from './asked-disks.ts'
import type { Log } from './log.ts'
import { openNamedBackend } from './named-backend.ts'
import { UsageError } from './options.ts'
import type { DiskContent, ModuleOptions, ServeOptions, UpstreamOptions } from './serve-options.ts'

/** Disks that are ready to be served. */
export interface OpenedDisks {
  readonly undeclared: UndeclaredDisks | undefined
  readonly declared: FollowedDisks | undefined
  /** Calls off what is being made, and gives everything back. */
  close(): Promise<void>
}

/** Declared disks that follow their manifests. */
export interface FollowedDisks extends DeclaredDisks, DeclaredSource, CopiedSource {
  /** Reads these manifests, or all, now, and waits until their disks can be opened. @throws ManifestsError */
  rescan(manifests?: readonly string[]): Promise<void>
}

/** What is told about the disks while they are served. */
export interface DiskEvents {
  /** The making of a disk has ended after so many ms, and how it failed if it did. */
  readonly created: (ms: number, error: unknown) => void
  /** The manifests have changed and their new terms hold. */
  readonly termsChanged: () => void
  /** Something about this declared disk is otherwise now. */
  readonly changed: (exportName: string) => void
}

function recipeOf(content: DiskContent): Recipe {
  if (content.kind === 'command') {
    return { command: content.command, variables: Object.fromEntries(content.variables) }
  }
  const { type, label, mkfsOptions } = content
  return { type, mkfsOptions, ...(label !== undefined && { label }) }
}

/** @throws UsageError: this machine has no mkfs of that type, which another option would have */
async function prepared(recipe: Recipe): Promise<PreparedRecipe> {
  try {
    return await prepareRecipe(recipe)
  } catch (error) {
    if (error instanceof RecipeError) throw new UsageError(`${error.message}.`, { cause: error })
    throw error
  }
}

/** Where no disk is made, what exists is served all the same; a backend wants a recipe even then. */
const NO_RECIPE: Recipe = { command: 'false' }

function termsOf(options: ServeOptions, backend: LayeredBackend): UndeclaredDisks {
  const { readOnly, temporary, connectionsPerDisk, newDisk } = options
  return { backend, readOnly, temporary, connections: connectionsPerDisk, maxSize: newDisk?.maxSize }
}

/** Making a disk has a time limit of its own, and may wait for others to be made. */
function layerOptions({ readOnly }: ServeOptions, log: Log) {
  const onProblem = (problem: Error) => log.error(reasonOf(problem), 'The backend broke a rule')
  return { readOnly, onProblem, openMs: Number.POSITIVE_INFINITY }
}

function layer<Inner>(backend: Backend<Inner>, options: ServeOptions, log: Log): LayeredBackend {
  const { openMs, ...others } = layerOptions(options, log)
  return fillIn(backend, { ...others, limits: { openMs } })
}

/** How long requests of a declared disk wait for an upstream that is away: the default of --upstream-retry. */
const UPSTREAM_RETRY_MS = 30_000

/** Who may share a disk is the backend's business. */
const BY_BACKEND = { unlocked: true }

/**
 * Opens what the options name.
 * @throws UsageError, DirectoryError, ManifestsError; nothing is left open then
 */
export function openDisks(options: ServeOptions, log: Log, events: DiskEvents): Promise<OpenedDisks> {
  if (options.upstream !== undefined) return openUpstream(options, options.upstream, log)
  if (options.module !== undefined) return openModule(options, options.module, log)
  return options.temporary ? openTemporary(options, log, events) : openPersistent(options, log, events)
}

/** The backend of an upstream; `shownName` is what the log calls a disk that the upstream names otherwise. */
function forwardTo({ uri, fixed, shared, retryMs }: UpstreamOptions, log: Log, shownName?: string): Backend {
  return createForwardBackend({
    uri,
    exportName: fixed ? 'fixed' : 'passed',
    shared,
    retryMs,
    onLost: (name, error) =>
      log.warn({ export: shownName ?? name, ...reasonOf(error) }, 'The upstream is lost'),
    onReconnected: (name, afterMs) =>
      log.info({ export: shownName ?? name, afterMs: Math.round(afterMs) }, 'The upstream is back'),
  }) as Backend
}

async function openUpstream(
  options: ServeOptions,
  upstream: UpstreamOptions,
  log: Log,
): Promise<OpenedDisks> {
  const backend = layer(forwardTo(upstream, log), options, log)
  const terms = { ...termsOf(options, backend), ...BY_BACKEND, anyName: true }
  return { undeclared: terms, declared: undefined, close: async () => {} }
}

async function openModule(
  options: ServeOptions,
  { name, settings }: ModuleOptions,
  log: Log,
): Promise<OpenedDisks> {
  const { backend, close } = await openNamedBackend(name, settings, {
    ...layerOptions(options, log),
    openMs: options.commandTimeoutMs,
  })
  return { undeclared: { ...termsOf(options, backend), ...BY_BACKEND }, declared: undefined, close }
}

async function openTemporary(options: ServeOptions, log: Log, { created }: DiskEvents): Promise<OpenedDisks> {
  const { newDisk, dir, commandTimeoutMs } = options
  // The options' own check has seen to that.
  if (newDisk === undefined) throw new TypeError('A temporary disk is always made.')
  const recipe = await prepared(recipeOf(newDisk.content))
  const area = await openTemporaryArea(dir, { onWork: created })
  const backend = createTemporaryBackend({ area, recipe, size: newDisk.size, commandTimeoutMs })
  return {
    // The names lead nowhere, so that any will do, unless sizes are in them.
    undeclared: {
      ...termsOf(options, layer(backend, options, log)),
      anyName: newDisk.maxSize === undefined,
    },
    declared: undefined,
    close: () => area.close(),
  }
}

async function openPersistent(options: ServeOptions, log: Log, events: DiskEvents): Promise<OpenedDisks> {
  const { dir, newDisk, maxDisks, create, disks, names, commandTimeoutMs } = options
  // First, because a recipe that cannot work must leave nothing behind.
  const recipe = await prepared(newDisk === undefined ? NO_RECIPE : recipeOf(newDisk.content))
  const directory = await openDiskDirectory({
    path: dir as string,
    create,
    ...(maxDisks !== undefined && { maxDisks }),
    onProblem: problem => log.warn(reasonOf(problem), 'Problem in the directory of disks'),
    onCreation: events.created,
  })
  try {
    const size = newDisk?.size ?? 0
    const servesUndeclared = newDisk !== undefined || disks === undefined
    const backend = createDisksBackend({ directory, recipe, size, names, commandTimeoutMs })
    // Also without manifests: those of an earlier run have left marks.
    const files = await openDeclaredFiles(directory)
    const others = withoutDeclared(layer(backend, options, log), files)
    const declared =
      disks === undefined ? undefined : await followManifests(disks, directory, files, options, log, events)
    return {
      undeclared:
        askedDisks(options, declared?.disks, log) ??
        (servesUndeclared ? termsOf(options, others) : undefined),
      declared: declared?.disks,
      async close() {
        await declared?.close()
        await directory.close()
      },
    }
  } catch (error) {
    await directory.close()
    throw error
  }
}

function askedDisks(options: ServeOptions, declared: FollowedDisks | undefined, log: Log) {
  const { ask: path, readOnly, commandTimeoutMs: timeoutMs } = options
  if (path === undefined || declared === undefined) return undefined
  const take = (manifest: string) => declared.rescan([manifest])
  return createAskedDisks({ path, readOnly, timeoutMs, take, log })
}

async function followManifests(
  path: string,
  directory: DiskDirectory,
  files: DeclaredFiles,
  options: ServeOptions,
  log: Log,
  { created, termsChanged, changed }: DiskEvents,
): Promise<{ disks: FollowedDisks; close(): Promise<void> }> {
  const { readOnly, commandTimeoutMs, names } = options
  const tls = options.tls !== undefined
  let opening: Promise<Staging> | undefined
  const openArea = () => {
    opening ??= openHiddenArea(directory, created)
    return opening
  }
  const forward = (exportName: string, uri: string) =>
    forwardTo(
      { uri: parseNbdUri(uri), fixed: true, shared: false, retryMs: UPSTREAM_RETRY_MS },
      log,
      exportName,
    )
  const disks = createDeclaredDisks({
    ...{ directory, files, openArea, forward },
    ...{ readOnly, commandTimeoutMs, tls, log, changed },
  })
  let reported = new Set<string>()
  const manifests = await watchManifests(path, {
    names,
    onChange(state) {
      reported = reportProblems(state, reported, log)
      disks.update(state)
      termsChanged()
    },
    onError: error => log.error(reasonOf(error), 'The manifests cannot be read'),
  })
  await disks.ready()
  return {
    disks: {
      ...disks,
      problems: () => manifests.state.problems,
      async rescan(names) {
        await manifests.rescan(names)
        await disks.ready()
      },
    },
    async close() {
      await manifests.close()
      await disks.close()
      await (await opening)?.close()
    },
  }
}

/** Also with --no-create temporary disks are made, in a place that is there for certain only where others are made too. */
async function openHiddenArea(
  { path }: DiskDirectory,
  onWork: (ms: number, error: unknown) => void,
): Promise<Staging> {
  const hidden = join(path, HIDDEN_NAME)
  await makeDirectory(hidden)
  return await openTemporaryArea(hidden, { onWork })
}

/** Logs the problems that were not there before; returns all that are there now. */
function reportProblems({ problems }: ManifestState, reported: ReadonlySet<string>, log: Log): Set<string> {
  const now = new Set<string>()
  for (const { file, line, error } of problems) {
    const reason = error.message
    const key = `${file}:${line}: ${reason}`
    now.add(key)
    if (!reported.has(key)) log.error({ file, line, reason }, 'Bad manifest')
  }
  return now
}
