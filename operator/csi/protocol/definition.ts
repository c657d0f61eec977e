/** The services of `csi.proto`, for a server or a client. */
import { fileURLToPath } from 'node:url'
import type { ServiceDefinition } from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'

/** Reads the protocol's definition, which takes a moment. */
export function loadServices(): Readonly<Record<'identity' | 'controller' | 'node', ServiceDefinition>> {
  const file = fileURLToPath(new URL('./csi.proto', import.meta.url))
  const definition = loadSync(file, { longs: String, enums: String, defaults: true, oneofs: true })
  const service = (name: string) => definition[`csi.v1.${name}`] as ServiceDefinition
  return { identity: service('Identity'), controller: service('Controller'), node: service('Node') }
}
