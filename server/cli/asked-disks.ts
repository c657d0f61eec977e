/** `--ask`: disks that nobody has declared yet, and another program declares when a client wants one. */
import { MAX_SIZE } from '../../crds/quantity.ts'
import { API_VERSION } from '../backends/backend.ts'
import { fileOperations } from '../backends/file/file-disk.ts'
import { fillIn } from '../backends/layer.ts'
import { reasonOf } from '../connection/session.ts'
import { createAsker } from '../control/ask.ts'
import type { UndeclaredDisks } from '../exports/catalog.ts'
import { ExportRefusal } from '../exports/export.ts'
import type { Log } from './log.ts'

/** What asked disks are made with. */
export interface AskedDisksTerms {
  /** Of the unix socket. */
  readonly path: string
  readonly readOnly: boolean
  /** How long a client may wait for its disk, in ms. */
  readonly timeoutMs: number
  /** Reads this manifest now and waits until the disk can be opened. */
  readonly take: (manifest: string, exportName: string) => Promise<void>
  readonly log: Log
}

/** For a question that asks for nothing to be made: it is answered, or fails, within seconds. */
const NEVER = new AbortController().signal

/** The names that no manifest declares: what INFO says of them, and how they are declared. */
export function createAskedDisks({ path, readOnly, timeoutMs, take, log }: AskedDisksTerms): UndeclaredDisks {
  const asker = createAsker({
    path,
    timeoutMs,
    take,
    onAway: error =>
      log.error({ path, ...reasonOf(error) }, 'The program that declares disks does not answer'),
    onBack: () => log.info({ path }, 'The program that declares disks is back'),
  })
  const backend = fillIn(
    {
      ...fileOperations,
      apiVersion: API_VERSION,
      open: () => {
        throw new ExportRefusal('unavailable', 'The disk is to be declared first.')
      },
      // The rules of the server have been passed, and those of the disk are not known yet.
      probe: async (name, size) => ({
        size: await asker.sizeOf({ name, size, peer: { kind: 'unix' } }, NEVER),
      }),
      canMultiConn: () => true,
      blockSizes: () => ({ minimum: 1, preferred: 4096, maximum: 2 ** 25 }),
    },
    {
      readOnly,
      onProblem: problem => log.error(reasonOf(problem), 'The backend broke a rule'),
    },
  )
  return {
    backend,
    readOnly,
    temporary: false,
    connections: 1,
    maxSize: MAX_SIZE,
    declare: async (wish, signal) => {
      await asker.declare(wish, signal)
    },
  }
}
