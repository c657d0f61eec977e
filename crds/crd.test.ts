import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { parse as parseYaml } from 'yaml'
import { DISK_POOLS, DISK_SNAPSHOTS, ON_DEMAND_DISKS } from './resources.ts'
import { unsoundDefaults } from './test-admission.ts'

const KINDS = [
  ['ondemanddisk', ON_DEMAND_DISKS, 'odd', ['Size', 'FS', 'Ready', 'Reason', 'URI', 'Age']],
  ['disksnapshot', DISK_SNAPSHOTS, 'dsnap', ['Disk', 'Size', 'Ready', 'Reason', 'Taken', 'Age']],
  ['diskpool', DISK_POOLS, 'diskpool', ['Disks', 'Spares', 'Free', 'Ready', 'Reason', 'URI', 'Age']],
] as const

interface Node {
  readonly [keyword: string]: unknown
  readonly properties?: Readonly<Record<string, Node>>
}

describe.each(KINDS)('%s.yaml', (file, { group, version: name, kind, plural }, shortName, columns) => {
  const crd = parseYaml(readFileSync(new URL(`./${file}.yaml`, import.meta.url), 'utf8'))
  const version = crd.spec.versions[0]
  const root = version.schema.openAPIV3Schema

  test('names what the product promises', () => {
    expect(crd.metadata.name).toBe(`${plural}.${group}`)
    expect(crd.spec).toMatchObject({
      group,
      scope: 'Namespaced',
      names: { kind, plural, shortNames: [shortName], categories: ['storage'] },
      versions: [{ name, served: true, storage: true, subresources: { status: {} } }],
    })
    expect(version.additionalPrinterColumns.map((column: { name: string }) => column.name)).toEqual(columns)
  })

  test('every printer column points to a field of the schema', () => {
    for (const { jsonPath } of version.additionalPrinterColumns as { jsonPath: string }[]) {
      if (jsonPath.startsWith('.metadata.')) continue
      let node = root
      for (const key of jsonPath
        .replace(/\[\?[^\]]*\]/g, '.[]')
        .split('.')
        .slice(1)) {
        node = key === '[]' ? node.items : node.properties[key]
        expect(node, jsonPath).toBeDefined()
      }
      expect(node.description, jsonPath).toBeDefined()
    }
  })

  test('every field has a description and a limit', () => {
    const limits: Readonly<Record<string, readonly string[]>> = {
      string: ['maxLength', 'enum'],
      array: ['maxItems'],
      integer: ['minimum'],
      object: ['properties', 'maxProperties'],
      boolean: ['type'],
    }
    const bare: string[] = []
    const visit = (path: string, node: Node) => {
      const type = node['x-kubernetes-int-or-string'] ? 'string' : String(node.type)
      if (!node.description) bare.push(`${path}: description`)
      if (!limits[type]?.some(keyword => keyword in node)) bare.push(`${path}: limit`)
      for (const [key, child] of Object.entries(node.properties ?? {})) visit(`${path}.${key}`, child)
      for (const keyword of ['items', 'additionalProperties']) {
        if (node[keyword]) visit(`${path}.${keyword}`, node[keyword] as Node)
      }
    }
    visit('spec', root.properties.spec)
    visit('status', root.properties.status)
    expect(bare).toEqual([])
  })

  // Kubernetes 1.36 refused the CRD of DiskPool: "no such key: enabled evaluating rule: template is required".
  test('its defaults, as they are written, keep the rules', () => {
    expect(unsoundDefaults(root, '')).toEqual([])
  })

  test('its rules use nothing that an API server of 1.25 does not know', () => {
    // A function that is not known, or an unknown keyword beside a rule, makes the server refuse the whole CRD.
    expect(JSON.stringify(crd)).not.toMatch(
      /quantity\(|isQuantity|isIP|isCIDR|ip\(|cidr\(|optionalOldSelf|selectableFields|format\./,
    )
    // fieldPath beside a rule: Kubernetes 1.25 to 1.27 refused the CRD by server-side apply and by kubectl's own check.
    const keywords = new Set<string>()
    JSON.stringify(crd, (key, value) => {
      if (key === 'x-kubernetes-validations')
        for (const rule of value) for (const keyword of Object.keys(rule)) keywords.add(keyword)
      return value
    })
    for (const keyword of keywords) expect(['rule', 'message']).toContain(keyword)
  })
})
