/** The chart as helm renders it, for tests. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { parseAllDocuments } from 'yaml'

export const chart = join(import.meta.dirname, 'ondemand-disk')
const HELM = join(import.meta.dirname, '../hack/tools/node_modules/.bin/helm')
export const NAMESPACE = 'storage-system'

// biome-ignore lint/suspicious/noExplicitAny: objects of every kind, whose shapes are what is tested
export type KubeObject = any

export const helmRuns = promisify(execFile)(HELM, ['version']).then(
  () => true,
  () => false,
)
/** Runs helm and returns what it wrote to stdout; throws what it said when it fails. */
export async function helm(...args: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(HELM, args, { maxBuffer: 16 * 1024 * 1024 })
  return stdout
}

export const settings = (values: readonly string[]) => values.flatMap(value => ['--set', value])

/** The objects that the chart makes of these values. A key that stands twice in one map is an error. */
export async function render(values: readonly string[] = [], ...more: string[]): Promise<KubeObject[]> {
  const text = await helm('template', 'odd', chart, '--namespace', NAMESPACE, ...settings(values), ...more)
  const documents = parseAllDocuments(text, { uniqueKeys: true })
  return documents.map(document => {
    if (document.errors.length > 0) throw new Error(`${document.errors[0]}\n${document}`)
    return document.toJS()
  })
}

export const find = (objects: readonly KubeObject[], kind: string, name: string): KubeObject => {
  const found = objects.filter(object => object.kind === kind && object.metadata.name === name)
  if (found.length !== 1) throw new Error(`${found.length} objects are the ${kind} ${name}`)
  return found[0]
}

export const podsOf = (objects: readonly KubeObject[]): KubeObject[] =>
  objects.flatMap(object =>
    object.kind === 'Pod' ? [object.spec] : [object.spec?.template?.spec ?? []].flat(),
  )
