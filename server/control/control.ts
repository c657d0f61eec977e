/** `--control`: the server's state, and a few orders, for a program of the same user at a unix socket. */
import { randomUUID } from 'node:crypto'
import { type CopiedSource, makeCopy } from './copies.ts'
import { type DeclaredSource, type ServerState, type StateSources, serverState } from './state.ts'
import { type JsonRequest, type JsonServer, RequestError, serveJson } from './unix-http.ts'

/** What is told, and what can be ordered. */
export interface ControlTerms extends Omit<StateSources, 'boot' | 'declared'> {
  /** Reads these manifests, or all, at once. Resolves when their disks can be opened. */
  rescan(manifests: readonly string[] | undefined): Promise<void>
  /** Undefined without `--disks`. */
  readonly declared: (DeclaredSource & CopiedSource) | undefined
  /** Told what went wrong while a request was answered. */
  onError(error: unknown): void
}

/** Longest wait for a change, in seconds. */
const MAX_WAIT = 60
const MAX_MANIFESTS = 1000

/**
 * Serves `GET /exports`, `POST /rescan` and `POST /copies` until it is closed.
 * @throws SocketError
 */
export async function openControl(path: string, terms: ControlTerms): Promise<JsonServer> {
  const sources = { ...terms, boot: randomUUID() }
  return await serveJson(
    path,
    {
      'GET /exports': request => exportsPage(sources, request),
      'POST /rescan': async ({ body }) => {
        await terms.rescan(manifestsOf(body))
        return {}
      },
      'POST /copies': ({ body, signal }) => makeCopy(terms.declared, body, signal),
    },
    error => terms.onError(error),
  )
}

async function exportsPage(sources: StateSources, { query, signal }: JsonRequest): Promise<ServerState> {
  const after = numberOf(query, 'after', Number.MAX_SAFE_INTEGER)
  const wait = numberOf(query, 'wait', MAX_WAIT)
  if (after === undefined || query.get('boot') !== sources.boot) return await serverState(sources, undefined)
  if (wait !== undefined) {
    await sources.activity.after(after, AbortSignal.any([signal, AbortSignal.timeout(wait * 1000)]))
  }
  return await serverState(sources, after)
}

function numberOf(query: URLSearchParams, name: string, maximum: number): number | undefined {
  const text = query.get(name)
  if (text === null) return undefined
  const value = Number(text)
  if (/^[0-9]+$/.test(text) && value <= maximum) return value
  throw new RequestError(400, `${name}: Give a whole number up to ${maximum}.`)
}

function manifestsOf(body: unknown): readonly string[] | undefined {
  if (body === undefined) return undefined
  const { manifests } = body as { manifests?: unknown }
  const isList = Array.isArray(manifests) && manifests.length <= MAX_MANIFESTS
  if (isList && manifests.every(name => typeof name === 'string' && !name.includes('/'))) return manifests
  throw new RequestError(
    400,
    `manifests: Give a list of at most ${MAX_MANIFESTS} file names, or no body for all.`,
  )
}
