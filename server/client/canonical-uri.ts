/** The one way to write the URI of an export, by which two are the same or not. */
import { resolve } from 'node:path'
import { NBD_PORT, type NbdTlsTerms, type NbdUri } from './uri.ts'

/** encodeURIComponent leaves these; not all of them may stand everywhere in a URI. */
const encode = (text: string) =>
  encodeURIComponent(text).replace(/[!'()*]/g, sign => `%${sign.charCodeAt(0).toString(16).toUpperCase()}`)

function tlsParameters(tls: NbdTlsTerms): string[] {
  const { certificates, pskFile, username, hostname, verifyPeer } = tls
  const parameters: [string, string | undefined][] = [
    ['tls-certificates', certificates],
    ['tls-psk-file', pskFile],
    ['tls-username', username],
    ['tls-hostname', hostname],
    ['tls-verify-peer', verifyPeer === undefined ? undefined : verifyPeer ? '1' : '0'],
  ]
  return parameters.flatMap(([name, value]) => (value === undefined ? [] : [`${name}=${encode(value)}`]))
}

/** What `parseNbdUri` reads as this. Hosts are in lower case, the usual port is left out. */
export function formatNbdUri({ address, exportName, tls }: NbdUri): string {
  const scheme = tls === undefined ? 'nbd' : 'nbds'
  const parameters = tls === undefined ? [] : tlsParameters(tls)
  const path = `/${encode(exportName)}`
  if (address.kind === 'unix') {
    const query = [`socket=${encode(address.path)}`, ...parameters].join('&')
    return `${scheme}+unix://${path}?${query}`
  }
  const host = address.host.includes(':') ? `[${address.host.toLowerCase()}]` : address.host.toLowerCase()
  const port = address.port === NBD_PORT ? '' : `:${address.port}`
  const query = parameters.length === 0 ? '' : `?${parameters.join('&')}`
  return `${scheme}://${host}${port}${path}${query}`
}

/** The same with the paths in it absolute: what lives on elsewhere has another working directory, and others ask for it by name. */
export function withAbsolutePaths({ address, exportName, tls }: NbdUri): NbdUri {
  const isFile = address.kind === 'unix' && !address.path.startsWith('\0')
  return {
    address: isFile ? { ...address, path: resolve(address.path) } : address,
    exportName,
    ...(tls && {
      tls: {
        ...tls,
        ...(tls.certificates !== undefined && { certificates: resolve(tls.certificates) }),
        ...(tls.pskFile !== undefined && { pskFile: resolve(tls.pskFile) }),
      },
    }),
  }
}
