/**
 * For tests: what an API server says of an object, by the CRD alone. The OpenAPI part by ajv, with all keywords that
 * the server knows and with its own habits (unknown fields are dropped); the rules by a CEL evaluator.
 */
import { readFileSync } from 'node:fs'
import { Environment } from '@marcbachmann/cel-js'
import { Ajv } from 'ajv'
import { parse as parseYaml } from 'yaml'

interface Node {
  readonly type?: string
  readonly properties?: Readonly<Record<string, Node>>
  readonly items?: Node
  readonly additionalProperties?: Node
  readonly 'x-kubernetes-int-or-string'?: boolean
  readonly 'x-kubernetes-preserve-unknown-fields'?: boolean
  readonly 'x-kubernetes-validations'?: readonly { readonly rule: string; readonly message: string }[]
  readonly [keyword: string]: unknown
}

/** What is refused, and by which part. */
export interface Refusals {
  readonly openapi: readonly string[]
  readonly cel: readonly string[]
}

const environment = new Environment({ unlistedVariablesAreDyn: true })
  // Kubernetes' own addition to strings.
  .registerFunction(
    'string.find(string): string',
    (text: string, pattern: string) => new RegExp(pattern, 'u').exec(text)?.[0] ?? '',
  )

/** Reads a CRD; the function judges an object, as a change of another one where that is given. */
export function admission(name: string): (object: object, old?: object) => Refusals {
  const crd = parseYaml(readFileSync(new URL(`./${name}.yaml`, import.meta.url), 'utf8'))
  const schema: Node = crd.spec.versions[0].schema.openAPIV3Schema
  const ajv = new Ajv({ useDefaults: true, strict: false, allErrors: true, validateFormats: false })
  const validate = ajv.compile(jsonSchema(schema))
  const whole = (object: object) => {
    const copy = pruned(schema, structuredClone(object), true)
    // Once for the defaults, which ajv fills in too late for what stands beside the fields.
    validate(copy)
    validate(copy)
    return copy
  }
  return (object, old) => {
    const before = old && whole(old)
    const now = whole(object)
    const openapi = validate.errors?.map(({ instancePath, message }) => `${instancePath} ${message}`) ?? []
    // Where OpenAPI refuses, rules are not asked.
    const cel = openapi.length > 0 ? [] : brokenRules(schema, now, before, '')
    return { openapi, cel }
  }
}

function jsonSchema(node: Node): object {
  const { properties, items, additionalProperties, ...rest } = node
  return {
    ...rest,
    ...(properties && {
      properties: Object.fromEntries(
        Object.entries(properties).map(([key, child]) => [key, jsonSchema(child)]),
      ),
    }),
    ...(items && { items: jsonSchema(items) }),
    ...(additionalProperties && { additionalProperties: jsonSchema(additionalProperties) }),
  }
}

/** Drops the fields that the schema does not know; metadata are the server's own business. */
function pruned(node: Node, value: unknown, isRoot = false): unknown {
  if (Array.isArray(value)) return node.items ? value.map(item => pruned(node.items as Node, item)) : value
  if (value === null || typeof value !== 'object' || node['x-kubernetes-preserve-unknown-fields'])
    return value
  const result: Record<string, unknown> = {}
  for (const [key, child] of Object.entries(value)) {
    const known = node.properties?.[key] ?? node.additionalProperties
    if (isRoot && key === 'metadata') result[key] = child
    else if (known) result[key] = pruned(known, child)
  }
  return result
}

/** The messages of the rules that do not hold, each with the place it stands at. */
function brokenRules(node: Node, value: unknown, old: unknown, path: string): string[] {
  if (value === undefined || value === null) return []
  const broken: string[] = []
  for (const { rule, message } of node['x-kubernetes-validations'] ?? []) {
    // A rule that looks at the old value is not asked where there was none.
    if (rule.includes('oldSelf') && old === undefined) continue
    const context = {
      self: celValue(node, value),
      ...(old !== undefined && { oldSelf: celValue(node, old) }),
    }
    if (environment.evaluate(rule, context) !== true) broken.push(`${path}: ${message}`)
  }
  const was = (old ?? {}) as Readonly<Record<string, unknown>>
  if (node.properties) {
    for (const [key, child] of Object.entries(node.properties)) {
      broken.push(...brokenRules(child, (value as Record<string, unknown>)[key], was[key], `${path}.${key}`))
    }
  }
  return broken
}

/**
 * The places whose default breaks a rule or lacks a field that a rule asks for. An API server holds every default
 * against the rules as it is written, without the defaults of the fields in it, and refuses the CRD.
 */
export function unsoundDefaults(node: Node, path: string): string[] {
  const unsound: string[] = []
  try {
    unsound.push(...brokenRules(node, node.default, undefined, path))
  } catch (error) {
    unsound.push(`${path}: ${error}`)
  }
  for (const [key, child] of Object.entries(node.properties ?? {})) {
    unsound.push(...unsoundDefaults(child, `${path}.${key}`))
  }
  for (const child of [node.items, node.additionalProperties]) {
    if (child) unsound.push(...unsoundDefaults(child, `${path}[]`))
  }
  return unsound
}

/** Whole numbers are integers to CEL, and JavaScript's numbers are not. */
function celValue(node: Node, value: unknown): unknown {
  if (typeof value === 'number' && (node.type === 'integer' || node['x-kubernetes-int-or-string']))
    return BigInt(value)
  if (Array.isArray(value)) return value.map(item => celValue(node.items ?? {}, item))
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(
    Object.entries(value).map(([key, child]) => [
      key,
      celValue(node.properties?.[key] ?? node.additionalProperties ?? {}, child),
    ]),
  )
}
