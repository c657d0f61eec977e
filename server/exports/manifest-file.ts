/** The text of one manifest file: which objects it holds, and what is wrong with them. */
import { createRequire } from 'node:module'
import { setImmediate as yieldToEventLoop } from 'node:timers/promises'
import type { Composer, Document, Parser } from 'yaml'
import { type NameRules, parseExportName } from '../../crds/export-name.ts'
import { InvalidSpecError, type OnDemandDisk, parseOnDemandDisk } from '../../crds/ondemanddisk.ts'
import { toError } from '../linux/errno.ts'

/** What one document of a file says. */
export interface ManifestDocument {
  /** Line of the file on which it begins, from 1. */
  readonly line: number
  /** `namespace/name` of the object: the same object in another state has the same. Undefined: not readable. */
  readonly object: string | undefined
  /** The name that it is, or would be, served under. Undefined: not readable. */
  readonly exportName: string | undefined
  /** The disk, or why there is none. */
  readonly content: OnDemandDisk | InvalidSpecError
}

/** A document that nothing is known of but that it is wrong. */
export function unreadable(reason: string, line = 1, cause?: unknown): ManifestDocument {
  const content = new InvalidSpecError('', reason, cause === undefined ? undefined : { cause })
  return { line, object: undefined, exportName: undefined, content }
}

/**
 * Some shapes of YAML cost far more time than their length suggests, so what is bounded is the number of
 * tokens in a document. The largest object that the schema allows has a tenth of them.
 */
const MAX_TOKENS = 20_000
const MAX_ALIASES = 100
/** Milliseconds of parsing after which the event loop gets its turn. */
const TIME_SLICE = 10

/**
 * Reads the objects of a file, which is JSON or YAML of several documents. Never throws for what the file
 * holds: a document that is wrong comes back with its error, and a file without any is wrong as a whole.
 */
export async function parseManifest(bytes: Uint8Array, names: NameRules): Promise<ManifestDocument[]> {
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (error) {
    return [unreadable('The file is not UTF-8.', 1, error)]
  }
  const json = parseJson(text)
  if (json) return [describe(json.value, 1, names)]
  const documents: ManifestDocument[] = []
  for await (const document of parseYaml(text, names)) documents.push(document)
  return documents.length > 0
    ? documents
    : [unreadable('The file holds no object. Write one, or remove the file.')]
}

/** JSON is YAML too, but read as JSON it costs a thousandth. */
function parseJson(text: string): { value: unknown } | undefined {
  if (!text.trimStart().startsWith('{')) return undefined
  try {
    return { value: JSON.parse(text) }
  } catch {
    // Flow style YAML, or broken JSON: the YAML parser says in which line.
    return undefined
  }
}

async function* parseYaml(text: string, names: NameRules): AsyncGenerator<ManifestDocument> {
  const yaml = createRequire(import.meta.url)('yaml') as typeof import('yaml')
  const lines = new yaml.LineCounter()
  lines.addNewLine(0)
  const parser = new yaml.Parser(lines.addNewLine)
  // The check for unique keys that is built in takes time by the square of their number.
  const composer = new yaml.Composer({ uniqueKeys: false, prettyErrors: false, logLevel: 'error' })
  const lineAt = (offset: number) => lines.linePos(offset).line
  let tokens = 0
  let sliceStart = performance.now()
  for (const lexeme of new yaml.Lexer().lex(text)) {
    tokens += 1
    if (tokens > MAX_TOKENS) {
      const line = lineAt(parser.offset)
      yield unreadable(`Line ${line}: the document is too large. Keep it under ${MAX_TOKENS} tokens.`, line)
      return
    }
    for (const document of compose(parser, composer, lexeme)) {
      tokens = 0
      const described = describeYaml(yaml, document, lineAt, names)
      if (described) yield described
    }
    if (tokens % 100 === 0 && performance.now() - sliceStart > TIME_SLICE) {
      await yieldToEventLoop()
      sliceStart = performance.now()
    }
  }
  for (const document of compose(parser, composer)) {
    const described = describeYaml(yaml, document, lineAt, names)
    if (described) yield described
  }
}

