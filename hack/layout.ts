/**
 * The rules of the repository's layout, as pure functions over file names and texts. Each returns what
 * breaks its rule, one line each, and nothing where all is well.
 */

/** A file of the repository: its path from the top, and its text. */
export interface SourceFile {
  readonly path: string
  readonly text: string
}

/** A row of the table in docs/architecture.md: a folder, and the folders that it may import from. */
export interface LayerRule {
  readonly folder: string
  readonly mayImport: readonly string[]
}

/** A source file may not be longer than this. */
const LONGEST_FILE = 400

/** What stands at the top of the repository, dotfiles aside; tools want the last five there. */
const TOP_LEVEL = [
  ...['crds', 'docs', 'e2e', 'hack', 'helm', 'operator', 'server'],
  ...['Dockerfile', 'LICENSE', 'README.md', 'package.json', 'tsconfig.json'],
  ...['CHANGELOG.md', 'CONTRIBUTING.md', 'biome.json', 'package-lock.json', 'vitest.config.ts'],
]

/**
 * Hosts that packages come from. A checkout must not prefer one: which is used is the machine's setting.
 * Written in pieces, so that this file keeps its own rule.
 */
const REGISTRY_HOSTS = [
  ...['npmjs', 'yarnpkg', 'npmmirror', 'pypi', 'crates', 'rubygems', 'ghcr', 'quay', 'gcr', 'jsr'],
  ...['deb.debian', 'ftp.debian', 'security.debian', 'snapshot.debian', 'proxy.golang', 'pkg.github'],
  ...['registry-1.docker', 'index.docker', 'hub.docker', 'mcr.microsoft', 'public.ecr', 'registry.k8s'],
]
const REGISTRY = new RegExp(
  `\\b(?:${REGISTRY_HOSTS.map(host => host.replace('.', '\\.')).join('|')})\\.(?:org|com|io|aws)\\b`,
  'i',
)

/**
 * Reads the table of docs/architecture.md whose second heading is "may import from". Folders stand in
 * backquotes, in the first column from the top, in the last also without the leading `server/`.
 * `all of the above` means every earlier row.
 */
export function layerRules(page: string): LayerRule[] {
  const rules: LayerRule[] = []
  let inTable = false
  for (const line of page.split('\n')) {
    const cells = line.split('|').slice(1, -1)
    if (cells.length === 0) inTable = false
    else if (cells.at(-1)?.trim() === 'may import from') inTable = true
    else if (inTable && !/^[\s|:-]+$/.test(line)) {
      const folders = quotedNames(cells[0] ?? '')
      const earlier = rules.map(rule => rule.folder)
      const last = cells.at(-1) ?? ''
      const named = quotedNames(last).map(name => (earlier.includes(name) ? name : `server/${name}`))
      for (const name of named)
        if (!earlier.includes(name))
          throw new Error(`The table lets ${folders} import from ${name}, which is not an earlier row`)
      const mayImport = [...(last.includes('all of the above') ? earlier : []), ...named]
      for (const folder of folders) rules.push({ folder, mayImport })
    }
  }
  return rules
}

