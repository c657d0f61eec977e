import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { parse as parseYaml } from 'yaml'
import { badPools, goodPools, poolTransitions } from './diskpool.cases.ts'
import { checkPoolTransition, parseDiskPool } from './diskpool.ts'
import { invalid } from './test-invalid.ts'

const pool = (spec: unknown, name = 'pool') => ({
  apiVersion: 'ondemanddisk.dev/v1alpha1',
  kind: 'DiskPool',
  metadata: { name, namespace: 'thin-clients' },
  spec,
})

test.each(goodPools)('$title is valid, and stays so once its defaults are filled in', ({ spec, name }) => {
  const given = pool(spec, name)
  const before = structuredClone(given)
  const parsed = parseDiskPool(given)
  expect(given).toEqual(before)
  expect(parseDiskPool(parsed)).toEqual(parsed)
  expect(parseDiskPool(JSON.parse(JSON.stringify(parsed)))).toEqual(parsed)
})

test.each(badPools)('$title is refused at $field', ({ spec, name, field }) => {
  const error = invalid(() => parseDiskPool(pool(spec, name)))
  expect(error.field).toBe(field)
  expect(error.message).toMatch(/^(spec|metadata)[^ ]*: [\p{Lu}"0-9].*\.$/su)
  expect(error.message.startsWith(`${field}: `)).toBe(true)
  expect(error.message.length).toBeLessThan(700)
})

test.each(poolTransitions)('$title', ({ before, after, field }) => {
  const change = () => checkPoolTransition(parseDiskPool(pool(before)), parseDiskPool(pool(after)))
  if (field) expect(invalid(change).field).toBe(field)
  else change()
})

test('what is left out gets its default, and quantities become bytes', () => {
  const { spec } = parseDiskPool(pool({ storage: { claimTemplate: { size: '1.5Gi' } }, quota: '1Ti' }))
  expect(spec).toEqual({
    storage: { claimTemplate: { accessModes: ['ReadWriteOnce'], size: 1.5 * 1024 ** 3 } },
    server: { serviceType: 'ClusterIP', resources: {}, tolerations: [] },
    tls: { mode: 'Off' },
    access: { allow: [], deny: [], limits: {} },
    exportNames: 'Strict',
    onDemand: { enabled: false, spares: 0 },
    quota: 1024 ** 4,
  })
  const { onDemand } = parseDiskPool(
    pool({ storage: { claimName: 'a' }, onDemand: { template: { size: '1Gi' }, maxSize: '2Gi' } }),
  ).spec
  expect(onDemand).toEqual({
    enabled: false,
    spares: 0,
    maxSize: 2 * 1024 ** 3,
    template: {
      size: 1024 ** 3,
      filesystem: { type: 'ext4' },
      mode: 'Persistent',
      readOnly: false,
      access: { allow: [], deny: [], connections: 1 },
      limits: {},
      reclaimPolicy: 'Delete',
    },
  })
})

test('a mistake in the template is told by the names of its fields there', () => {
  const spec = { storage: { claimName: 'a' }, onDemand: { template: { size: 1, variables: { a: '' } } } }
  expect(invalid(() => parseDiskPool(pool(spec))).message).toBe(
    'spec.onDemand.template.variables: Remove it, or give spec.onDemand.template.command, which alone uses variables.',
  )
})

test("the template's schema is that of a disk's spec, without names and without what a disk cannot do later", () => {
  const schemaOf = (name: string) =>
    parseYaml(readFileSync(new URL(`./${name}.yaml`, import.meta.url), 'utf8')).spec.versions[0].schema
      .openAPIV3Schema.properties.spec
  const isOfTransition = ({ rule }: { rule: string }) => rule.includes('oldSelf')
  // A client that connects to a new name gets a new disk, not a copy.
  const isOfSource = (part: object) => JSON.stringify(part).includes('source')
  const disk = schemaOf('ondemanddisk')
  const { poolName: _, exportName: __, source: _____, ...properties } = disk.properties
  const { 'x-kubernetes-validations': ___, ...size } = properties.size
  // They are given for one disk, one by one.
  const { tickets: ____, ...access } = properties.access.properties
  expect(schemaOf('diskpool').properties.onDemand.properties.template).toEqual({
    description: expect.any(String),
    type: 'object',
    properties: { ...properties, size, access: { ...properties.access, properties: access } },
    allOf: disk.allOf.filter((part: object) => !isOfSource(part)),
    'x-kubernetes-validations': disk['x-kubernetes-validations'].filter(
      (validation: { rule: string }) => !isOfTransition(validation) && !isOfSource(validation),
    ),
  })
})
