import { describe, expect, test } from 'vitest'
import { compileAccessRules, type Peer } from '../../crds/access-rules.ts'
import { ExportNameError } from '../../crds/export-name.ts'
import { TICKET_WITHDRAWN } from '../../crds/ticket.ts'
import { NO_LIMITS } from '../access/rate-limit.ts'
import type { Capabilities, LayeredBackend } from '../backends/backend.ts'
import { type CatalogSources, createCatalog, type DeclaredDisks, type UndeclaredDisks } from './catalog.ts'
import { allowsMultiConn, type Export, ExportRefusal } from './export.ts'

const HERE: Peer = { kind: 'ip', address: '10.0.0.7' }
const ELSEWHERE: Peer = { kind: 'ip', address: '192.168.0.1' }
const ANYBODY = compileAccessRules({ allow: [], deny: [] })
const ONLY_HERE = compileAccessRules({ allow: ['10.0.0.0/8'], deny: [] })

/** A backend of which only the list is asked. */
const backendOf = (...names: string[]) => ({ listExports: () => names }) as unknown as LayeredBackend

const undeclared = (changes: Partial<UndeclaredDisks> = {}): UndeclaredDisks => ({
  backend: backendOf('', 'alice', 'bob'),
  readOnly: false,
  temporary: false,
  connections: 1,
  maxSize: undefined,
  ...changes,
})

const DECLARED_BACKEND = backendOf()

const declaredExport = (name: string, changes: Partial<Export> = {}): Export => ({
  name,
  backend: DECLARED_BACKEND,
  readOnly: false,
  temporary: false,
  unlocked: false,
  connections: 1,
  access: ANYBODY,
  requestedSize: undefined,
  limits: NO_LIMITS,
  ...changes,
})

/** Declared disks that a test can change. */
function declaredDisks(...disks: Export[]) {
  const found = new Map(disks.map(disk => [disk.name, disk]))
  const problems = new Map<string, string>()
  const files = new Set<string>()
  const declared: DeclaredDisks = {
    find: name => found.get(name),
    problem: name => problems.get(name),
    prepared: () => undefined,
    owns: fileName => files.has(fileName),
    names: () => [...found.keys()].filter(name => !problems.has(name)),
  }
  return { declared, found, problems, files }
}

const catalogOf = (sources: Partial<CatalogSources> = {}) =>
  createCatalog({ access: ANYBODY, names: 'strict', undeclared: undefined, declared: undefined, ...sources })

/** Code and kind of the refusal of a name. */
function refusalOf(work: () => unknown): { kind?: string; code: string; message: string } {
  try {
    work()
  } catch (error) {
    if (error instanceof ExportRefusal || error instanceof ExportNameError) return error
    throw error
  }
  throw new Error('It was not refused.')
}

const raw = (name: string) => Buffer.from(name)

describe('An undeclared name', () => {
  test('is served on the terms of the command line; the empty one stands for default', () => {
    const source = undeclared({ readOnly: true, connections: 4 })
    const catalog = catalogOf({ undeclared: source })
    const { backend } = source
    const terms = { backend, readOnly: true, temporary: false, connections: 4, access: undefined }
    expect(catalog.resolve(raw('alice'), HERE)).toMatchObject({ name: 'alice', ...terms })
    expect(catalog.resolve(raw(''), HERE)).toMatchObject({ name: 'default', ...terms })
  })

  test('is unknown where no disk is made on demand', () => {
    expect(refusalOf(() => catalogOf().resolve(raw('alice'), HERE))).toMatchObject({
      kind: 'unknown',
      code: 'ENOENT',
    })
  })

  test.each(['a/b', '../x', '.', 'a.b', 'a:b', 'a\0b', 'x'.repeat(256)])('%j is no name', name => {
    const catalog = catalogOf({ undeclared: undeclared() })
    expect(refusalOf(() => catalog.resolve(raw(name), HERE))).toBeInstanceOf(ExportNameError)
  })

  test('follows the rules of names', () => {
    const catalog = catalogOf({ undeclared: undeclared(), names: 'relaxed' })
    expect(catalog.resolve(raw('52:54:00:12:34:56'), HERE).name).toBe('52:54:00:12:34:56')
  })

  test('may ask for a size up to the limit, if there is one', () => {
    const catalog = catalogOf({ undeclared: undeclared({ maxSize: 2 ** 30 }) })
    expect(catalog.resolve(raw('alice:1G'), HERE)).toMatchObject({ name: 'alice', requestedSize: 2 ** 30 })
    expect(catalog.resolve(raw('alice'), HERE).requestedSize).toBeUndefined()
    expect(refusalOf(() => catalog.resolve(raw('alice:1025M'), HERE))).toMatchObject({ kind: 'policy' })
    expect(refusalOf(() => catalog.resolve(raw('alice:0'), HERE)).code).toBe('Size')
    const strict = catalogOf({ undeclared: undeclared() })
    expect(refusalOf(() => strict.resolve(raw('alice:1G'), HERE)).code).toBe('Colon')
  })
})

