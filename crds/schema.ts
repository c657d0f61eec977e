import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import type { ErrorObject, ValidateFunction } from 'ajv'
import { quote } from './quote.ts'

/** A node of the CRD's OpenAPI schema, as far as this project's CRDs use it. */
interface SchemaNode {
  readonly description?: string
  readonly properties?: Readonly<Record<string, SchemaNode>>
  readonly items?: SchemaNode
  readonly additionalProperties?: SchemaNode
  readonly 'x-kubernetes-int-or-string'?: boolean
  readonly [keyword: string]: unknown
}

/** What is wrong with an object, and where. */
export interface SchemaProblem {
  /** Path of the first bad field: `spec.access.allow[0]`; empty for the object itself. */
  readonly field: string
  /** What is wanted there, as a sentence. */
  readonly reason: string
}

const STRING_MAP: SchemaNode = { type: 'object', additionalProperties: { type: 'string' } }

/** What Kubernetes itself says of an object's metadata; fields that are not listed are free. */
const METADATA: SchemaNode = {
  type: 'object',
  required: ['name'],
  additionalProperties: true as unknown as SchemaNode,
  properties: {
    name: {
      description: 'A DNS-1123 subdomain: lower-case letters, digits, "-" and ".", at most 253 of them.',
      type: 'string',
      minLength: 1,
      maxLength: 253,
      pattern: '^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$',
    },
    namespace: { type: 'string' },
    uid: {
      // It names the disk's file.
      description: 'As Kubernetes gives it: letters, digits, "-" and "_", at most 128 of them.',
      type: 'string',
      maxLength: 128,
      pattern: '^[A-Za-z0-9][A-Za-z0-9_-]*$',
    },
    generation: { type: 'integer' },
    deletionTimestamp: { type: 'string' },
    labels: STRING_MAP,
    annotations: STRING_MAP,
  },
}

/** Checks an object against a CRD's schema and fills its defaults in, in place. */
export type ObjectValidator = (object: unknown) => SchemaProblem | undefined

/**
 * Compiles the schema of a CRD's only version. Fields that the schema does not list are refused, where an
 * API server would drop them in silence. `allOf` is left out: it holds exclusions of fields, which the
 * caller's own checks report by the field's name.
 *
 * ajv and yaml are loaded here, when the first object is to be checked, so that a program that never sees
 * one pays neither their memory nor their start.
 */
export function compileCrdSchema(crdFile: URL): ObjectValidator {
  const require = createRequire(import.meta.url)
  const yaml = require('yaml') as typeof import('yaml')
  const { Ajv } = require('ajv') as typeof import('ajv')
  const crd = yaml.parse(readFileSync(crdFile, 'utf8'))
  const schema = toJsonSchema(crd.spec.versions[0].schema.openAPIV3Schema)
  const ajv = new Ajv({ useDefaults: true, verbose: true, allowUnionTypes: true })
  const validate = ajv.compile({
    ...schema,
    properties: { ...(schema.properties as object), metadata: METADATA },
    required: ['apiVersion', 'kind', 'metadata', 'spec'],
  })
  return object => firstProblem(validate, object)
}

/** The JSON Schema that says the same as a structural schema, and closes its objects. */
function toJsonSchema(node: SchemaNode): Record<string, unknown> {
  const { 'x-kubernetes-int-or-string': intOrString, allOf: _, format: __, ...keywords } = node
  const schema: Record<string, unknown> = {}
  for (const [keyword, value] of Object.entries(keywords)) {
    if (!keyword.startsWith('x-kubernetes-')) schema[keyword] = value
  }
  if (intOrString) {
    delete schema.anyOf
    schema.type = ['integer', 'string']
  }
  if (node.items) schema.items = toJsonSchema(node.items)
  if (node.additionalProperties) schema.additionalProperties = toJsonSchema(node.additionalProperties)
  if (node.properties) {
    schema.properties = Object.fromEntries(
      Object.entries(node.properties).map(([name, property]) => [name, toJsonSchema(property)]),
    )
    schema.additionalProperties ??= false
  }
  return schema
}

