/** Credentials in a directory, by the names that they have in a Kubernetes Secret. */
import { stat } from 'node:fs/promises'
import { join } from 'node:path'

const NAMES = { cert: 'tls.crt', key: 'tls.key', clientCa: 'ca.crt', psk: 'keys.psk' } as const

/** The files that are there. */
export type TlsFiles = Readonly<Record<keyof typeof NAMES, string | undefined>>

/** A directory without credentials. */
export class TlsDirectoryError extends Error {
  override readonly name = 'TlsDirectoryError'
  readonly code = 'ENOENT'
}

/**
 * Finds the files for TLS in a directory.
 * @throws TlsDirectoryError if they are not enough to speak TLS
 */
export async function findTlsFiles(directory: string): Promise<TlsFiles> {
  const find = async (name: string) => {
    const path = join(directory, name)
    return (await stat(path).catch(() => undefined))?.isFile() ? path : undefined
  }
  const [cert, key, clientCa, psk] = await Promise.all([
    find(NAMES.cert),
    find(NAMES.key),
    find(NAMES.clientCa),
    find(NAMES.psk),
  ])
  if ((cert === undefined) !== (key === undefined)) {
    const missing = cert === undefined ? NAMES.cert : NAMES.key
    throw new TlsDirectoryError(
      `--tls-dir: ${directory} has no ${missing}. Certificate and key belong together.`,
    )
  }
  if (cert === undefined && psk === undefined) {
    const wanted = `${NAMES.cert} and ${NAMES.key}, nor ${NAMES.psk}`
    throw new TlsDirectoryError(`--tls-dir: ${directory} has neither ${wanted}. Put them there.`)
  }
  // Authorities are of use only where the server has a certificate itself.
  return { cert, key, clientCa: cert === undefined ? undefined : clientCa, psk }
}
