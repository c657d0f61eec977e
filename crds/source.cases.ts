/** Good and bad sources of disks; a part of the table in ondemanddisk.cases.ts. */
import type { BadCase, GoodCase, TransitionCase } from './ondemanddisk.cases.ts'

const size = '1Gi'
const upstream = { uri: 'nbd://example.org/disk' }
const source = { kind: 'DiskSnapshot', name: 'before-upgrade' }

export const goodSources: readonly GoodCase[] = [
  { title: 'a copy of a snapshot', spec: { size, source } },
  { title: 'a copy of a disk', spec: { size, source: { kind: 'OnDemandDisk', name: 'a.b' } } },
]

export const badSources: readonly BadCase[] = [
  {
    title: 'a source of another kind',
    spec: { size, source: { ...source, kind: 'Pod' } },
    field: 'spec.source.kind',
    by: 'openapi',
  },
  {
    title: 'a source without a name',
    spec: { size, source: { kind: 'DiskSnapshot' } },
    field: 'spec.source.name',
    by: 'openapi',
  },
  {
    title: 'a source whose name is a path',
    spec: { size, source: { ...source, name: '../x' } },
    field: 'spec.source.name',
    by: 'openapi',
  },
  { title: 'a source without a size', spec: { source }, field: 'spec.size', by: 'openapi' },
  {
    title: 'a source and a filesystem',
    spec: { size, source, filesystem: { type: 'ext4' } },
    field: 'spec.filesystem',
    by: 'openapi',
  },
  {
    title: 'a source and a command',
    spec: { size, source, command: 'true' },
    field: 'spec.command',
    by: 'openapi',
  },
  { title: 'a source and an upstream', spec: { source, upstream }, field: 'spec.upstream', by: 'openapi' },
  {
    title: 'a temporary disk with a source',
    spec: { size, source, mode: 'Temporary' },
    field: 'spec.mode',
    by: 'cel',
  },
]

export const sourceTransitions: readonly TransitionCase[] = [
  {
    title: 'another source is refused',
    before: { size, source },
    after: { size, source: { ...source, name: 'other' } },
    field: 'spec.source',
    by: 'cel',
  },
  {
    title: 'a source that is added is refused',
    before: { size },
    after: { size, source },
    field: 'spec.source',
    by: 'cel',
  },
  {
    title: 'a source that is removed is refused',
    before: { size, source },
    after: { size },
    field: 'spec.source',
    by: 'cel',
  },
  { title: 'a copy may grow', before: { size, source }, after: { size: '2Gi', source } },
]
