import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { promisify } from 'node:util'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parse as parseYaml } from 'yaml'
import { badCases, goodCases, transitionCases } from './ondemanddisk.cases.ts'
import { checkTransition, InvalidSpecError, parseOnDemandDisk } from './ondemanddisk.ts'
import { invalid } from './test-invalid.ts'

const header = { apiVersion: 'ondemanddisk.dev/v1alpha1', kind: 'OnDemandDisk' }
const disk = (spec: unknown, name = 'disk') => ({ ...header, metadata: { name }, spec })

test.each(goodCases)('$title is valid, and stays so once its defaults are filled in', ({ spec, name }) => {
  const parsed = parseOnDemandDisk(disk(spec, name))
  expect(parseOnDemandDisk(parsed)).toEqual(parsed)
  expect(parseOnDemandDisk(JSON.parse(JSON.stringify(parsed)))).toEqual(parsed)
})

test.each(badCases)('$title is refused at $field', ({ spec, name, field }) => {
  const error = invalid(() => parseOnDemandDisk(disk(spec, name)))
  expect(error.code).toBe('InvalidSpec')
  expect(error.field).toBe(field)
  expect(error.message).toMatch(/^spec[^ ]*( b"\])?: [\p{Lu}"0-9].*\.$/su)
  expect(error.message.startsWith(`${field}: `)).toBe(true)
  expect(error.message.length).toBeLessThan(700)
})

test.each(transitionCases)('$title', ({ before, after, field }) => {
  const change = () => checkTransition(parseOnDemandDisk(disk(before)), parseOnDemandDisk(disk(after)))
  if (field) expect(invalid(change).field).toBe(field)
  else change()
})

test('what is left out gets its default', () => {
  expect(parseOnDemandDisk(disk({ size: '10Gi' }))).toEqual({
    ...header,
    metadata: { name: 'disk' },
    spec: {
      poolName: 'default',
      exportName: 'disk',
      size: 10 * 1024 ** 3,
      filesystem: { type: 'ext4' },
      mode: 'Persistent',
      readOnly: false,
      access: { allow: [], deny: [], connections: 1 },
      limits: {},
      reclaimPolicy: 'Delete',
    },
  })
  expect(parseOnDemandDisk(disk({ size: 0, command: 'true' })).spec).not.toHaveProperty('filesystem')
  expect(parseOnDemandDisk(disk({ upstream: { uri: 'nbd://a' } })).spec).not.toHaveProperty('filesystem')
})

test('quantities become bytes', () => {
  const limits = { readBytesPerSecond: '100Mi', writeBytesPerSecond: '1.5k', iops: 7 }
  expect(parseOnDemandDisk(disk({ size: '1.5Gi', limits })).spec).toMatchObject({
    size: 1.5 * 1024 ** 3,
    limits: { readBytesPerSecond: 100 * 1024 ** 2, writeBytesPerSecond: 1500, iops: 7 },
  })
})

test('the object that was given stays as it was', () => {
  const given = disk({ size: '1Gi', filesystem: { mkfsOptions: [] }, access: { allow: ['any'] } })
  const before = structuredClone(given)
  parseOnDemandDisk(given)
  expect(given).toEqual(before)
})

test('relaxed names are for those who ask for them', () => {
  const host = disk({ size: '1Gi' }, 'host.example.org')
  expect(invalid(() => parseOnDemandDisk(host)).message).toMatch(/must not hold "\.".*metadata\.name/)
  expect(parseOnDemandDisk(host, { names: 'relaxed' }).spec.exportName).toBe('host.example.org')
})