function firstProblem(validate: ValidateFunction, object: unknown): SchemaProblem | undefined {
  if (validate(object)) return undefined
  const error = validate.errors?.[0]
  if (!error) return { field: '', reason: 'The object does not follow the schema.' }
  const parent = fieldPath(error.instancePath, object)
  return { field: joinField(parent, childOf(error)), reason: reasonOf(error) }
}

/** The field that is missing or unknown, where the error is reported at the object around it. */
function childOf(error: ErrorObject): string | undefined {
  if (error.keyword === 'required') return error.params.missingProperty
  if (error.keyword === 'additionalProperties') return error.params.additionalProperty
  return undefined
}

/** Turns the JSON pointer `/spec/access/allow/0` into the path `spec.access.allow[0]`. */
function fieldPath(pointer: string, object: unknown): string {
  let path = ''
  let at: unknown = object
  for (const segment of pointer.split('/').slice(1)) {
    const key = segment.replaceAll('~1', '/').replaceAll('~0', '~')
    path = Array.isArray(at) ? `${path}[${key}]` : joinField(path, key)
    at = (at as Record<string, unknown> | undefined)?.[key]
  }
  return path
}

function joinField(path: string, key: string | undefined): string {
  if (key === undefined) return path
  if (!/^[A-Za-z_][A-Za-z0-9_-]*$/.test(key) || key.length > 80) return `${path}[${quote(key)}]`
  return path === '' ? key : `${path}.${key}`
}

function reasonOf(error: ErrorObject): string {
  const node = (error.parentSchema ?? {}) as SchemaNode
  const { params } = error
  switch (error.keyword) {
    case 'required': {
      return `This field is required. ${firstSentence(node.properties?.[params.missingProperty])}`.trim()
    }
    case 'additionalProperties':
      return `Unknown field. Use one of ${Object.keys(node.properties ?? {}).join(', ')}.`
    case 'type':
      return `Give ${wantedType(params.type)}, not ${typeName(error.data)}.`
    case 'enum':
      return `Give one of ${params.allowedValues.join(', ')}, not ${shown(error.data)}.`
    case 'minimum':
      return `Give at least ${params.limit}, not ${shown(error.data)}.`
    case 'maximum':
      return `Give at most ${params.limit}, not ${shown(error.data)}.`
    case 'minLength':
      return 'Give some text, or leave the field out.'
    case 'maxLength':
      return `Give at most ${params.limit} characters.`
    case 'maxItems':
      return `Give at most ${params.limit} items.`
    case 'maxProperties':
      return `Give at most ${params.limit} entries.`
    case 'pattern':
      return `${shown(error.data)} is not accepted. ${firstSentence(node) || `It must match ${params.pattern}.`}`
    default:
      return `The value is not accepted: it ${error.message}.`
  }
}

/** The first sentence of a description says what the field takes; the rest is for those who read the API. */
function firstSentence(node: SchemaNode | undefined): string {
  return node?.description?.replace(/(?<=[^.]\.)\s(?=\p{Lu}).*$/su, '') ?? ''
}

const TYPE_NAMES: Readonly<Record<string, string>> = {
  object: 'an object',
  array: 'a list',
  string: 'a string',
  boolean: 'true or false',
  integer: 'a whole number',
  number: 'a number',
}

function wantedType(type: string | readonly string[]): string {
  return [type]
    .flat()
    .map(name => TYPE_NAMES[name] ?? name)
    .join(' or ')
}

function typeName(value: unknown): string {
  if (value === null) return 'nothing'
  if (Array.isArray(value)) return 'a list'
  return typeof value === 'object' ? 'an object' : shown(value)
}

function shown(value: unknown): string {
  return typeof value === 'string' ? quote(value) : String(value)
}
