/** What all manifests together say, and what becomes of that when some of them change. No I/O. */
import { isDeepStrictEqual } from 'node:util'
import { checkTransition, InvalidSpecError, type OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { type ManifestDocument, objectOf } from './manifest-file.ts'

/** A file as it was read last. */
export interface ManifestFile {
  readonly name: string
  readonly documents: readonly ManifestDocument[]
}

/** A disk that is to be served. */
export interface ManifestDisk {
  /** Its last good spec. */
  readonly disk: OnDemandDisk
  /** The file that it comes from. */
  readonly file: string
  /** What is wrong with that file now; the disk is as it was before. */
  readonly invalid?: InvalidSpecError
}

/** Something that is wrong with a file. */
export interface ManifestProblem {
  readonly file: string
  /** From 1. */
  readonly line: number
  /** The export name that it is about, where that can be read. */
  readonly exportName?: string
  readonly error: InvalidSpecError
}

/** What all manifests together say. */
export interface ManifestState {
  /** By export name. */
  readonly disks: ReadonlyMap<string, ManifestDisk>
  /** Export names whose manifests have never been good, and why: not to be served, nor made on demand. */
  readonly refused: ReadonlyMap<string, InvalidSpecError>
  /** All that is wrong, by file name and line. */
  readonly problems: readonly ManifestProblem[]
}

/** A state, and what the next one must remember. */
export interface ManifestSet extends ManifestState {
  /** Since when, in the caller's milliseconds, disks have been in no file, by export name. */
  readonly missing: ReadonlyMap<string, number>
}

export const EMPTY_SET: ManifestSet = {
  disks: new Map(),
  refused: new Map(),
  problems: [],
  missing: new Map(),
}

/**
 * Milliseconds for which a disk must be in no file before it is gone: editors and copying programs take
 * files away for a moment, or write them in pieces.
 */
export const MISSING_GRACE = 100

/** A document and its file. */
interface Claim extends ManifestDocument {
  readonly file: string
}

/** A disk that is served, with the name that it is served under. */
interface Live extends ManifestDisk {
  readonly exportName: string
}

/**
 * The next state, from the state so far and all files, sorted by name, at the time `now` in milliseconds.
 *
 * A disk keeps its last good spec while its file is wrong, or asks for a change that no disk can make. Where
 * two documents claim one object or one export name, the one that is served already has it, else the first.
 */
export function nextSet(last: ManifestSet, files: readonly ManifestFile[], now: number): ManifestSet {
  const live = new Map<string, Live>()
  for (const [exportName, entry] of last.disks)
    live.set(objectOf(entry.disk.metadata), { ...entry, exportName })
  const { owners, problems } = assignObjects(files, live)

  const disks = new Map<string, ManifestDisk>()
  const newcomers: { readonly claim: Claim; readonly disk: OnDemandDisk }[] = []
  const brokenFiles = new Map(files.flatMap(brokenFile))
  const renewed = new Set<string>()
  for (const claim of owners) {
    const known = claim.object === undefined ? undefined : live.get(claim.object)
    const outcome = judge(claim, known)
    if (outcome instanceof InvalidSpecError) {
      problems.push(problem(claim, outcome))
      if (known) disks.set(known.exportName, { disk: known.disk, file: claim.file, invalid: outcome })
    } else if (known?.exportName === outcome.spec.exportName) {
      disks.set(known.exportName, { disk: outcome, file: claim.file })
    } else {
      newcomers.push({ claim, disk: outcome })
      if (known) renewed.add(known.exportName)
    }
  }

  const missing = new Map<string, number>()
  for (const [exportName, entry] of last.disks) {
    if (disks.has(exportName) || renewed.has(exportName)) continue
    const invalid = brokenFiles.get(entry.file)
    const since = last.missing.get(exportName) ?? now
    if (invalid) {
      disks.set(exportName, { ...entry, invalid })
    } else if (now - since < MISSING_GRACE) {
      disks.set(exportName, entry)
      missing.set(exportName, since)
    }
  }

  for (const { claim, disk } of newcomers) {
    const holder = disks.get(disk.spec.exportName)
    if (!holder) disks.set(disk.spec.exportName, { disk, file: claim.file })
    else {
      const reason = `The export name is already used by ${holder.file}. Give another, or remove one of them.`
      problems.push(problem(claim, new InvalidSpecError('spec.exportName', reason)))
    }
  }
  problems.sort((a, b) => (a.file === b.file ? a.line - b.line : a.file < b.file ? -1 : 1))
  return { disks, refused: refusals(problems, disks), problems, missing }
}

/** The file and its first error, if it has one. */
function brokenFile({ name, documents }: ManifestFile): [string, InvalidSpecError][] {
  const errors = documents
    .map(({ content }) => content)
    .filter(content => content instanceof InvalidSpecError)
  return errors.slice(0, 1).map(error => [name, error])
}

/** Splits the documents into those that speak for their object, and those that another one keeps from it. */
function assignObjects(
  files: readonly ManifestFile[],
  live: ReadonlyMap<string, Live>,
): { owners: readonly Claim[]; problems: ManifestProblem[] } {
  const claims = files.flatMap(({ name, documents }) =>
    documents.map(document => ({ ...document, file: name })),
  )
  const byObject = new Map<string, Claim>()
  for (const claim of claims) {
    if (claim.object === undefined) continue
    const rival = byObject.get(claim.object)
    const home = live.get(claim.object)?.file
    if (!rival || (rival.file !== home && claim.file === home)) byObject.set(claim.object, claim)
  }
  const owners: Claim[] = []
  const problems: ManifestProblem[] = []
  for (const claim of claims) {
    const owner = claim.object === undefined ? claim : byObject.get(claim.object)
    if (!owner || owner === claim) owners.push(claim)
    else {
      const reason = `The object is already in ${owner.file}. Give another name, or remove one of them.`
      problems.push(problem(claim, new InvalidSpecError('metadata.name', reason)))
    }
  }
  return { owners, problems }
}

/** The disk that a document makes of the one that is served so far, or why it makes none. */
function judge(claim: Claim, known: Live | undefined): OnDemandDisk | InvalidSpecError {
  const { content } = claim
  if (content instanceof InvalidSpecError || !known || isAnotherObject(known.disk, content)) return content
  if (isDeepStrictEqual(known.disk, content)) return known.disk
  try {
    checkTransition(known.disk, content)
    return content
  } catch (error) {
    if (!(error instanceof InvalidSpecError)) throw error
    return error
  }
}

/** Was the object deleted and made again? Only Kubernetes, which gives each its uid, can tell. */
function isAnotherObject(before: OnDemandDisk, after: OnDemandDisk): boolean {
  const [old, uid] = [before.metadata.uid, after.metadata.uid]
  return old !== undefined && uid !== undefined && old !== uid
}

function problem({ file, line, exportName }: Claim, error: InvalidSpecError): ManifestProblem {
  return { file, line, ...(exportName !== undefined && { exportName }), error }
}

function refusals(
  problems: readonly ManifestProblem[],
  disks: ReadonlyMap<string, ManifestDisk>,
): Map<string, InvalidSpecError> {
  const refused = new Map<string, InvalidSpecError>()
  for (const { exportName, error } of problems) {
    if (exportName !== undefined && !disks.has(exportName) && !refused.has(exportName))
      refused.set(exportName, error)
  }
  return refused
}

/** Do both states say the same to those who serve the disks and to those who read the problems? */
export function isSameState(a: ManifestState, b: ManifestState): boolean {
  return (
    a.disks.size === b.disks.size &&
    a.problems.length === b.problems.length &&
    a.refused.size === b.refused.size &&
    a.problems.every((problem, index) => isSameProblem(problem, b.problems[index])) &&
    [...a.disks].every(([name, disk]) => isSameDisk(disk, b.disks.get(name))) &&
    [...a.refused].every(([name, error]) => b.refused.get(name)?.message === error.message)
  )
}

function isSameDisk(a: ManifestDisk, b: ManifestDisk | undefined): boolean {
  return a.disk === b?.disk && a.file === b.file && a.invalid?.message === b.invalid?.message
}

function isSameProblem(a: ManifestProblem, b: ManifestProblem | undefined): boolean {
  return a.file === b?.file && a.line === b.line && a.error.message === b.error.message
}
