/** For tests: a process that finds and starts backends as the server does, and tells what came of it. */
import { findBackend } from './modules.ts'

/** What to load, and with which settings. */
export interface LoadOrder {
  readonly specifier: string
  readonly settings: readonly string[]
}

/** How it went: the error, or what was found. */
export interface LoadResult {
  readonly error?: { readonly name: string; readonly message: string }
  readonly keys?: readonly string[]
  readonly foreign?: boolean
  readonly size?: number
}

const nearest = (word: string, candidates: readonly string[]) =>
  candidates.find(candidate => candidate !== word && candidate.startsWith(word.slice(0, 3)))

async function load({ specifier, settings }: LoadOrder): Promise<LoadResult> {
  try {
    const found = await findBackend(specifier, { nearest })
    const { backend, foreign, unload } = await found.start(settings)
    const size = await backend.getSize(
      await backend.open('x', { readOnly: true, client: '', signal: AbortSignal.any([]) }),
    )
    await unload()
    return { keys: Object.keys(found.configKeys), foreign, size }
  } catch (error) {
    const { name, message } = error as Error
    return { error: { name, message } }
  }
}

const results: LoadResult[] = []
for (const order of JSON.parse(process.argv[2] ?? '[]') as LoadOrder[]) results.push(await load(order))
process.stdout.write(JSON.stringify(results))
