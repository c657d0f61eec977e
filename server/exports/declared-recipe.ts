/** How a declared disk is made, as its spec says it. */
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

/** Is the disk a file of the directory? That never changes. */
export const hasFile = ({ mode, upstream }: OnDemandDiskSpec) =>
  mode === 'Persistent' && upstream === undefined
