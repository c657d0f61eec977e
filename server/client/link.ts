/** What carries a client's operations: one connection, or several in turn. */
import { MAX_QUOTED_MESSAGE, quote } from '../../crds/quote.ts'
import { wireErrorCode } from '../protocol/client-transmission.ts'
import { type Connection, type ConnectionLimits, openConnection } from './connection.ts'
import { ClosedError, ConnectionError, RequestError } from './errors.ts'
import type { ExportInfo } from './export-info.ts'
import type { Operation, OperationPool } from './operation.ts'
import type { NbdUri } from './uri.ts'

export interface Link {
  readonly info: ExportInfo
  /** Sends an operation, and settles it in the pool when it is over. Throws where it cannot be accepted. */
  submit(operation: Operation): void
  /** Lets what is under way be answered, and goes on with a new connection, where that is possible. */
  renew?(): void
  /** All that there is to submit now has been. */
  endBatch(): void
  /** Ends when everything submitted has. */
  close(): Promise<void>
  /** Fails everything submitted, at once. */
  destroy(error: Error): void
}

/** The error by which a server answered, or undefined. */
export function answerOf(operation: Operation): RequestError | undefined {
  if (operation.errno === 0) return undefined
  const code = wireErrorCode(operation.errno)
  const told = operation.message === '' ? '' : ` It says: ${quote(operation.message, MAX_QUOTED_MESSAGE)}`
  return new RequestError(code, `The NBD server answered a request by ${code}.${told}`)
}

/** A link of one connection: when that breaks, everything fails. */
export async function openLink(
  uri: NbdUri,
  limits: ConnectionLimits,
  pool: OperationPool,
  signal?: AbortSignal,
): Promise<Link> {
  let broken: Error | undefined
  const connection: Connection = await openConnection(
    uri,
    limits,
    {
      finished: operation => pool.settle(operation, answerOf(operation)),
      lost: (operations, error) => {
        broken = error
        for (const operation of operations) pool.settle(operation, error)
      },
    },
    signal,
  )
  return {
    info: connection.info,
    submit: operation => {
      if (broken !== undefined && !(broken instanceof ClosedError)) {
        throw new ConnectionError('ENOTCONN', 'The connection to the NBD server is over.', { cause: broken })
      }
      connection.submit(operation)
    },
    endBatch: () => connection.endBatch(),
    close: () => connection.close(),
    destroy: error => connection.destroy(error),
  }
}
