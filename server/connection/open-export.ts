/** From a name's export to a disk in use: a place in line, the backend's open, and their undoing. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Peer } from '../../crds/access-rules.ts'
import { UnfinishedError } from '../backends/layer/errors.ts'
import type { Admission, Patience, Place } from '../exports/admission.ts'
import type { Catalog } from '../exports/catalog.ts'
import { allowsMultiConn, type Export, ExportRefusal } from '../exports/export.ts'
import type { OpenedDisk } from './opened-disk.ts'
import type { Client } from './peer.ts'

/** How often a disk that another process holds is tried again, in ms. */
const RETRY_MS = 200

/** An opened disk; `close` gives everything back, in the order that lets the next client in last. */
export interface OpenedExport extends OpenedDisk {
  readonly served: Export
  /** A sentence about the disk, for people. */
  readonly description: string | undefined
  close(): Promise<void>
}

/** Conditions of an open. */
interface OpenTerms {
  readonly admission: Admission
  readonly patience: Patience
  /** The client's identity. */
  readonly client: string
  readonly signal: AbortSignal
}

const isBusy = (error: unknown) => (error as { code?: unknown } | null)?.code === 'EBUSY'

async function openPatiently(served: Export, terms: OpenTerms, deadline: number): Promise<unknown> {
  const { name, readOnly, requestedSize } = served
  const { client, signal } = terms
  const context = { readOnly, client, signal, ...(requestedSize !== undefined && { requestedSize }) }
  for (;;) {
    try {
      return await served.backend.open(name, context)
    } catch (error) {
      if (!isBusy(error) || performance.now() + RETRY_MS > deadline) throw error
      await sleep(RETRY_MS, undefined, { signal })
    }
  }
}

function enter(served: Export, terms: OpenTerms): Promise<Place> | undefined {
  if (served.temporary || served.unlocked) return undefined
  const { name, readOnly, connections } = served
  const claim = { disk: name, client: terms.client, exclusive: !readOnly, connections }
  return terms.admission.enter(claim, terms.patience, terms.signal)
}

/**
 * The export of a name, for a client that will open it: declared first by another program if need be.
 * @throws ExportNameError, ExportRefusal, or the signal's reason
 */
async function obtainExport(
  catalog: Catalog,
  rawName: Uint8Array,
  peer: Peer,
  signal: AbortSignal,
): Promise<Export> {
  await catalog.prepared(rawName)
  const found = catalog.resolve(rawName, peer)
  if (found.declare === undefined) return found
  await found.declare(peer, signal)
  await catalog.prepared(rawName)
  const served = catalog.resolve(rawName, peer)
  if (served.declare === undefined) return served
  throw new ExportRefusal('unavailable', 'The disk was made, but is gone already. Try again.')
}

/**
 * Opens an export for a client, making its disk if need be.
 * @throws DiskHeldError, the backend's error, or the signal's reason; nothing is left open then
 */
async function openExport(served: Export, terms: OpenTerms): Promise<OpenedExport> {
  const { backend } = served
  const deadline = terms.patience === 'unlimited' ? Infinity : performance.now() + terms.patience
  const place = await enter(served, terms)
  let handle: unknown
  try {
    handle = await openPatiently(served, terms, deadline)
  } catch (error) {
    place?.release()
    throw error
  }
  const close = async () => {
    try {
      await backend.close(handle)
    } catch (error) {
      // As long as the backend is at work on the disk, nobody else may have it.
      if (error instanceof UnfinishedError) void error.settled.then(() => place?.release())
      else place?.release()
      throw error
    }
    place?.release()
  }
  try {
    terms.signal.throwIfAborted()
    const size = backend.getSize(handle)
    const capabilities = backend.capabilities(handle)
    const multiConn = allowsMultiConn(served, capabilities)
    const description = backend.description(handle)
    const readOnly = !capabilities.canWrite
    return { served, backend, handle, size, capabilities, description, readOnly, multiConn, close }
  } catch (error) {
    await close()
    throw error
  }
}

/** A client that wants an export, and where it is to be had. */
export interface Wish {
  readonly catalog: Catalog
  readonly admission: Admission
  readonly client: Client
  readonly patience: Patience
  /** Aborted when the client has gone. */
  readonly signal: AbortSignal
}

/**
 * Opens the export of a name for a client that may have it, also when it has waited for it.
 * @throws what obtainExport and openExport throw; nothing is left open then
 */
export async function openByName(
  name: Uint8Array,
  { admission, catalog, client, patience, signal }: Wish,
): Promise<OpenedExport> {
  const served = await obtainExport(catalog, name, client.peer, signal)
  const opened = await openExport(served, { admission, patience, client: client.identity, signal })
  try {
    // While the client waited for its disk the terms may have changed, or the disk been given up.
    catalog.resolve(name, client.peer)
    const reason = catalog.revocation(served, client.peer)
    if (reason !== undefined) throw new ExportRefusal('policy', reason)
    return opened
  } catch (error) {
    await opened.close()
    throw error
  }
}
