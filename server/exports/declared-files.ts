/**
 * Which files of a directory are, or once were, those of disks that manifests declare. They are never served on
 * the server's own terms: the rules of a disk must not vanish with its manifest, be it deleted, or unreadable
 * when the server starts. Each such file has a mark, an empty file of the same name in a hidden directory.
 */
import { mkdir, readdir, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { DEFAULT_NAME } from '../../crds/export-name.ts'
import { quote } from '../../crds/quote.ts'
import { type LayeredBackend, nameOf } from '../backends/backend.ts'
import { type DiskDirectory, HIDDEN_NAME } from '../backends/disks/directory.ts'
import { lookUp, syncDirectory } from '../backends/disks/records.ts'
import { codeOf } from '../linux/errno.ts'
import { ExportRefusal } from './export.ts'

/** Name of the directory of marks in the hidden directory. */
export const MARKS_NAME = 'declared'

function unless(expected: string) {
  return (error: unknown): undefined => {
    if (codeOf(error) !== expected) throw error
  }
}

export class DeclaredFiles {
  readonly #directory: DiskDirectory
  readonly #marks: string
  /** Files of disks that are or were declared. */
  readonly #known: Set<string>
  /** Those that have a mark. */
  readonly #marked: Set<string>
  /** Which export a file is served as now. */
  readonly #owners = new Map<string, string>()

  /** Use openDeclaredFiles. */
  constructor(directory: DiskDirectory, marks: string, marked: readonly string[]) {
    this.#directory = directory
    this.#marks = marks
    this.#known = new Set(marked)
    this.#marked = new Set(marked)
  }

  /** Takes a file for a declared disk; returns the name of the disk that has it, which is another one's if it failed. */
  claim(fileName: string, exportName: string): string {
    const owner = this.#owners.get(fileName) ?? exportName
    this.#owners.set(fileName, owner)
    this.#known.add(fileName)
    return owner
  }

  /** The disk of this name is not declared any more; true if it had the file, which stays marked. */
  leave(fileName: string, exportName: string): boolean {
    return this.#owners.get(fileName) === exportName && this.#owners.delete(fileName)
  }

  /** Marks a file, durably, before the disk is made. Throws what the file system says. */
  async mark(fileName: string): Promise<void> {
    if (this.#marked.has(fileName) || !this.#directory.creates) return
    await mkdir(this.#marks, { mode: 0o700, recursive: true })
    await writeFile(join(this.#marks, fileName), '')
    await syncDirectory(this.#marks)
    this.#marked.add(fileName)
  }

  /** Is this the file of a disk that is declared now, under whatever name? */
  isOwned(fileName: string): boolean {
    return this.#owners.has(fileName)
  }

  /** Is this the file of a disk that is or was declared? */
  isKnown(fileName: string): boolean {
    return this.#known.has(fileName)
  }

  /** Refuses a file that is or was a declared disk's; one that has been deleted is free again. */
  async refuse(fileName: string): Promise<void> {
    if (!this.#known.has(fileName)) return
    if (this.#owners.has(fileName)) {
      throw new ExportRefusal('unknown', `There is no disk named ${quote(fileName)} here.`)
    }
    if ((await lookUp(join(this.#directory.path, fileName))) !== undefined) {
      const reason = `The disk ${quote(fileName)} is not declared any more. An admin can declare it again.`
      throw new ExportRefusal('unknown', reason)
    }
    await this.#forget(fileName)
  }

  async #forget(fileName: string): Promise<void> {
    if (this.#owners.has(fileName)) return
    this.#known.delete(fileName)
    if (!this.#directory.creates || !this.#marked.delete(fileName)) return
    await unlink(join(this.#marks, fileName)).catch(unless('ENOENT'))
  }

  /** Removes the marks of files that are gone. */
  async sweep(): Promise<void> {
    for (const fileName of [...this.#known]) {
      if ((await lookUp(join(this.#directory.path, fileName))) === undefined) await this.#forget(fileName)
    }
  }
}

/** Reads the marks in a directory of disks, and removes those of files that are gone. */
export async function openDeclaredFiles(directory: DiskDirectory): Promise<DeclaredFiles> {
  const marks = join(directory.path, HIDDEN_NAME, MARKS_NAME)
  const files = new DeclaredFiles(directory, marks, (await readdir(marks).catch(unless('ENOENT'))) ?? [])
  if (directory.creates) await files.sweep()
  return files
}

/** The backend of the disks that no manifest declares, without those that one does or did. */
export function withoutDeclared(backend: LayeredBackend, files: DeclaredFiles): LayeredBackend {
  return {
    ...backend,
    async open(exportName, context) {
      await files.refuse(exportName)
      return await backend.open(exportName, context)
    },
    async probe(exportName, requestedSize, readOnly) {
      await files.refuse(exportName)
      return await backend.probe(exportName, requestedSize, readOnly)
    },
    async listExports() {
      const listed = await backend.listExports()
      return listed.filter(one => !files.isKnown(nameOf(one) || DEFAULT_NAME))
    },
  }
}