/** Documents that this lexeme, or the end of the text, completes. */
function* compose(parser: Parser, composer: Composer, lexeme?: string): Generator<Document.Parsed> {
  for (const token of lexeme === undefined ? parser.end() : parser.next(lexeme)) yield* composer.next(token)
  if (lexeme === undefined) yield* composer.end()
}

function describeYaml(
  yaml: typeof import('yaml'),
  document: Document.Parsed,
  lineAt: (offset: number) => number,
  names: NameRules,
): ManifestDocument | undefined {
  const line = lineAt(document.contents?.range[0] ?? document.range[0])
  try {
    const value: unknown = document.toJS({ maxAliasCount: MAX_ALIASES })
    const flaw = flawOf(yaml, document)
    if (!flaw) return value === null ? undefined : describe(value, line, names)
    const flawLine = lineAt(flaw.offset)
    const broken = unreadable(`Line ${flawLine}: the YAML is broken. ${flaw.reason}.`, flawLine)
    return { ...broken, ...identify(value, names) }
  } catch (error) {
    // Too many aliases, or nested deeper than the stack.
    const reason = toError(error).message
    return unreadable(`Line ${line}: the YAML cannot be used. ${reason}.`, line, error)
  }
}

interface Flaw {
  readonly offset: number
  readonly reason: string
}

function flawOf(yaml: typeof import('yaml'), document: Document.Parsed): Flaw | undefined {
  const [problem] = [...document.errors, ...document.warnings]
  return problem ? { offset: problem.pos[0], reason: problem.message } : repeatedKey(yaml, document)
}

function repeatedKey(yaml: typeof import('yaml'), document: Document.Parsed): Flaw | undefined {
  let found: Flaw | undefined
  yaml.visit(document, {
    Map(_, map) {
      const keys = new Set<string>()
      for (const { key } of map.items) {
        if (!yaml.isScalar(key)) continue
        const name = String(key.value)
        if (keys.has(name)) {
          found = {
            offset: key.range?.[0] ?? 0,
            reason: `The key ${JSON.stringify(name)} stands there twice`,
          }
          return yaml.visit.BREAK
        }
        keys.add(name)
      }
      return undefined
    },
  })
  return found
}

function describe(value: unknown, line: number, names: NameRules): ManifestDocument {
  try {
    const disk = parseOnDemandDisk(value, { names })
    return { line, object: objectOf(disk.metadata), exportName: disk.spec.exportName, content: disk }
  } catch (error) {
    if (!(error instanceof InvalidSpecError)) throw error
    return { line, ...identify(value, names), content: error }
  }
}

/** What a wrong object still says of who it is. */
function identify(value: unknown, names: NameRules): Pick<ManifestDocument, 'object' | 'exportName'> {
  const metadata = fieldOf(value, 'metadata')
  const name = fieldOf(metadata, 'name')
  const namespace = fieldOf(metadata, 'namespace')
  if (typeof name !== 'string') return { object: undefined, exportName: undefined }
  return {
    object: objectOf({ name, ...(typeof namespace === 'string' && { namespace }) }),
    exportName: readableName(fieldOf(fieldOf(value, 'spec'), 'exportName') ?? name, names),
  }
}

function readableName(name: unknown, names: NameRules): string | undefined {
  if (typeof name !== 'string') return undefined
  try {
    return parseExportName(name, names)
  } catch {
    // No client can ask for it either.
    return undefined
  }
}

/** `namespace/name` of an object. */
export function objectOf({
  namespace = '',
  name,
}: {
  readonly namespace?: string
  readonly name: string
}): string {
  return `${namespace}/${name}`
}

function fieldOf(value: unknown, field: string): unknown {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, field)
    ? (value as Record<string, unknown>)[field]
    : undefined
}
