/** From what `--backend` names, a built-in backend or a module of the user's own, to a backend that is set up. */
import { stat } from 'node:fs/promises'
import { registerHooks } from 'node:module'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Backend } from './backend.ts'
import { BUILT_IN, type OptionBackend } from './built-in.ts'
import { failureOf } from './layer/errors.ts'
import {
  type BackendModule,
  type Config,
  type ConfigKeys,
  checkExports,
  ModuleError,
  type Nearest,
} from './module-exports.ts'
import { parseSettings, SettingError } from './settings.ts'

/** A backend that was found but is not set up. */
export interface FoundBackend {
  readonly description: string | undefined
  readonly configKeys: ConfigKeys
  /** Its code comes from outside this project: `fillIn` wants to know. */
  readonly foreign: boolean
  /**
   * Sets it up. To be called once.
   * @throws SettingError for the settings, ModuleError for what the module makes of them
   */
  start(settings: readonly string[]): Promise<StartedBackend>
}

/** A backend that is ready for the layer. */
export interface StartedBackend {
  readonly backend: Backend
  readonly foreign: boolean
  /** To be called when all handles are closed. Takes at most UNLOAD_LIMIT_MS. Throws what the module's `unload` failed with. */
  unload(): Promise<void>
}

/** How backends are looked for. */
export interface FindOptions {
  readonly nearest: Nearest
  /** Where relative paths begin and packages are looked for. Default: the working directory. */
  readonly directory?: string
}

/** How long a module may take to be loaded, `configure` and `unload`, in ms. */
export const LOAD_LIMIT_MS = 30_000
export const CONFIGURE_LIMIT_MS = 60_000
export const UNLOAD_LIMIT_MS = 1500

/**
 * Finds a backend: a built-in one by its name, else a file by its path, else a package. A module's code runs.
 * @throws SettingError if there is nothing of this name, ModuleError if what there is is no backend
 */
export async function findBackend(specifier: string, options: FindOptions): Promise<FoundBackend> {
  const { nearest, directory = process.cwd() } = options
  const builtIn = Object.hasOwn(BUILT_IN, specifier) ? BUILT_IN[specifier] : undefined
  if (builtIn !== undefined) {
    if ('options' in builtIn) throw chosenByOption(specifier, builtIn)
    const { description, configKeys, create } = builtIn
    return {
      description,
      configKeys,
      foreign: false,
      async start(settings) {
        const backend = create(parseSettings(configKeys, settings, nearest))
        return { backend, foreign: false, async unload() {} }
      },
    }
  }
  const module = checkExports(exportsOf(await load(specifier, directory, nearest)), nearest)
  const { description, configKeys = {} } = module
  return {
    description,
    configKeys,
    foreign: true,
    async start(settings) {
      await configure(module, parseSettings(configKeys, settings, nearest))
      return { backend: module, foreign: true, unload: () => unload(module) }
    },
  }
}

function chosenByOption(name: string, { options: [first] }: OptionBackend): SettingError {
  return new SettingError(
    `The backend ${name} is chosen by --${first} and set up by options, not by --backend.`,
  )
}

/** Does this name a file, not a package? */
const isPath = (specifier: string) => /^\.{0,2}\/|\.[cm]?[jt]s$/.test(specifier)

async function load(specifier: string, directory: string, nearest: Nearest): Promise<object> {
  const imported = isPath(specifier)
    ? importFile(resolve(directory, specifier))
    : importPackage(specifier, directory, nearest)
  return within(LOAD_LIMIT_MS, 'It was not loaded', imported)
}

async function importFile(path: string): Promise<object> {
  const stats = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') throw new SettingError('There is no such file.')
    throw new SettingError(`The file cannot be read: ${error.message}`, { cause: error })
  })
  if (!stats.isFile()) throw new SettingError('It is not a file.')
  try {
    return await import(pathToFileURL(path).href)
  } catch (thrown) {
    throw notLoaded(thrown)
  }
}

