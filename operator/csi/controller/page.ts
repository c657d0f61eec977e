/** Lists that are answered page by page, in the order of their ids. A token is the id that the page before it ended with. */
import { RpcError } from '../rpc/rpc-error.ts'
import { parseVolumeId } from './volume-id.ts'

/** Which page is asked for. */
export interface PageRequest {
  /** 0: as many as there are. */
  readonly maxEntries: number
  /** Empty: the first page. */
  readonly startingToken: string
}

/** @throws RpcError INVALID_ARGUMENT, and ABORTED for a token that none of our answers had */
export function checkPage({ maxEntries, startingToken }: PageRequest): void {
  if (maxEntries < 0) throw new RpcError('INVALID_ARGUMENT', 'max_entries is negative.')
  if (startingToken !== '' && !parseVolumeId(startingToken)) {
    throw new RpcError('ABORTED', 'starting_token is not one of this driver. List anew from the start.')
  }
}

/** The page of these items, and the token of the next one, which is empty where there is none. */
export function pageOf<Item>(
  items: readonly Item[],
  idOf: (item: Item) => string,
  { maxEntries, startingToken }: PageRequest,
): { readonly page: readonly Item[]; readonly nextToken: string } {
  const left = items
    .map(item => ({ id: idOf(item), item }))
    .filter(({ id }) => id > startingToken)
    .sort((a, b) => (a.id < b.id ? -1 : 1))
  const page = maxEntries === 0 ? left : left.slice(0, maxEntries)
  const nextToken = page.length < left.length ? (page.at(-1)?.id ?? '') : ''
  return { page: page.map(({ item }) => item), nextToken }
}
