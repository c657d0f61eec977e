/** The directory of manifests that the server follows: one file for each disk, named by its uid, always whole. */
import { readdir, readFile, rename, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { isUid } from './volume.ts'

export interface ManifestDirectory {
  /** uids of all manifests. */
  uids(): Iterable<string>
  text(uid: string): string | undefined
  write(uid: string, text: string): Promise<void>
  remove(uid: string): Promise<void>
}

/** Name of a disk's manifest. */
export const manifestName = (uid: string) => `${uid}.json`

/** Writes a file that is there as a whole or not at all. Hidden until then, so that nobody reads it half. */
export async function writeWhole(directory: string, name: string, text: string): Promise<void> {
  const hidden = join(directory, `.${name}.new`)
  await writeFile(hidden, text, { mode: 0o640 })
  await rename(hidden, join(directory, name))
}

/** Reads what an agent before this one has written. A server beside it goes on with that, whatever has become of the API. */
export async function openManifests(path: string): Promise<ManifestDirectory> {
  const texts = new Map<string, string>()
  for (const name of await readdir(path)) {
    const uid = name.replace(/\.json$/, '')
    if (uid !== name && isUid(uid)) texts.set(uid, await readFile(join(path, name), 'utf8'))
  }
  return {
    uids: () => texts.keys(),
    text: uid => texts.get(uid),
    async write(uid, text) {
      await writeWhole(path, manifestName(uid), text)
      texts.set(uid, text)
    },
    async remove(uid) {
      await unlink(join(path, manifestName(uid))).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOENT') throw error
      })
      texts.delete(uid)
    },
  }
}
