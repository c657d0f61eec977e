/** The driver's unix socket: who is served on it, and how it ends. */
import { lstat } from 'node:fs/promises'
import { dirname } from 'node:path'
import {
  type handleUnaryCall,
  logVerbosity,
  Server,
  ServerCredentials,
  type ServiceDefinition,
  setLogVerbosity,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js'
import { listenReason } from '../../../server/linux/reasons.ts'
import { removeStaleSocket } from '../../../server/linux/stale-socket.ts'
import type { KubeLog } from '../../kube/log.ts'
import { answer, type Handler, type Handlers } from './call.ts'
import { RpcError } from './rpc-error.ts'

/** A socket that cannot be had. */
export class EndpointError extends Error {
  override readonly name = 'EndpointError'
  readonly code: string

  constructor(message: string, code: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** A service and who answers its methods. */
export interface Served {
  readonly definition: ServiceDefinition
  readonly handlers: Readonly<Record<string, Handler<never, unknown> | undefined>>
}

/** Binds handlers to the definition of their service. */
export function serves<Methods>(definition: ServiceDefinition, handlers: Handlers<Methods>): Served {
  return { definition, handlers: handlers as Served['handlers'] }
}

export interface RpcServer {
  /** Takes no more calls, gives those that are under way a moment, aborts them, and removes the socket. */
  stop(): Promise<void>
}

/** Calls that are under way may take so long to end, in ms, when the driver stops; then so long to be aborted. */
const STOP_MS = 2000
const ABORT_MS = 3000
const MAX_MESSAGE_BYTES = 4 * 2 ** 20
const MAX_CONCURRENT_CALLS = 1000

/**
 * Serves on a unix socket that only the own user can connect to.
 * @throws EndpointError
 */
export async function listen(path: string, services: readonly Served[], log: KubeLog): Promise<RpcServer> {
  // It would write to stderr beside the log; whatever matters is thrown, too.
  setLogVerbosity(logVerbosity.NONE)
  const stopping = new AbortController()
  const server = new Server({
    'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
    'grpc.max_concurrent_streams': MAX_CONCURRENT_CALLS,
  })
  for (const { definition, handlers } of services) {
    const bound: Record<string, handleUnaryCall<never, unknown>> = {}
    for (const [name, handler] of Object.entries(handlers)) {
      if (handler) bound[name] = answer(name, handler, stopping.signal, log)
    }
    server.addService(definition, bound as UntypedServiceImplementation)
  }
  await bind(server, path)
  return {
    async stop() {
      const ended = new Promise<void>(resolve => server.tryShutdown(() => resolve()))
      const abort = () => stopping.abort(new RpcError('UNAVAILABLE', 'The driver is stopping. Try again.'))
      const timers = [
        setTimeout(abort, STOP_MS),
        setTimeout(() => server.forceShutdown(), STOP_MS + ABORT_MS),
      ]
      await ended
      for (const timer of timers) clearTimeout(timer)
    },
  }
}

async function bind(server: Server, path: string): Promise<void> {
  try {
    await lstat(dirname(path))
    await removeStaleSocket(path)
  } catch (error) {
    throw endpointError(path, error as NodeJS.ErrnoException)
  }
  // From its first moment on nobody else can connect.
  const mask = process.umask(0o177)
  try {
    await new Promise<void>((resolve, reject) => {
      server.bindAsync(`unix:${path}`, ServerCredentials.createInsecure(), error => {
        if (error) reject(error)
        else resolve()
      })
    })
  } catch (error) {
    throw endpointError(path, error as NodeJS.ErrnoException)
  } finally {
    process.umask(mask)
  }
}

function endpointError(path: string, error: NodeJS.ErrnoException): EndpointError {
  // grpc-js tells the reason of the last address in its message only.
  const code = error.code ?? /\b(E[A-Z]{3,})\b/.exec(error.message)?.[1] ?? 'EIO'
  const reason = listenReason(code, error.message)
  return new EndpointError(`Cannot listen on ${path}: ${reason}.`, code, { cause: error })
}
