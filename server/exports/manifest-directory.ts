/** The files of a manifest directory, read again only where they have changed. */
import { type BigIntStats, constants, fstatSync } from 'node:fs'
import { lstat, open, opendir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { NameRules } from '../../crds/export-name.ts'
import { codeOf } from '../linux/errno.ts'
import { type ManifestDocument, parseManifest, unreadable } from './manifest-file.ts'
import type { ManifestFile } from './manifest-set.ts'

/** Most files in a directory. */
const MAX_FILES = 10_000
/** Largest file in bytes. */
export const MAX_FILE_SIZE = 1024 * 1024

const CONCURRENCY = 32
/** Milliseconds within which a file can change twice and keep its time stamp. */
const TIME_STAMP_STEP = 100

/** Reads the manifests of one directory, and remembers them. */
export interface ManifestReader {
  /**
   * All manifests as they are now, sorted by name. `changed`: only files of these names can have changed
   * since the last call. What is wrong with one file is told in its documents.
   * @throws the error of a directory that cannot be read
   */
  read(changed?: ReadonlySet<string>): Promise<readonly ManifestFile[]>
}

interface CachedFile extends ManifestFile {
  /** Equal as long as the file is; undefined: to be read again. */
  readonly signature: string | undefined
}

export interface ManifestReaderOptions {
  /** Which export names are allowed. Default: `strict`. */
  readonly names?: NameRules
  /** Most files that are read. Default: `MAX_FILES`. */
  readonly maxFiles?: number
}

/** Makes a reader that has read nothing yet. */
export function createManifestReader(
  directory: string,
  { names = 'strict', maxFiles = MAX_FILES }: ManifestReaderOptions = {},
): ManifestReader {
  let cache = new Map<string, CachedFile>()

  return {
    async read(changed) {
      const only = changed && cache.size + changed.size <= maxFiles ? changed : undefined
      const listing = only
        ? { names: [...new Set([...cache.keys(), ...[...only].filter(isManifestName)])].sort(), leftOut: [] }
        : await listManifests(directory, cache, maxFiles)
      const files: CachedFile[] = []
      for (let start = 0; start < listing.names.length; start += CONCURRENCY) {
        const batch = listing.names.slice(start, start + CONCURRENCY).map(name => {
          const cached = cache.get(name)
          return cached && only && !only.has(name) ? cached : readFile(directory, name, cached, names)
        })
        for (const file of await Promise.all(batch)) if (file) files.push(file)
      }
      cache = new Map(files.map(file => [file.name, file]))
      return listing.leftOut.length === 0 ? files : [...files, tooMany(listing.leftOut, maxFiles)]
    },
  }
}

/** Is this the name of a manifest? Hidden names are those of editors, and of the versions of a ConfigMap. */
function isManifestName(name: string): boolean {
  return !name.startsWith('.') && /\.(?:yaml|yml|json)$/.test(name)
}

/** Names of manifests, sorted, known ones before new ones where there are too many, and the names beyond. */
async function listManifests(
  directory: string,
  known: ReadonlyMap<string, CachedFile>,
  maxFiles: number,
): Promise<{ names: string[]; leftOut: string[] }> {
  const present: string[] = []
  const added: string[] = []
  for await (const { name } of await opendir(directory, { bufferSize: 512 })) {
    if (known.has(name)) present.push(name)
    else if (isManifestName(name) && added.length < 2 * maxFiles) added.push(name)
  }
  added.sort()
  const room = maxFiles - present.length
  return { names: [...present, ...added.slice(0, room)].sort(), leftOut: added.slice(room) }
}

function tooMany(leftOut: readonly string[], maxFiles: number): ManifestFile {
  const [name = ''] = leftOut
  const reason = `This file and ${leftOut.length - 1} more are not read: a directory may hold ${maxFiles} manifests.`
  return { name, documents: [unreadable(reason)] }
}

/** One file; undefined if it is gone. */
async function readFile(
  directory: string,
  name: string,
  cached: CachedFile | undefined,
  names: NameRules,
): Promise<CachedFile | undefined> {
  const path = join(directory, name)
  try {
    const isSame =
      cached?.signature !== undefined && cached.signature === signatureOf(await stat(path, { bigint: true }))
    if (isSame) return cached
    const { content, signature } = await readContent(path)
    const documents =
      typeof content === 'string' ? [unreadable(content)] : await parseManifest(content, names)
    return { name, documents, signature }
  } catch (error) {
    if (codeOf(error) === 'ENOENT' && (await isGone(path))) return undefined
    return { name, documents: [failedToRead(error)], signature: undefined }
  }
}

/** The bytes of a file, or why they are not read, and a signature if they are sure not to be in change. */
async function readContent(
  path: string,
): Promise<{ content: Buffer | string; signature: string | undefined }> {
  // Without O_NONBLOCK a FIFO would wait for its writer.
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
  try {
    // Of an open file the kernel has this in memory.
    const before = fstatSync(handle.fd, { bigint: true })
    if (!before.isFile()) return { content: 'Only a regular file can be read.', signature: undefined }
    if (before.size > MAX_FILE_SIZE) {
      const content = `The file has ${before.size} bytes. Keep it under ${MAX_FILE_SIZE}, or split it.`
      return { content, signature: signatureOf(before) }
    }
    const buffer = Buffer.alloc(Number(before.size))
    let filled = 0
    for (;;) {
      const { bytesRead } = await handle.read(buffer, filled, buffer.length - filled, filled)
      filled += bytesRead
      if (bytesRead === 0 || filled === buffer.length) break
    }
    const after = fstatSync(handle.fd, { bigint: true })
    const signature = signatureOf(after)
    const isStable = signature === signatureOf(before) && !isYoung(after)
    return { content: buffer.subarray(0, filled), signature: isStable ? signature : undefined }
  } finally {
    await handle.close()
  }
}

function signatureOf({ dev, ino, size, mtimeNs, ctimeNs }: BigIntStats): string {
  return `${dev} ${ino} ${size} ${mtimeNs} ${ctimeNs}`
}

/** Could it change once more within the same time stamp? */
function isYoung({ mtimeMs }: BigIntStats): boolean {
  return Math.abs(Date.now() - Number(mtimeMs)) < TIME_STAMP_STEP
}

/** Is nothing of that name there, not even a symlink that leads nowhere? */
async function isGone(path: string): Promise<boolean> {
  try {
    await lstat(path)
    return false
  } catch (error) {
    return codeOf(error) === 'ENOENT'
  }
}

function failedToRead(error: unknown): ManifestDocument {
  return unreadable(`The file cannot be read (${codeOf(error) ?? String(error)}).`, 1, error)
}
