import { AccessRuleError, compileAccessRules } from './access-rules.ts'
import { ExportNameError, type NameRules, parseExportName } from './export-name.ts'
import { labelProblem } from './filesystem-label.ts'
import { InvalidSpecError } from './invalid-spec-error.ts'
import type { AccessSpec, FilesystemSpec, LimitsSpec, OnDemandDiskSpec } from './ondemanddisk.ts'
import { parseQuantity, SizeError } from './quantity.ts'
import { quote } from './quote.ts'
import { upstreamUriProblem } from './upstream-uri.ts'

/** A spec that follows the schema: sizes are still quantities, and fields may exclude each other. */
export interface UncheckedSpec extends Omit<OnDemandDiskSpec, 'exportName' | 'size' | 'limits'> {
  readonly exportName?: string
  readonly size?: string | number
  readonly limits: {
    readonly readBytesPerSecond?: string | number
    readonly writeBytesPerSecond?: string | number
    readonly iops?: number
  }
}

/**
 * Checks what the schema cannot say and fills in what depends on other fields: the export name, the
 * filesystem, and sizes in bytes.
 * @throws InvalidSpecError
 */
export function resolveSpec(spec: UncheckedSpec, objectName: string, names: NameRules): OnDemandDiskSpec {
  checkSource(spec)
  checkVariables(spec)
  checkAccess(spec)
  const { exportName, size, filesystem: _, limits, ...rest } = spec
  const filesystem = resolveFilesystem(spec)
  return {
    ...rest,
    exportName: resolveExportName(exportName, objectName, names),
    ...(size !== undefined && { size: resolveBytes('spec.size', size, spec.command !== undefined) }),
    ...(filesystem && { filesystem }),
    limits: resolveLimits(limits),
  }
}

/** A disk comes from exactly one of filesystem (the default), command, source and upstream. */
function checkSource({ size, filesystem, command, variables, mode, upstream, source }: UncheckedSpec): void {
  if (source) {
    for (const [field, value] of Object.entries({ filesystem, command, upstream })) {
      if (value !== undefined) {
        throw new InvalidSpecError(`spec.${field}`, 'Remove it: a disk with source is as its source has it.')
      }
    }
    if (mode === 'Temporary') {
      throw new InvalidSpecError('spec.mode', 'A disk with source cannot be Temporary. Remove one of them.')
    }
  }
  if (upstream) {
    const problem = upstreamUriProblem(upstream.uri)
    if (problem) throw new InvalidSpecError('spec.upstream.uri', problem)
    for (const [field, value] of Object.entries({ size, filesystem, command, variables })) {
      if (value !== undefined) {
        throw new InvalidSpecError(
          `spec.${field}`,
          'Remove it: a disk with upstream is as the upstream has it.',
        )
      }
    }
    if (mode === 'Temporary') {
      throw new InvalidSpecError('spec.mode', 'A disk with upstream cannot be Temporary. Remove one of them.')
    }
    return
  }
  if (size === undefined)
    throw new InvalidSpecError('spec.size', 'This field is required. Give it, such as 10Gi.')
  if (command !== undefined && filesystem) {
    throw new InvalidSpecError(
      'spec.filesystem',
      'Remove it, or remove spec.command: they exclude each other.',
    )
  }
  if (variables && command === undefined) {
    throw new InvalidSpecError(
      'spec.variables',
      'Remove it, or give spec.command, which alone uses variables.',
    )
  }
}

function checkVariables({ variables = {} }: UncheckedSpec): void {
  for (const name of Object.keys(variables)) {
    const field = `spec.variables[${quote(name)}]`
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) {
      throw new InvalidSpecError(field, 'Name it by letters, digits and "_", not beginning with a digit.')
    }
    if (name === 'disk') {
      throw new InvalidSpecError(field, 'Use another name: $disk is the path that the command has to create.')
    }
  }
}

/**
 * Checks the access rules of a disk or a pool.
 * @throws InvalidSpecError
 */
export function checkAccess({ access }: { readonly access: Pick<AccessSpec, 'allow' | 'deny'> }): void {
  try {
    compileAccessRules(access)
  } catch (error) {
    if (!(error instanceof AccessRuleError)) throw error
    throw new InvalidSpecError(`spec.access.${error.field}`, error.reason, { cause: error })
  }
}

function resolveExportName(exportName: string | undefined, objectName: string, names: NameRules): string {
  try {
    return parseExportName(exportName ?? objectName, names)
  } catch (error) {
    if (!(error instanceof ExportNameError)) throw error
    const hint = exportName === undefined ? ' Give one: by default it is metadata.name.' : ''
    throw new InvalidSpecError('spec.exportName', error.message + hint, { cause: error })
  }
}

function resolveFilesystem(spec: UncheckedSpec): FilesystemSpec | undefined {
  const { filesystem, command, upstream, source } = spec
  if (!filesystem) return command === undefined && !upstream && !source ? { type: 'ext4' } : undefined
  const { type, label, mkfsOptions } = filesystem
  const problem = label === undefined ? undefined : labelProblem(type, label)
  if (problem) throw new InvalidSpecError('spec.filesystem.label', problem)
  // Without options and with an empty list of them are the same filesystem.
  const { mkfsOptions: _, ...rest } = filesystem
  return mkfsOptions?.length ? filesystem : rest
}

/**
 * Limits with their quantities as bytes a second.
 * @throws InvalidSpecError
 */
export function resolveLimits({
  readBytesPerSecond,
  writeBytesPerSecond,
  iops,
}: UncheckedSpec['limits']): LimitsSpec {
  return {
    ...(readBytesPerSecond !== undefined && {
      readBytesPerSecond: resolveBytes('spec.limits.readBytesPerSecond', readBytesPerSecond),
    }),
    ...(writeBytesPerSecond !== undefined && {
      writeBytesPerSecond: resolveBytes('spec.limits.writeBytesPerSecond', writeBytesPerSecond),
    }),
    ...(iops !== undefined && { iops }),
  }
}

/**
 * A quantity as bytes.
 * @throws InvalidSpecError naming the field
 */
export function resolveBytes(field: string, quantity: string | number, allowZero = false): number {
  try {
    return parseQuantity(quantity, { allowZero })
  } catch (error) {
    if (!(error instanceof SizeError)) throw error
    throw new InvalidSpecError(field, error.message, { cause: error })
  }
}