describe('A declared name', () => {
  test('goes before an undeclared one', () => {
    const { declared } = declaredDisks(declaredExport('alice'))
    const source = undeclared()
    const catalog = catalogOf({ undeclared: source, declared })
    expect(catalog.resolve(raw('alice'), HERE).backend).toBe(DECLARED_BACKEND)
    expect(catalog.resolve(raw('bob'), HERE).backend).toBe(source.backend)
  })

  test('with a problem is refused by it, never served as an undeclared one', () => {
    const { declared, problems, found } = declaredDisks(declaredExport('alice'))
    const catalog = catalogOf({ undeclared: undeclared(), declared })
    problems.set('alice', 'spec.size: It is too small.')
    const refused = { kind: 'unknown', message: 'spec.size: It is too small.' }
    expect(refusalOf(() => catalog.resolve(raw('alice'), HERE))).toMatchObject(refused)
    found.clear()
    expect(refusalOf(() => catalog.resolve(raw('alice'), HERE))).toMatchObject(refused)
  })

  test('is for those whom its rules admit, within the rules of the server', () => {
    const { declared } = declaredDisks(declaredExport('alice', { access: ONLY_HERE }), declaredExport('open'))
    const catalog = catalogOf({ declared })
    expect(catalog.resolve(raw('alice'), HERE).name).toBe('alice')
    expect(refusalOf(() => catalog.resolve(raw('alice'), ELSEWHERE))).toMatchObject({
      kind: 'policy',
      code: 'EACCES',
    })
    const bounded = catalogOf({ declared, access: ONLY_HERE })
    expect(refusalOf(() => bounded.resolve(raw('open'), ELSEWHERE))).toMatchObject({ kind: 'policy' })
    expect(bounded.resolve(raw('open'), HERE).name).toBe('open')
  })
})

describe('A list', () => {
  test('has declared and undeclared names, each once, sorted', async () => {
    const { declared } = declaredDisks(declaredExport('carol'), declaredExport('alice'))
    expect(await catalogOf({ undeclared: undeclared(), declared }).list(HERE)).toEqual([
      '',
      'alice',
      'bob',
      'carol',
    ])
  })

  test('has nothing that the client may not open', async () => {
    const { declared } = declaredDisks(
      declaredExport('alice', { access: ONLY_HERE }),
      declaredExport('default', { access: ONLY_HERE }),
    )
    const catalog = catalogOf({ undeclared: undeclared(), declared })
    expect(await catalog.list(ELSEWHERE)).toEqual(['bob'])
    expect(await catalog.list(HERE)).toContain('alice')
    expect(await catalogOf({ undeclared: undeclared(), access: ONLY_HERE }).list(ELSEWHERE)).toEqual([])
  })

  test('has at most 10,000 names', async () => {
    const names = Array.from({ length: 12_000 }, (_, index) => `disk${index}`)
    const catalog = catalogOf({ undeclared: undeclared({ backend: backendOf(...names) }) })
    expect(await catalog.list(HERE)).toHaveLength(10_000)
  })
})

describe('A disk that is given away by tickets', () => {
  const setUp = (...tickets: string[]) => {
    const disks = declaredDisks(declaredExport('alice', { tickets }), declaredExport('bob'))
    return { ...disks, catalog: catalogOf({ undeclared: undeclared(), declared: disks.declared }) }
  }

  test('is had by those who show one of them, and by nobody else', () => {
    const { catalog } = setUp('one', 'two')
    expect(catalog.resolve(raw('alice/two'), HERE)).toMatchObject({ name: 'alice', ticket: 'two' })
    for (const name of ['alice', 'alice/', 'alice/three', 'alice/one/', 'alice/one/two', 'bob/one'])
      expect(
        refusalOf(() => catalog.resolve(raw(name), HERE)),
        name,
      ).toMatchObject({ kind: 'policy' })
    expect(refusalOf(() => catalog.resolve(raw('alice/x'), HERE)).message).toBe(TICKET_WITHDRAWN)
    expect(catalog.resolve(raw('bob'), HERE)).not.toHaveProperty('ticket')
  })

  test('is lost by those whose ticket is withdrawn, and by those who have none', () => {
    const { catalog, found } = setUp('one', 'two')
    const [one, two] = ['one', 'two'].map(ticket => catalog.resolve(raw(`alice/${ticket}`), HERE))
    found.set('alice', declaredExport('alice', { tickets: ['two', 'three'] }))
    expect(catalog.revocation(one as Export, HERE)).toBe(TICKET_WITHDRAWN)
    expect(catalog.revocation(two as Export, HERE)).toBeUndefined()
    found.set('alice', declaredExport('alice', { tickets: [] }))
    expect(catalog.revocation(two as Export, HERE)).toBe(TICKET_WITHDRAWN)
    const plain = catalog.resolve(raw('alice'), HERE)
    found.set('alice', declaredExport('alice', { tickets: ['three'] }))
    expect(catalog.revocation(plain, HERE)).toMatch(/to whom it has been given/)
  })

  test('has still to be declared: a slash is in no name', () => {
    const { catalog } = setUp('one')
    expect(() => catalog.resolve(raw('carol/one'), HERE)).toThrow(ExportNameError)
    expect(() => catalog.resolve(raw('/one'), HERE)).toThrow(ExportNameError)
  })
})

