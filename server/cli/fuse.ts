/** `ondemand-disk fuse`: from the command line to a mounted file, and from a signal to its end. */
import { OPEN_TIMEOUT_MS } from '../client/options.ts'
import { connectReconnecting } from '../client/reconnecting.ts'
import { parseNbdUri } from '../client/uri.ts'
import { reasonOf } from '../connection/session.ts'
import { type ExportTerms, exportImage, exportNbd, type FuseExport } from '../fuse/export.ts'
import { CLIENT_OPTIONS } from '../fuse/nbd-disk.ts'
import { codeOf } from '../linux/errno.ts'
import { FUSE_OPTIONS } from './disk-option-tables.ts'
import { createLog, type Log } from './log.ts'
import { MAX_DURATION_MS } from './option-values.ts'
import { parseOptions, REST, UsageError } from './options.ts'
import { STOP_SIGNALS } from './stop-signals.ts'

const OPERANDS = ['SOURCE', 'MOUNTPOINT']
/** How often a file that was in use is tried to be unmounted again, in ms. */
const RETRY_MS = 200

/**
 * Serves until the file is unmounted, or until SIGTERM or SIGINT.
 * @throws UsageError, FuseError, and the errors of the NBD client
 */
export async function fuse(argv: readonly string[]): Promise<void> {
  const options = parseOptions(FUSE_OPTIONS, argv, OPERANDS)
  const [source = '', mountpoint = ''] = options[REST]
  if (options.growable && !options.writable) throw new UsageError('--growable needs --writable.')
  const log = createLog(options['log-level'], 2, process.stderr.isTTY)
  const terms = {
    mountpoint,
    writable: options.writable,
    growable: options.growable,
    allowOther: options['allow-other'] ?? 'off',
  }
  const isUri = /^nbds?(\+unix)?:/i.test(source)
  if (!isUri && options['dead-after'] !== undefined) {
    throw new UsageError('--dead-after is for the URI of an NBD export; an image has no server.')
  }
  const file = isUri
    ? await openUri(source, terms, options['dead-after'], log)
    : await exportImage(source, terms)
  log.info({ source, mountpoint: file.mountpoint }, 'Mounted')
  const stop = unmountOnSignal(file, log)
  try {
    await file.ended
  } finally {
    stop()
  }
  log.info({ mountpoint: file.mountpoint }, 'Unmounted')
}

async function openUri(
  source: string,
  terms: ExportTerms,
  deadAfter: number | undefined,
  log: Log,
): Promise<FuseExport> {
  const client = await connectReconnecting(parseNbdUri(source), {
    retryMs: deadAfter ?? MAX_DURATION_MS,
    ...CLIENT_OPTIONS,
    openTimeout: OPEN_TIMEOUT_MS,
    onLost: error => log.warn(reasonOf(error), 'Lost the NBD server; waiting for it'),
    onReconnected: afterMs => log.info({ afterMs: Math.round(afterMs) }, 'The NBD server is back'),
  })
  return await exportNbd(client, source, terms)
}

/**
 * Unmounts at the first signal, or as soon as nobody uses the file any more; at the second at once, which its
 * users notice by errors. Returns what takes the signals' meaning away.
 */
function unmountOnSignal(file: FuseExport, log: Log): () => void {
  let retry: NodeJS.Timeout | undefined
  let asked = false
  const attempt = async () => {
    try {
      await file.unmount()
    } catch (error) {
      const isBusy = codeOf(error) === 'EBUSY' || codeOf(error) === 'EHELPER'
      // EINVAL: somebody else was quicker.
      if (!isBusy) {
        if (codeOf(error) !== 'EINVAL') log.error(reasonOf(error), 'Cannot unmount')
        return
      }
      if (retry === undefined) {
        const { mountpoint } = file
        const hint = 'It will be unmounted when nobody has it open. Another signal takes it away at once.'
        log.warn({ mountpoint, hint }, 'The file is in use')
      }
      retry = setTimeout(attempt, RETRY_MS)
    }
  }
  const onSignal = () => {
    if (!asked) {
      asked = true
      void attempt()
      return
    }
    file.abort().catch(error => log.error(reasonOf(error), 'Cannot unmount'))
  }
  for (const signal of STOP_SIGNALS) process.on(signal, onSignal)
  return () => {
    clearTimeout(retry)
    for (const signal of STOP_SIGNALS) process.off(signal, onSignal)
  }
}
