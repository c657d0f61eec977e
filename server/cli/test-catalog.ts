/** For tests: a catalog of one backend's disks. */
import { compileAccessRules } from '../../crds/access-rules.ts'
import type { LayeredBackend } from '../backends/backend.ts'
import { type Catalog, createCatalog, type UndeclaredDisks } from '../exports/catalog.ts'

/** Whatever name a client asks for is asked of this backend. */
export function catalogOf(backend: LayeredBackend, more: Partial<UndeclaredDisks> = {}): Catalog {
  const undeclared = {
    backend,
    readOnly: false,
    temporary: false,
    connections: 1,
    maxSize: undefined,
    ...more,
  }
  const access = compileAccessRules({ allow: [], deny: [] })
  return createCatalog({ access, names: 'strict', undeclared, declared: undefined })
}
