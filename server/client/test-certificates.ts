/** For tests: certificates and keys, made by openssl. */
import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const openssl = (...args: readonly string[]) => {
  execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] })
}

const NEW_KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']

/** A certificate authority in a folder of its own. */
export interface Authority {
  readonly folder: string
  /**
   * Makes a folder with `ca-cert.pem` and, by this authority, `NAME-cert.pem` and `NAME-key.pem`. `names` are
   * those the certificate bears, such as `DNS:localhost`.
   */
  issue(folder: string, name: 'server' | 'client', names: string, days?: number): string
}

export function makeAuthority(folder: string, commonName: string): Authority {
  mkdirSync(folder, { recursive: true })
  const [key, certificate] = [join(folder, 'ca-key.pem'), join(folder, 'ca-cert.pem')]
  openssl(
    'req',
    '-x509',
    ...NEW_KEY,
    '-days',
    '2',
    '-subj',
    `/CN=${commonName}`,
    '-keyout',
    key,
    '-out',
    certificate,
  )
  return {
    folder,
    issue: (target, name, names, days = 2) => {
      mkdirSync(target, { recursive: true })
      copyFileSync(certificate, join(target, 'ca-cert.pem'))
      const [request, extensions] = [join(target, 'request.pem'), join(target, 'extensions')]
      writeFileSync(extensions, `subjectAltName=${names}\n`)
      openssl(
        'req',
        '-new',
        ...NEW_KEY,
        '-subj',
        `/CN=${name}`,
        '-keyout',
        join(target, `${name}-key.pem`),
        '-out',
        request,
      )
      const signer = ['-CA', certificate, '-CAkey', key, '-CAcreateserial', '-extfile', extensions]
      const result = ['-days', String(days), '-out', join(target, `${name}-cert.pem`)]
      openssl('x509', '-req', '-in', request, ...signer, ...result)
      return target
    },
  }
}