describe('an object that is not one of ours', () => {
  const spec = { size: '1Gi' }
  test.each<[string, unknown, string]>([
    ['null', null, ''],
    ['undefined', undefined, ''],
    ['a list', [], ''],
    ['a string', 'disk', ''],
    ['no apiVersion', { kind: 'OnDemandDisk', metadata: { name: 'a' }, spec }, 'apiVersion'],
    ['another version', { ...disk(spec), apiVersion: 'ondemanddisk.dev/v1' }, 'apiVersion'],
    ['another kind', { ...disk(spec), kind: 'List' }, 'kind'],
    ['no metadata', { ...header, spec }, 'metadata'],
    ['no name', { ...header, metadata: {}, spec }, 'metadata.name'],
    ['a name in capitals', disk(spec, 'Disk'), 'metadata.name'],
    ['a name with a path', disk(spec, '../disk'), 'metadata.name'],
    ['a uid with a path', { ...header, metadata: { name: 'a', uid: '../b' }, spec }, 'metadata.uid'],
    ['a hidden uid', { ...header, metadata: { name: 'a', uid: '.b' }, spec }, 'metadata.uid'],
    ['an empty uid', { ...header, metadata: { name: 'a', uid: '' }, spec }, 'metadata.uid'],
    ['a uid of 129', { ...header, metadata: { name: 'a', uid: 'b'.repeat(129) }, spec }, 'metadata.uid'],
    ['a name of 254', disk(spec, 'a'.repeat(254)), 'metadata.name'],
    [
      'labels that are none',
      { ...header, metadata: { name: 'a', labels: { a: 1 } }, spec },
      'metadata.labels.a',
    ],
    ['no spec', { ...header, metadata: { name: 'a' } }, 'spec'],
    ['an empty spec', disk(null), 'spec'],
    ['an unknown field', { ...disk(spec), specs: {} }, 'specs'],
    ['a status of the wrong type', { ...disk(spec), status: { uri: 1 } }, 'status.uri'],
  ])('%s', (_, object, field) => {
    expect(invalid(() => parseOnDemandDisk(object)).field).toBe(field)
  })

  test('what Kubernetes adds is welcome', () => {
    const metadata = {
      name: 'a',
      namespace: 'thin-clients',
      uid: 'f3c1',
      resourceVersion: '17',
      generation: 2,
      managedFields: [{ manager: 'kubectl' }],
      annotations: { 'ondemanddisk.dev/force-delete': 'true' },
    }
    const condition = {
      type: 'Ready',
      status: 'True',
      reason: 'Exported',
      message: '',
      lastTransitionTime: '2026-11-20T10:00:00Z',
    }
    const status = { observedGeneration: 2, conditions: [condition], uri: 'nbd://a/b', size: 1, allocated: 0 }
    const parsed = parseOnDemandDisk({ ...header, metadata, spec, status })
    expect(parsed.metadata).toEqual(metadata)
    expect(parsed.status).toEqual(status)
  })
})

test('a change says what to set back', () => {
  const at = (spec: object) => parseOnDemandDisk(disk(spec))
  const shrink = () => checkTransition(at({ size: '2Gi' }), at({ size: '1Gi' }))
  expect(invalid(shrink).message).toMatch(/cannot shrink.*at least 2147483648 \(2 GiB\)/)
  const mode = () => checkTransition(at({ size: 1, mode: 'Temporary' }), at({ size: 1 }))
  expect(invalid(mode).message).toMatch(/"Temporary"/)
})

test('any object is valid or an InvalidSpecError, and whatever is valid stays valid', () => {
  const field = fc.constantFrom(
    'size',
    'mode',
    'access',
    'filesystem',
    'command',
    'variables',
    'upstream',
    'x',
  )
  const value = fc.oneof(fc.jsonValue(), fc.constantFrom('1Gi', 'Temporary', {}, { allow: ['::/0'] }, 'true'))
  fc.assert(
    fc.property(fc.dictionary(field, value, { noNullPrototype: true }), spec => {
      try {
        const parsed = parseOnDemandDisk(disk({ size: 1, ...spec }))
        expect(parseOnDemandDisk(parsed)).toEqual(parsed)
      } catch (error) {
        expect(error).toBeInstanceOf(InvalidSpecError)
      }
    }),
    { numRuns: 500 },
  )
})

test('a program that reads no object loads neither ajv nor yaml', async () => {
  const module = new URL('./ondemanddisk.ts', import.meta.url).href
  const script = `
    import { createRequire } from 'node:module'
    const { parseOnDemandDisk } = await import(${JSON.stringify(module)})
    const loaded = () => Object.keys(createRequire(${JSON.stringify(module)}).cache).length
    const before = loaded()
    parseOnDemandDisk(${JSON.stringify(disk({ size: 1 }))})
    console.log(before, loaded() > 50)`
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', script])
  expect(stdout).toBe('0 true\n')
})

describe('docs/manifests.md', () => {
  const text = readFileSync(new URL('../docs/manifests.md', import.meta.url), 'utf8')

  test('has an example that is valid', () => {
    const [, example = ''] = /```yaml\n(.*?)```/s.exec(text) ?? []
    expect(parseOnDemandDisk(parseYaml(example)).spec.exportName).toBe('alice')
  })

  test('has exactly the fields of the schema in its table', () => {
    const crd = parseYaml(readFileSync(new URL('./ondemanddisk.yaml', import.meta.url), 'utf8'))
    const fieldsOf = (node: { properties?: Record<string, object> }, path = ''): string[] =>
      node.properties
        ? Object.entries(node.properties).flatMap(([name, child]) => fieldsOf(child, `${path}.${name}`))
        : [path.slice(1)]
    const fields = fieldsOf(crd.spec.versions[0].schema.openAPIV3Schema.properties.spec)
    expect([...text.matchAll(/^\| `([^`]+)` \|/gm)].map(([, field]) => field)).toEqual(fields)
  })
})
