/** Where the API server keeps objects. */
import { groupVersion, type Resource } from './objects.ts'

/** `/apis/apps/v1/namespaces/a/statefulsets`; of all namespaces where none is given. */
export function collectionOf(resource: Resource, namespace: string | undefined): string {
  const root = `/${resource.group === '' ? 'api' : 'apis'}/${groupVersion(resource)}`
  const within = resource.namespaced && namespace !== undefined ? `/namespaces/${segment(namespace)}` : ''
  return `${root}${within}/${resource.plural}`
}

/** `/apis/apps/v1/namespaces/a/statefulsets/b/status` */
export function pathOf(
  resource: Resource,
  { namespace, name }: { readonly namespace?: string | undefined; readonly name: string },
  subresource?: string,
): string {
  if (resource.namespaced && namespace === undefined) {
    throw new TypeError(`A ${resource.kind} is in a namespace, and none is given for ${name}.`)
  }
  const path = `${collectionOf(resource, namespace)}/${segment(name)}`
  return subresource === undefined ? path : `${path}/${subresource}`
}

/** A name as one segment: an empty one, or dots, would be another object or all of them. */
function segment(name: string): string {
  if (name === '' || name === '.' || name === '..') throw new TypeError(`"${name}" is no name of an object.`)
  return encodeURIComponent(name)
}

/** `?a=1&b=true` of the values that are there; empty where none is. */
export function queryOf(values: Readonly<Record<string, string | number | boolean | undefined>>): string {
  const query = new URLSearchParams()
  for (const [key, value] of Object.entries(values)) {
    if (value !== undefined && value !== '') query.set(key, String(value))
  }
  const text = query.toString()
  return text === '' ? '' : `?${text}`
}
