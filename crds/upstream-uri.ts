import { quote } from './quote.ts'

const SCHEMES = new Set(['nbd:', 'nbds:', 'nbd+unix:', 'nbds+unix:'])

/**
 * Says why this is not the URI of an NBD server, by the rules of the NBD project's URI document: a host for
 * `nbd` and `nbds`, the path of a socket for `nbd+unix` and `nbds+unix`. Undefined if it is one.
 */
export function upstreamUriProblem(text: string): string | undefined {
  const wanted = 'Give nbd://HOST[:PORT][/EXPORT] or nbd+unix:///[EXPORT]?socket=PATH, with nbds for TLS.'
  const uri = URL.canParse(text) ? new URL(text) : undefined
  if (!uri || !SCHEMES.has(uri.protocol)) return `${quote(text)} is not the URI of an NBD server. ${wanted}`
  if (!uri.protocol.endsWith('+unix:')) {
    return uri.hostname === '' ? `${quote(text)} names no host. ${wanted}` : undefined
  }
  if (uri.host !== '') return `${quote(text)} names a host beside its socket. ${wanted}`
  if (!uri.searchParams.get('socket')?.startsWith('/')) {
    return `${quote(text)} names no socket by an absolute path. ${wanted}`
  }
  return undefined
}