describe('A client that has a declared disk open', () => {
  const setUp = (changes: Partial<Export> = {}) => {
    const disks = declaredDisks(declaredExport('alice', changes))
    const catalog = catalogOf({ undeclared: undeclared(), declared: disks.declared })
    return { ...disks, catalog, open: catalog.resolve(raw('alice'), HERE) }
  }

  test('keeps it as long as nothing changes that matters', () => {
    const { catalog, open, found } = setUp()
    expect(catalog.revocation(open, HERE)).toBeUndefined()
    found.set('alice', declaredExport('alice', { connections: 3, access: ONLY_HERE }))
    expect(catalog.revocation(open, HERE)).toBeUndefined()
  })

  test.each<[what: string, changes: Partial<Export>]>([
    [
      'its rules do not admit the client any more',
      { access: compileAccessRules({ allow: [], deny: ['any'] }) },
    ],
    ['it becomes read-only', { readOnly: true }],
    ['it becomes temporary', { temporary: true }],
    ['it becomes another disk', { backend: backendOf() }],
  ])('loses it when %s', (_, changes) => {
    const { catalog, open, found } = setUp()
    found.set('alice', declaredExport('alice', changes))
    expect(catalog.revocation(open, HERE)).toMatch(/\.$/)
  })

  test('loses it when it is not declared any more', () => {
    const { catalog, open, found } = setUp()
    found.clear()
    expect(catalog.revocation(open, HERE)).toMatch(/not declared/)
  })

  test('has the limits of now', () => {
    const { catalog, open, found } = setUp()
    expect(catalog.limits(open)).toBe(NO_LIMITS)
    const limits = { ...NO_LIMITS }
    found.set('alice', declaredExport('alice', { limits }))
    expect(catalog.limits(open)).toBe(limits)
  })
})

test('A client that has an undeclared disk open loses it when a manifest takes its name', () => {
  const { declared, found } = declaredDisks()
  const catalog = catalogOf({ undeclared: undeclared(), declared })
  const open = catalog.resolve(raw('alice'), HERE)
  expect(catalog.revocation(open, HERE)).toBeUndefined()
  found.set('alice', declaredExport('alice'))
  expect(catalog.revocation(open, HERE)).toBeDefined()
})

test('A client that has an undeclared disk open loses it when a manifest takes its file under another name', () => {
  const { declared, files } = declaredDisks()
  const catalog = catalogOf({ undeclared: undeclared(), declared })
  const open = catalog.resolve(raw('alice'), HERE)
  files.add('alice')
  expect(catalog.revocation(open, HERE)).toMatch(/manifest/)
})

test('A name with a problem is not listed, declared or not', async () => {
  const { declared, problems } = declaredDisks(declaredExport('alice'), declaredExport('carol'))
  const catalog = catalogOf({
    undeclared: undeclared({ backend: backendOf('alice', 'bob', 'default') }),
    declared,
  })
  for (const name of ['alice', 'bob']) problems.set(name, 'Its manifest is bad.')
  expect(await catalog.list(HERE)).not.toContain('alice')
  expect(await catalog.list(HERE)).not.toContain('bob')
  expect(await catalog.list(HERE)).toContain('carol')
})

test.each([
  [{ readOnly: true }, true],
  [{ connections: 2 }, true],
  [{ connections: 1 }, false],
  [{ connections: 2, temporary: true }, false],
  [{ readOnly: true, temporary: true }, false],
])('With %j, several connections: %s', (changes, expected) => {
  for (const canMultiConn of [true, false]) {
    expect(allowsMultiConn(declaredExport('alice', changes), { canMultiConn } as Capabilities)).toBe(expected)
  }
})

test("Several connections are the backend's business where it shares its disks itself", () => {
  const unlocked = declaredExport('alice', { unlocked: true })
  expect(allowsMultiConn(unlocked, { canMultiConn: true } as Capabilities)).toBe(true)
  expect(allowsMultiConn(unlocked, { canMultiConn: false } as Capabilities)).toBe(false)
})

test('Any name that the protocol allows goes through to a backend that wants it so', () => {
  const catalog = catalogOf({ undeclared: undeclared({ anyName: true, unlocked: true }) })
  for (const name of ['', '..', 'a/b:4G', '\x01']) expect(catalog.resolve(raw(name), HERE).name).toBe(name)
  expect(() => catalog.resolve(raw('a\0b'), HERE)).toThrow(ExportNameError)
  expect(() => catalog.resolve(Buffer.from([0xff]), HERE)).toThrow(ExportNameError)
})