/** The names in backquotes, without a slash at the end. */
const quotedNames = (cell: string): string[] =>
  [...cell.matchAll(/`([^`]+)`/g)].map(([, name = '']) => name.replace(/\/$/, ''))

/** What a TypeScript file imports, in the order of the text: `import`, `export from` and `import()`. */
export function importsOf(text: string): string[] {
  const code = text.replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '')
  const statement = /^\s*(?:import|export)\b(?:[^'"`;=]*?\bfrom)?\s*['"]([^'"\n]+)['"]/.source
  const call = /\bimport\(\s*['"`]([^'"`\n]+)['"`]/.source
  return [...code.matchAll(new RegExp(`${statement}|${call}`, 'gm'))].map(match => match[1] ?? match[2] ?? '')
}

/**
 * Holds the import statements of all files against the table. An import from the same folder is always
 * right; a file directly in a folder that only holds rows (`server/main.ts`) starts a program and may
 * import from every row below that folder.
 */
export function forbiddenImports(files: readonly SourceFile[], rules: readonly LayerRule[]): string[] {
  const folders = rules.map(({ folder }) => folder)
  const layerOf = (path: string) => layerAmong(folders, path)
  const broken: string[] = []
  for (const { path, text } of files) {
    if (!path.endsWith('.ts') || !path.includes('/')) continue
    const own = layerOf(path)
    const parent = `${path.slice(0, path.lastIndexOf('/'))}/`
    const starts = own === undefined && rules.some(({ folder }) => folder.startsWith(parent))
    if (own === undefined && !starts) {
      broken.push(`${path} is in no folder that docs/architecture.md names`)
      continue
    }
    const allowed = rules.find(({ folder }) => folder === own)?.mayImport ?? []
    for (const specifier of importsOf(text)) {
      if (!specifier.startsWith('.') && !specifier.startsWith('/')) continue
      const target = resolve(path, specifier)
      const layer = layerOf(target)
      // The version that a program tells stands there.
      const anyone = target === 'package.json'
      const below = starts && target.startsWith(parent)
      const fine = anyone || below || (layer !== undefined && (layer === own || allowed.includes(layer)))
      if (!fine) broken.push(`${path} imports ${specifier}, which ${own ?? 'it'} may not import from`)
    }
  }
  return broken
}

/** The folder that a file belongs to: of those that hold it the innermost. */
const layerAmong = (folders: readonly string[], path: string): string | undefined =>
  folders
    .filter(folder => path.startsWith(`${folder}/`))
    .reduce<string | undefined>(
      (inner, folder) => (folder.length > (inner?.length ?? 0) ? folder : inner),
      undefined,
    )

/** The path that a relative specifier means, seen from the file that imports it. */
function resolve(from: string, specifier: string): string {
  const parts = from.split('/').slice(0, -1)
  for (const part of specifier.split('/')) {
    if (part === '..') parts.pop()
    else if (part !== '.') parts.push(part)
  }
  return parts.join('/')
}

/** Folders that import from each other in a circle, by the real imports: `a -> b -> a`. */
export function folderCycles(files: readonly SourceFile[], folders: readonly string[]): string[] {
  const layerOf = (path: string) => layerAmong(folders, path)
  const edges = new Map<string, Set<string>>(folders.map(folder => [folder, new Set()]))
  for (const { path, text } of files) {
    const own = path.endsWith('.ts') ? layerOf(path) : undefined
    if (own === undefined) continue
    for (const specifier of importsOf(text)) {
      const target = specifier.startsWith('.') ? layerOf(resolve(path, specifier)) : undefined
      if (target !== undefined && target !== own) edges.get(own)?.add(target)
    }
  }
  const cycles: string[] = []
  const done = new Set<string>()
  const walk = (folder: string, trail: readonly string[]) => {
    const start = trail.indexOf(folder)
    if (start >= 0) cycles.push([...trail.slice(start), folder].join(' -> '))
    else if (!done.has(folder)) {
      for (const next of edges.get(folder) ?? []) walk(next, [...trail, folder])
      done.add(folder)
    }
  }
  for (const folder of folders) walk(folder, [])
  return cycles
}

/** Source files that are too long to hold one idea. Tests are exempt. */
export const longFiles = (files: readonly SourceFile[]): string[] =>
  files
    .filter(({ path, text }) => isProgram(path, text) && !/\.(?:test|e2e)\.ts$/.test(path))
    .map(({ path, text }) => ({ path, lines: text.split('\n').length - 1 }))
    .filter(({ lines }) => lines > LONGEST_FILE)
    .map(({ path, lines }) => `${path} has ${lines} lines, more than ${LONGEST_FILE}`)

const isProgram = (path: string, text: string): boolean =>
  path.endsWith('.ts') || path.endsWith('.sh') || text.startsWith('#!')

/** Files with a default export; the configuration of vitest, which wants one, is exempt. */
export const defaultExports = (files: readonly SourceFile[]): string[] =>
  files
    .filter(({ path }) => path.endsWith('.ts') && path !== 'vitest.config.ts')
    .filter(({ text }) => /^export\s+default\b|^export\s*\{[^}]*\bas\s+default\b/m.test(text))
    .map(({ path }) => `${path} has a default export`)

/** Files that name the host of a package registry. */
export const registryNames = (files: readonly SourceFile[]): string[] =>
  files.flatMap(({ path, text }) => {
    const host = REGISTRY.exec(text)?.[0]
    return host === undefined ? [] : [`${path} names ${host}`]
  })

/** Lock files that say where a package was downloaded. */
export const resolvedPackages = (files: readonly SourceFile[]): string[] =>
  files
    .filter(({ path, text }) => path.endsWith('package-lock.json') && text.includes('"resolved"'))
    .map(({ path }) => `${path} has "resolved" fields`)

/** Names at the top of the repository that the layout does not know. Dotfiles are free. */
export const strayNames = (files: readonly SourceFile[]): string[] =>
  [...new Set(files.map(({ path }) => path.split('/', 1)[0] ?? ''))]
    .filter(name => !name.startsWith('.') && !TOP_LEVEL.includes(name))
    .map(name => `${name} does not belong at the top of the repository`)
