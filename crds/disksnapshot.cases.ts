/** Good and bad DiskSnapshots, for everything that judges them. */
import type { BadCase, GoodCase, TransitionCase } from './ondemanddisk.cases.ts'

export const goodSnapshots: readonly GoodCase[] = [
  { title: 'the name of a disk', spec: { diskName: 'alice' } },
  { title: 'a name with dots', spec: { diskName: 'a.b-c.d' } },
  { title: 'the longest name', spec: { diskName: 'a'.repeat(253) } },
]

export const badSnapshots: readonly BadCase[] = [
  { title: 'no disk', spec: {}, field: 'spec.diskName', by: 'openapi' },
  { title: 'an empty name', spec: { diskName: '' }, field: 'spec.diskName', by: 'openapi' },
  { title: 'a path', spec: { diskName: '../alice' }, field: 'spec.diskName', by: 'openapi' },
  { title: 'capital letters', spec: { diskName: 'Alice' }, field: 'spec.diskName', by: 'openapi' },
  {
    title: 'a name that is too long',
    spec: { diskName: 'a'.repeat(254) },
    field: 'spec.diskName',
    by: 'openapi',
  },
  { title: 'a number', spec: { diskName: 7 }, field: 'spec.diskName', by: 'openapi' },
]

export const snapshotTransitions: readonly TransitionCase[] = [
  { title: 'the same disk', before: { diskName: 'a' }, after: { diskName: 'a' } },
  {
    title: 'another disk is refused',
    before: { diskName: 'a' },
    after: { diskName: 'b' },
    field: 'spec.diskName',
    by: 'cel',
  },
]
