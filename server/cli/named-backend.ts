/** The backend that `--backend` names, from the words of the command line to what the server works with. */
import type { LayeredBackend } from '../backends/backend.ts'
import { fillIn } from '../backends/layer.ts'
import { ModuleError } from '../backends/module-exports.ts'
import { type FoundBackend, findBackend, type StartedBackend } from '../backends/modules.ts'
import { SettingError } from '../backends/settings.ts'
import { nearest } from './nearest.ts'
import { UsageError } from './options.ts'
import { bounded } from './printable.ts'

/** A backend by name. `shown` is how messages call it: with the option, where there is one. */
export interface BackendName {
  readonly specifier: string
  readonly shown: string
}

/** A backend that is ready to be served. */
export interface NamedBackend {
  readonly backend: LayeredBackend
  /** To be called when all connections have ended. Takes at most UNLOAD_LIMIT_MS. Throws what the module's `unload` failed with. */
  close(): Promise<void>
}

/** What `openNamedBackend` needs to know beside the name. */
export interface NamedBackendTerms {
  readonly readOnly: boolean
  /** As for `fillIn`. */
  readonly onProblem: (problem: Error) => void
  /** How long `open` may take, in ms. */
  readonly openMs: number
}

const MAX_MESSAGE = 500

/** A module that cannot be used as a backend. */
class UnusableModuleError extends Error {
  override readonly name = 'UnusableModuleError'
  readonly code = 'EMODULE'
}

/** What the loader has to say, with the backend's name in front: a usage error where the command line is wrong. */
async function naming<Value>(shown: string, work: () => Promise<Value>): Promise<Value> {
  try {
    return await work()
  } catch (error) {
    const say = () => `${shown}: ${bounded((error as Error).message, MAX_MESSAGE)}`
    if (error instanceof SettingError) throw new UsageError(say(), { cause: error })
    if (error instanceof ModuleError) throw new UnusableModuleError(say(), { cause: error })
    throw error
  }
}

/**
 * Finds a backend and does not set it up.
 * @throws UsageError if there is none of this name, UnusableModuleError
 */
export function findNamedBackend({ specifier, shown }: BackendName): Promise<FoundBackend> {
  return naming(shown, () => findBackend(specifier, { nearest }))
}

/**
 * Finds a backend, sets it up and fills it in.
 * @throws UsageError for what the command line has wrong, UnusableModuleError for the module
 */
export async function openNamedBackend(
  specifier: string,
  settings: readonly string[],
  { readOnly, onProblem, openMs }: NamedBackendTerms,
): Promise<NamedBackend> {
  const shown = `--backend ${specifier}`
  const found = await findNamedBackend({ specifier, shown })
  const started: StartedBackend = await naming(shown, () => found.start(settings))
  const { backend, foreign, unload } = started
  return { backend: fillIn(backend, { readOnly, onProblem, foreign, limits: { openMs } }), close: unload }
}
