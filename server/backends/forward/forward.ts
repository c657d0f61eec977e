/**
 * The backend that forwards to another NBD server. Size, abilities, block sizes, extents and errors are the
 * upstream's. While it is away requests wait, and are sent again when it is back: server/client/reconnecting.ts
 * says what is promised then.
 */
import type { NbdClient } from '../../client/client.ts'
import { listExports, probe } from '../../client/discovery.ts'
import { RefusedError } from '../../client/errors.ts'
import type { ExportInfo } from '../../client/export-info.ts'
import { OPEN_TIMEOUT_MS } from '../../client/options.ts'
import { connectReconnecting } from '../../client/reconnecting.ts'
import type { NbdUri } from '../../client/uri.ts'
import { API_VERSION, type Backend, type Capabilities, type OpenContext, PENDING } from '../backend.ts'

/** What a forwarding backend is made of. */
export interface ForwardConfig {
  /** Where the upstream is; its export name counts if `exportName` is `fixed`. */
  readonly uri: NbdUri
  /** `fixed`: all clients get the export that the URI names. `passed`: each gets the one that it asks for. */
  readonly exportName: 'fixed' | 'passed'
  /** One connection for all clients instead of one for each. Only where the name is fixed. */
  readonly shared: boolean
  /** How long requests wait for an upstream that is away, in ms. */
  readonly retryMs: number
  /** Told when an upstream is lost, and when it is there again. */
  readonly onLost?: (exportName: string, error: Error) => void
  readonly onReconnected?: (exportName: string, afterMs: number) => void
}

/** What an upstream can do, as the layer above the backends asks for it. */
function capabilitiesOf({ flags, blockSizes }: ExportInfo, shared: boolean): Partial<Capabilities> {
  const { readOnly, canFlush, canFua, canTrim, canZero, canFastZero, canCache, rotational } = flags
  return {
    canWrite: !readOnly,
    canFlush,
    canFua,
    canTrim,
    canZero,
    canFastZero,
    canCache,
    // One connection for all keeps their order, as far as there is one: its flush covers them all.
    canMultiConn: shared || flags.canMultiConn,
    isRotational: rotational,
    blockSizes,
  }
}

/** Some servers tell of an export only by opening it: those without the fixed newstyle handshake, or without INFO. */
const canOnlyOpen = (error: unknown) => error instanceof RefusedError && error.code === 'ENOTSUP'

/** One connection for as long as anybody uses it. */
class SharedClient {
  readonly #connect: () => Promise<NbdClient>
  #client: Promise<NbdClient> | undefined
  #users = 0

  constructor(connect: () => Promise<NbdClient>) {
    this.#connect = connect
  }

  async take(): Promise<NbdClient> {
    this.#users++
    this.#client ??= this.#connect()
    const taken = this.#client
    try {
      return await taken
    } catch (error) {
      // The next one tries anew.
      if (this.#client === taken) this.#client = undefined
      this.#users--
      throw error
    }
  }

  async give(client: NbdClient): Promise<void> {
    if (--this.#users > 0) return
    this.#client = undefined
    await client.close()
  }
}

/** Makes the backend; nothing is connected before the first `open`. */
export function createForwardBackend(config: ForwardConfig): Backend<NbdClient> {
  const { uri, retryMs, onLost, onReconnected } = config
  const target = (exportName: string): NbdUri =>
    config.exportName === 'fixed' ? uri : { ...uri, exportName }

  function connect(exportName: string, signal?: AbortSignal): Promise<NbdClient> {
    return connectReconnecting(target(exportName), {
      retryMs,
      openTimeout: OPEN_TIMEOUT_MS,
      ...(signal && { signal }),
      ...(onLost && { onLost: error => onLost(exportName, error) }),
      ...(onReconnected && { onReconnected: afterMs => onReconnected(exportName, afterMs) }),
    })
  }

  const shared = config.shared ? new SharedClient(() => connect(uri.exportName)) : undefined

  return {
    apiVersion: API_VERSION,
    usesPassages: true,

    open: (exportName: string, { signal }: OpenContext) => shared?.take() ?? connectFor(exportName, signal),
    close: client => (shared ? shared.give(client) : client.close()),
    getSize: client => client.size,
    sizeNow: client => client.size,

    pread(client, target, start, length, offset, completion, passage) {
      client.startPread(target, start, length, offset, completion, passage)
      return PENDING
    },
    pwrite(client, source, start, length, offset, completion, fua = false) {
      client.startPwrite(source, start, length, offset, fua, completion)
      return PENDING
    },
    endBatch: client => client.endBatch(),
    flush(client, completion) {
      client.startFlush(completion)
      return PENDING
    },
    trim(client, length, offset, completion, fua = false) {
      client.startTrim(length, offset, fua, completion)
      return PENDING
    },
    zero(client, length, offset, { mayPunch, fast }, completion, fua = false) {
      client.startZero(length, offset, { mayPunch, fast, fua }, completion)
      return PENDING
    },
    cache(client, length, offset, completion) {
      client.startCache(length, offset, completion)
      return PENDING
    },
    extents: (client, length, offset, limit) =>
      client.flags.canExtents
        ? client.extents(length, offset, limit)
        : [{ length: client.size - offset, hole: false, zero: false }],

    canWrite: ({ flags }) => !flags.readOnly,
    canFlush: ({ flags }) => flags.canFlush,
    canFua: ({ flags }) => flags.canFua,
    canTrim: ({ flags }) => flags.canTrim,
    canZero: ({ flags }) => flags.canZero,
    canFastZero: ({ flags }) => flags.canFastZero,
    canCache: ({ flags }) => flags.canCache,
    canMultiConn: ({ flags }) => config.shared || flags.canMultiConn,
    isRotational: ({ flags }) => flags.rotational,
    blockSizes: client => client.blockSizes,
    exportDescription: client => client.description,

    async probe(exportName) {
      try {
        const info = await probe(target(exportName))
        const { size, description } = info
        return { size, description, capabilities: capabilitiesOf(info, config.shared) }
      } catch (error) {
        if (canOnlyOpen(error)) return undefined
        throw error
      }
    },

    async listExports() {
      if (config.exportName === 'fixed') return ['']
      const listed = await listExports(uri)
      return listed.map(({ name, description }) => (description === '' ? name : { name, description }))
    },
  }

  /** The signal counts until the connection stands; from then on `close` ends it, after what is under way. */
  async function connectFor(exportName: string, signal: AbortSignal): Promise<NbdClient> {
    const abort = new AbortController()
    const onAbort = () => abort.abort(signal.reason)
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
    try {
      return await connect(exportName, abort.signal)
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }
}
