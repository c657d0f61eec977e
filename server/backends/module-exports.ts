/** What a module must export to be a backend, and what it may. */
import { API_VERSION, type Backend } from './backend.ts'
import { describe } from './layer/errors.ts'

/** A setting that a backend takes from the command line, as `key=value`. */
export interface ConfigKey {
  /** What it means, in a sentence or two, for `ondemand-disk backends`. */
  readonly description: string
  /** Default: it may be left out. */
  readonly required?: boolean
  /** Turns the text into the value; throws an error that says what is wrong with it. Default: the text is the value. */
  readonly parse?: (text: string) => unknown
}

/** The settings of a backend by their keys. */
export type ConfigKeys = Readonly<Record<string, ConfigKey>>

/** The values of the keys that were given. */
export type Config = Readonly<Record<string, unknown>>

/** What the exports of a module are, all together. */
export interface BackendModule<Handle = unknown> extends Omit<Backend<Handle>, 'usesPassages'> {
  /** What the backend is, in a sentence, for `ondemand-disk backends`. */
  readonly description?: string
  readonly configKeys?: ConfigKeys
  /** Takes the settings. Called once, before anything else, also without settings. */
  configure?(config: Config): void | Promise<void>
  /** The server has stopped. Called once, when all handles are closed. */
  unload?(): void | Promise<void>
}

/** The name of a function that a module may export. */
export type Callback = Exclude<keyof BackendModule, 'apiVersion' | 'description' | 'configKeys'>

interface CallbackRule {
  readonly required?: true
  /** What it is useless without. */
  readonly needs?: Callback | 'configKeys'
}

/** All callbacks, in the order in which docs/backends.md describes them. */
export const CALLBACKS: Readonly<Record<Callback, CallbackRule>> = {
  open: { required: true },
  getSize: { required: true },
  sizeNow: {},
  pread: { required: true },
  pwrite: {},
  flush: {},
  trim: { needs: 'pwrite' },
  zero: { needs: 'pwrite' },
  cache: {},
  extents: {},
  close: {},
  preadNow: {},
  pwriteNow: { needs: 'pwrite' },
  endBatch: {},
  canWrite: { needs: 'pwrite' },
  canFlush: { needs: 'flush' },
  canFua: { needs: 'pwrite' },
  canTrim: { needs: 'trim' },
  canZero: { needs: 'zero' },
  canFastZero: { needs: 'zero' },
  canCache: { needs: 'cache' },
  canMultiConn: {},
  isRotational: {},
  blockSizes: {},
  exportDescription: {},
  listExports: {},
  defaultExport: {},
  probe: {},
  configure: { needs: 'configKeys' },
  unload: {},
}

const NAMES: readonly string[] = ['apiVersion', 'description', 'configKeys', ...Object.keys(CALLBACKS)]
const KEY = /^[A-Za-z][A-Za-z0-9_-]{0,63}$/

/** A module that is no backend. The message is a sentence about the module, without its name. */
export class ModuleError extends Error {
  override readonly name = 'ModuleError'
  readonly code = 'EMODULE'
}

/** Finds the candidate that a misspelt word most likely stands for. */
export type Nearest = (word: string, candidates: readonly string[]) => string | undefined

/**
 * Checks all that a module exports.
 * @throws ModuleError naming the first thing that is wrong
 */
export function checkExports(exports: Readonly<Record<string, unknown>>, nearest: Nearest): BackendModule {
  for (const name of Object.keys(exports)) checkName(name, nearest)
  checkVersion(exports.apiVersion)
  for (const [name, { required, needs }] of Object.entries(CALLBACKS)) {
    const value = exports[name]
    if (value === undefined) {
      if (required) throw new ModuleError(`It lacks the function ${name}, which every backend has to export.`)
    } else if (typeof value !== 'function') {
      throw new ModuleError(`Its export ${name} is ${describe(value)}, not a function.`)
    } else if (needs !== undefined && exports[needs] === undefined) {
      throw new ModuleError(`It exports ${name}, which is of no use without ${needs}.`)
    }
  }
  if (exports.description !== undefined && typeof exports.description !== 'string') {
    throw new ModuleError(`Its export description is ${describe(exports.description)}, not a text.`)
  }
  if (exports.configKeys !== undefined) {
    checkConfigKeys(exports.configKeys)
    if (exports.configure === undefined) {
      throw new ModuleError('It exports configKeys, which are of no use without configure.')
    }
  }
  return exports as unknown as BackendModule
}

function checkName(name: string, nearest: Nearest): void {
  if (NAMES.includes(name)) return
  if (name === 'default') {
    throw new ModuleError('It has a default export. A backend exports each function by its name.')
  }
  const near = nearest(name, NAMES)
  const hint = near === undefined ? 'See docs/backends.md for those that are.' : `Did you mean ${near}?`
  throw new ModuleError(`Its export ${describe(name)} is not part of the backend interface. ${hint}`)
}

function checkVersion(version: unknown): void {
  if (version === undefined) {
    throw new ModuleError(`It lacks apiVersion. Write: export const apiVersion = ${API_VERSION}`)
  }
  if (typeof version !== 'number' || !Number.isInteger(version) || version < 1) {
    throw new ModuleError(`Its apiVersion is ${describe(version)}, not a whole number from 1 on.`)
  }
  if (version > API_VERSION) {
    throw new ModuleError(
      `It needs version ${version} of the backend interface, but this server has version ${API_VERSION}.`,
    )
  }
}

function checkConfigKeys(keys: unknown): void {
  if (typeof keys !== 'object' || keys === null || Array.isArray(keys)) {
    throw new ModuleError(`Its export configKeys is ${describe(keys)}, not an object of keys.`)
  }
  for (const [name, key] of Object.entries(keys)) {
    const where = `Its configKeys.${name}`
    if (!KEY.test(name)) {
      throw new ModuleError(
        `${where} is not a possible key: letters, digits, _ and - with a letter first, at most 64.`,
      )
    }
    const { description, required, parse } = (key ?? {}) as Partial<Record<keyof ConfigKey, unknown>>
    if (typeof description !== 'string') throw new ModuleError(`${where} lacks a description.`)
    if (required !== undefined && typeof required !== 'boolean') {
      throw new ModuleError(`${where}.required is ${describe(required)}, neither true nor false.`)
    }
    if (parse !== undefined && typeof parse !== 'function') {
      throw new ModuleError(`${where}.parse is ${describe(parse)}, not a function.`)
    }
  }
}
