/** What volumes are called: to Kubernetes by an id, in the API by an object. */
import { createHash } from 'node:crypto'
import type { ObjectRef } from '../../kube/client.ts'
import { need, RpcError } from '../rpc/rpc-error.ts'

/** A namespace and a name with a slash between them have at most the 128 bytes that an id may have. */
const MAX_NAME = 63
const MAX_PREFIX = 40
const NAMESPACE = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/
/** Of an object's name: a disk that somebody made by hand may be a volume, too. */
const NAME = /^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$/
const MAX_VOLUME_NAME_BYTES = 128
/** Control characters other than the usual white space, which the specification bans. */
const BANNED = /[\p{Cc}--[\t\n\r]]/v

export interface VolumeRef extends ObjectRef {
  readonly namespace: string
}

/** `NAMESPACE/NAME`. */
export const volumeIdOf = ({ namespace, name }: VolumeRef) => `${namespace}/${name}`

/**
 * The object of a volume; undefined where the id is none that this driver gives, so that there is no such volume.
 * @throws RpcError INVALID_ARGUMENT where no id is given
 */
export function parseVolumeId(volumeId: string): VolumeRef | undefined {
  need('volume_id', volumeId)
  const [namespace = '', name = '', ...more] = volumeId.split('/')
  const isOne = more.length === 0 && NAMESPACE.test(namespace) && NAME.test(name) && name.length <= 253
  return isOne ? { namespace, name } : undefined
}

/**
 * The name of the object for a volume of this name, always the same one: the name itself where Kubernetes allows it,
 * and else what is left of it with a hash of the whole.
 * @throws RpcError INVALID_ARGUMENT for what the specification does not let be a name
 */
export function objectNameOf(volumeName: string): string {
  need('name', volumeName)
  if (Buffer.byteLength(volumeName) > MAX_VOLUME_NAME_BYTES) {
    throw new RpcError('INVALID_ARGUMENT', `name has more than ${MAX_VOLUME_NAME_BYTES} bytes.`)
  }
  if (BANNED.test(volumeName)) throw new RpcError('INVALID_ARGUMENT', 'name has a control character in it.')
  if (volumeName.length <= MAX_NAME && NAMESPACE.test(volumeName)) return volumeName
  const hash = createHash('sha256').update(volumeName).digest('hex').slice(0, 16)
  const prefix = volumeName
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-+/, '')
    .slice(0, MAX_PREFIX)
    .replace(/-+$/, '')
  return prefix === '' ? `volume-${hash}` : `${prefix}-${hash}`
}
