/** How a declared disk is made, as its spec says it. */
import { isDeepStrictEqual } from 'node:util'
import type { OnDemandDiskSpec } from '../../crds/ondemanddisk.ts'
import type { RecipeError, RecipeOption } from '../backends/disks/errors.ts'
import type { Recipe } from '../backends/disks/recipe.ts'

/** A disk that is to be a copy must never be formatted instead. */
const NO_COPY =
  'echo "spec.source: Copies are made in Kubernetes, by the agent of the pool. Remove it, or make the file yourself." >&2; exit 1'

/** The recipe of a disk that is a file. */
export function recipeOf({ filesystem, command, variables, source }: OnDemandDiskSpec): Recipe {
  if (source !== undefined) return { command: NO_COPY }
  if (command !== undefined) return { command, ...(variables !== undefined && { variables }) }
  const { type, label, mkfsOptions } = filesystem ?? { type: 'ext4' }
  return { type, ...(label !== undefined && { label }), ...(mkfsOptions !== undefined && { mkfsOptions }) }
}

/** Where a manifest says what the command line says by an option. */
const FIELDS: Readonly<Record<RecipeOption, string>> = {
  type: 'spec.filesystem.type',
  label: 'spec.filesystem.label',
  'mkfs-options': 'spec.filesystem.mkfsOptions',
  command: 'spec.command',
  var: 'spec.variables',
  size: 'spec.size',
}

/** What is wrong with a recipe, by the name of the spec's field. */
export function recipeProblem({ option, problem }: RecipeError): string {
  return `${FIELDS[option]}: ${problem}.`
}

/** Are these made in the same way? All other fields are terms of the export, which hold at once. */
export function areMadeAlike(one: OnDemandDiskSpec | undefined, other: OnDemandDiskSpec): boolean {
  if (one === undefined) return false
  const keys = ['mode', 'size', 'filesystem', 'command', 'variables', 'upstream'] as const
  return keys.every(key => isDeepStrictEqual(one[key], other[key]))
}

/** A disk that exists is served also where it could not be made; one that has to be made then says why it cannot be. */
export const failing = (reason: string): Recipe => ({
  command: 'printf "%s\\n" "$reason" >&2; exit 1',
  variables: { reason },
})
