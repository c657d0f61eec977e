/** Names of the objects that clients make by connecting. */
import { createHash } from 'node:crypto'

const MAX_NAME = 63
const MAX_PREFIX = 50
const LABEL = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/

/**
 * The names that the object of an export may have, of which the first free one is taken: the export's own where
 * Kubernetes allows it, and the part of it that Kubernetes allows with a hash of the whole, which tells `A` from `a`.
 */
export function objectNames(exportName: string): readonly string[] {
  const hashed = hashedName(exportName)
  return exportName.length <= MAX_NAME && LABEL.test(exportName) ? [exportName, hashed] : [hashed]
}

function hashedName(exportName: string): string {
  const hash = createHash('sha256').update(exportName).digest('hex').slice(0, 10)
  const prefix = exportName
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-+/, '')
    .slice(0, MAX_PREFIX)
    .replace(/-+$/, '')
  return prefix === '' ? `disk-${hash}` : `${prefix}-${hash}`
}