async function importPackage(name: string, directory: string, nearest: Nearest): Promise<object> {
  const parentURL = pathToFileURL(`${directory}/`).href
  let isFound = false
  // Looked for from the working directory, not from where the server is installed.
  const hooks = registerHooks({
    resolve(specifier, context, next) {
      if (specifier !== name || isFound) return next(specifier, context)
      const found = next(specifier, { ...context, parentURL })
      isFound = true
      return found
    },
  })
  try {
    return await import(name)
  } catch (thrown) {
    throw isFound ? notLoaded(thrown) : notFound(name, thrown, nearest)
  } finally {
    hooks.deregister()
  }
}

function notFound(name: string, thrown: unknown, nearest: Nearest): Error {
  const { code } = (thrown ?? {}) as { readonly code?: unknown }
  if (code !== 'ERR_MODULE_NOT_FOUND' && code !== 'ERR_INVALID_MODULE_SPECIFIER') return notLoaded(thrown)
  const near = nearest(name, Object.keys(BUILT_IN))
  const hint =
    near === undefined ? `A file is named by its path, such as ./${name}.ts.` : `Did you mean ${near}?`
  return new SettingError(`There is no built-in backend and no package of this name. ${hint}`, {
    cause: thrown,
  })
}

function notLoaded(thrown: unknown): ModuleError {
  return new ModuleError(`It cannot be loaded: ${reasonOf(thrown)}`, { cause: thrown })
}

/** The first line of what a failed import has to say; where the source is at fault, with its line number. */
function reasonOf(thrown: unknown): string {
  if (!(thrown instanceof Error)) return failureOf('code', thrown).message
  if ((thrown as { code?: unknown }).code === 'ERR_UNSUPPORTED_NODE_MODULES_TYPE_STRIPPING') {
    return 'Node.js does not run TypeScript from packages. Compile it to JavaScript.'
  }
  const reason = (thrown.message || thrown.name).split('\n', 1)[0] ?? ''
  if (!(thrown instanceof SyntaxError)) return reason
  const line = /^(?:file:)?\/.*:(\d+)$/m.exec(thrown.stack?.split('\n', 1)[0] ?? '')?.[1]
  return line === undefined ? `Syntax error: ${reason}` : `Syntax error in line ${line}: ${reason}`
}

/** The exports of a module, also of one in the older format (CommonJS). */
function exportsOf(module: object): Readonly<Record<string, unknown>> {
  const commonJs = (module as { readonly 'module.exports'?: unknown })['module.exports']
  const { __esModule, ...exports } = {
    ...(typeof commonJs === 'object' && commonJs !== null ? commonJs : module),
  } as Record<string, unknown>
  return exports
}

async function configure(module: BackendModule, config: Config): Promise<void> {
  try {
    await within(CONFIGURE_LIMIT_MS, 'Its configure did not end', module.configure?.(config))
  } catch (thrown) {
    if (thrown instanceof ModuleError) throw thrown
    const reason = thrown instanceof Error ? thrown.message : failureOf('configure', thrown).message
    throw new ModuleError(`Its configure failed: ${reason}`, { cause: thrown })
  }
}

async function unload(module: BackendModule): Promise<void> {
  try {
    await within(UNLOAD_LIMIT_MS, 'Its unload did not end', module.unload?.())
  } catch (thrown) {
    throw failureOf('unload', thrown)
  }
}

/** Waits for a promise, and keeps the process alive as long. */
async function within<Value>(ms: number, what: string, promise: Value | PromiseLike<Value>): Promise<Value> {
  let timer: NodeJS.Timeout | undefined
  const tooLate = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new ModuleError(`${what} within ${ms / 1000} s.`)), ms)
  })
  try {
    return await Promise.race([promise, tooLate])
  } finally {
    clearTimeout(timer)
  }
}
