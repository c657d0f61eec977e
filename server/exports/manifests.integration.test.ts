import { execFileSync } from 'node:child_process'
import {
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { createManifestReader, MAX_FILE_SIZE } from './manifest-directory.ts'
import {
  type ManifestState,
  type Manifests,
  ManifestsError,
  type ManifestsOptions,
  watchManifests,
} from './manifests.ts'

let directory: string
let running: Manifests | undefined
let states: ManifestState[]
let errors: ManifestsError[]

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'manifests-'))
  states = []
  errors = []
})

afterEach(async () => {
  await running?.close()
  running = undefined
  rmSync(directory, { recursive: true, force: true })
})

async function follow(options: Partial<ManifestsOptions> = {}): Promise<Manifests> {
  running = await watchManifests(directory, {
    onChange: state => states.push(state),
    onError: error => errors.push(error),
    ...options,
  })
  return running
}

const manifest = (name: string, spec = 'size: 2Ki') =>
  `apiVersion: ondemanddisk.dev/v1alpha1\nkind: OnDemandDisk\nmetadata:\n  name: ${name}\nspec:\n  ${spec}\n`

const write = (file: string, text: string | Buffer) => writeFileSync(join(directory, file), text)

/** `name size`, with `!` where the file is wrong. */
function disks(state = running?.state): string[] {
  return [...(state?.disks ?? [])]
    .map(([name, { disk, invalid }]) => `${name} ${disk.spec.size}${invalid ? ' !' : ''}`)
    .sort()
}

const problems = (state = running?.state) =>
  state?.problems.map(({ file, error }) => `${file}: ${error.message}`) ?? []

/** Waits until something is so; returns the milliseconds that it took. */
async function until(holds: () => boolean, limit = 2000): Promise<number> {
  const start = performance.now()
  while (!holds()) {
    if (performance.now() - start > limit) expect.unreachable(`still ${disks()} ${problems()} ${errors}`)
    await sleep(5)
  }
  return performance.now() - start
}

const PROMPT = 500

describe('at start', () => {
  test('every manifest is read before the function resolves', async () => {
    write('a.yaml', manifest('a'))
    write('b.yml', `${manifest('b')}---\n${manifest('c', 'size: 4Ki')}`)
    write(
      'd.json',
      JSON.stringify({
        apiVersion: 'ondemanddisk.dev/v1alpha1',
        kind: 'OnDemandDisk',
        metadata: { name: 'd' },
        spec: { size: 1 },
      }),
    )
    await follow()
    expect(disks()).toEqual(['a 2048', 'b 2048', 'c 4096', 'd 1'])
    expect(states).toHaveLength(1)
    expect(states[0]).toBe(running?.state)
  })

  test('an empty directory is fine, and is told', async () => {
    await follow()
    expect(states.map(state => state.disks.size)).toEqual([0])
  })

  test('hidden and other files are left alone', async () => {
    for (const name of ['.a.yaml', 'a.yaml~', 'a.yaml.swp', 'README', 'a.txt', '.yaml', '#a.yaml#'])
      write(name, '{')
    await follow()
    expect([disks(), problems()]).toEqual([[], []])
  })

  test('a bad file is reported and disturbs no other', async () => {
    write('bad-yaml.yaml', manifest('a').replace('  name', '\t name'))
    write('cidr.yaml', manifest('cidr', 'size: 1Ki\n  access: {allow: [10.0.0/8]}'))
    write('empty.yaml', '')
    write('good.yaml', manifest('good'))
    write('large.yaml', Buffer.alloc(MAX_FILE_SIZE + 1, '#'))
    write('unknown.yaml', manifest('unknown', 'size: 1Ki\n  sice: 2Ki'))
    mkdirSync(join(directory, 'folder.yaml'))
    execFileSync('mkfifo', [join(directory, 'pipe.yaml')])
    symlinkSync('nowhere', join(directory, 'link.yaml'))
    await follow()
    expect(disks()).toEqual(['good 2048'])
    expect([...(running?.state.refused.keys() ?? [])].sort()).toEqual(['cidr', 'unknown'])
    expect(problems()).toEqual([
      expect.stringMatching(/^bad-yaml\.yaml: Line 4: the YAML is broken/),
      expect.stringMatching(/^cidr\.yaml: spec\.access\.allow\[0\]: "10\.0\.0\/8"/),
      expect.stringMatching(/^empty\.yaml: The file holds no object/),
      expect.stringMatching(/^folder\.yaml: Only a regular file/),
      expect.stringMatching(/^large\.yaml: .*1048577 bytes/),
      expect.stringMatching(/^link\.yaml: The file cannot be read \(ENOENT\)/),
      expect.stringMatching(/^pipe\.yaml: Only a regular file/),
      expect.stringMatching(/^unknown\.yaml: spec\.sice: Unknown field/),
    ])
    expect(running?.state.problems[0]?.line).toBe(4)
  })

  test('a file that cannot be opened is reported', async () => {
    symlinkSync('a.yaml', join(directory, 'a.yaml'))
    await follow()
    expect(problems()).toEqual(['a.yaml: The file cannot be read (ELOOP).'])
  })

  test.each([
    ['is not there', 'nowhere', /^--disks: .*nowhere cannot be followed: it does not exist/],
    ['is a file', 'file', /^--disks: .*file cannot be followed: it is not a directory/],
  ])('a directory that %s is an error that names it', async (_, name, message) => {
    write('file', '')
    const opening = watchManifests(join(directory, name), { onChange() {}, onError() {} })
    await expect(opening).rejects.toThrow(ManifestsError)
    await expect(opening).rejects.toThrow(message)
    await expect(opening).rejects.toMatchObject({ code: 'ManifestsUnreadable' })
  })

  test('no more files are read than the limit, known ones first, and the rest is told', async () => {
    const reader = createManifestReader(directory, { maxFiles: 2 })
    const read = async () =>
      (await reader.read()).map(({ name, documents: [first] }) => [name, first?.content])
    const told = expect.objectContaining({ message: expect.stringContaining('and 1 more are not read') })
    for (const name of ['b', 'd', 'e', 'f']) write(`${name}.yaml`, manifest(name))
    expect(await read()).toEqual([
      ['b.yaml', expect.objectContaining({ kind: 'OnDemandDisk' })],
      ['d.yaml', expect.objectContaining({ kind: 'OnDemandDisk' })],
      ['e.yaml', told],
    ])
    write('a.yaml', manifest('a'))
    unlinkSync(join(directory, 'e.yaml'))
    expect((await read()).map(([name]) => name)).toEqual(['b.yaml', 'd.yaml', 'a.yaml'])
    expect((await reader.read(new Set(['c.yaml']))).map(({ name }) => name)).toEqual([
      'b.yaml',
      'd.yaml',
      'a.yaml',
    ])
    unlinkSync(join(directory, 'b.yaml'))
    expect((await read()).map(([name]) => name)).toEqual(['a.yaml', 'd.yaml', 'f.yaml'])
  })

  test('relaxed names are for those who ask for them', async () => {
    write('a.yaml', manifest('host.example.org'))
    await follow()
    expect(problems()).toEqual([expect.stringMatching(/must not hold "\."/)])
    await running?.close()
    await follow({ names: 'relaxed' })
    expect(disks()).toEqual(['host.example.org 2048'])
  })
})

describe('a change', () => {
  test('is seen within half a second: a new file, a change, a rename, a deletion', async () => {
    await follow()
    write('a.yaml', manifest('a'))
    expect(await until(() => disks().join() === 'a 2048')).toBeLessThan(PROMPT)
    write('a.yaml', manifest('a', 'size: 4Ki'))
    expect(await until(() => disks().join() === 'a 4096')).toBeLessThan(PROMPT)
    renameSync(join(directory, 'a.yaml'), join(directory, 'b.yaml'))
    expect(await until(() => running?.state.disks.get('a')?.file === 'b.yaml')).toBeLessThan(PROMPT)
    unlinkSync(join(directory, 'b.yaml'))
    expect(await until(() => disks().length === 0)).toBeLessThan(PROMPT)
    expect(states.map(state => disks(state).join())).toEqual(['', 'a 2048', 'a 4096', 'a 4096', ''])
  })

  test('by a file that is renamed into place is seen', async () => {
    write('a.yaml', manifest('a'))
    await follow()
    write('.new', manifest('a', 'size: 4Ki'))
    renameSync(join(directory, '.new'), join(directory, 'a.yaml'))
    expect(await until(() => disks().join() === 'a 4096')).toBeLessThan(PROMPT)
  })

  test('is seen though other files change all the time', async () => {
    await follow()
    write('a.yaml', manifest('a'))
    const noise = setInterval(() => write('noise.yaml', manifest('noise', `size: ${Date.now()}`)), 5)
    try {
      expect(await until(() => running?.state.disks.has('a') === true)).toBeLessThan(PROMPT)
    } finally {
      clearInterval(noise)
    }
  })

  test('keeps the objects of all other disks, so that nobody takes them for changed', async () => {
    write('a.yaml', manifest('a'))
    write('b.yaml', manifest('b'))
    await follow()
    write('a.yaml', manifest('a', 'readOnly: true\n  size: 2Ki'))
    await until(() => states.length === 2)
    const [before, after] = states
    expect(after?.disks.get('b')?.disk).toBe(before?.disks.get('b')?.disk)
    expect(after?.disks.get('a')?.disk.spec.readOnly).toBe(true)
  })

  test('of nothing but the time stamp is told to nobody', async () => {
    write('a.yaml', manifest('a'))
    await follow({ rescanInterval: 20 })
    for (let index = 0; index < 5; index += 1) {
      utimesSync(join(directory, 'a.yaml'), index, index)
      await sleep(60)
    }
    expect(states).toHaveLength(1)
  })

  test('that keeps length and time stamp is seen', async () => {
    write('a.yaml', manifest('a', 'size: 2Ki'))
    utimesSync(join(directory, 'a.yaml'), 1, 1)
    await follow()
    write('a.yaml', manifest('a', 'size: 4Ki'))
    utimesSync(join(directory, 'a.yaml'), 1, 1)
    await until(() => disks().join() === 'a 4096')
  })

  test('that shrinks a disk is refused, and the disk stays as it was', async () => {
    write('a.yaml', manifest('a'))
    await follow()
    write('a.yaml', manifest('a', 'size: 1Ki'))
    expect(await until(() => disks().join() === 'a 2048 !')).toBeLessThan(PROMPT)
    expect(problems()).toEqual([expect.stringMatching(/^a\.yaml: spec\.size: A disk cannot shrink/)])
    write('a.yaml', manifest('a', 'size: 2049'))
    expect(await until(() => disks().join() === 'a 2049')).toBeLessThan(PROMPT)
    expect(problems()).toEqual([])
  })

  test('to a name that another file has is refused, until that file is gone', async () => {
    write('b.yaml', manifest('b', 'exportName: x\n  size: 2Ki'))
    await follow()
    write('a.yaml', manifest('a', 'exportName: x\n  size: 4Ki'))
    await until(() => problems().length === 1)
    expect(problems()).toEqual([expect.stringMatching(/^a\.yaml: spec\.exportName: .* b\.yaml/)])
    expect(disks()).toEqual(['x 2048'])
    unlinkSync(join(directory, 'b.yaml'))
    expect(await until(() => disks().join() === 'x 4096')).toBeLessThan(PROMPT)
    expect(problems()).toEqual([])
  })
})

describe('a live disk', () => {
  beforeEach(async () => {
    write('a.yaml', manifest('a'))
    await follow({ rescanInterval: 100 })
  })

  test('never vanishes while its file is written in place, piece by piece', async () => {
    const text = manifest('a', 'size: 4Ki')
    for (let length = 0; length <= text.length; length += 8) {
      write('a.yaml', text.slice(0, length))
      await sleep(60)
    }
    write('a.yaml', text)
    await until(() => disks().join() === 'a 4096')
    for (const state of states) expect(state.disks.has('a')).toBe(true)
  }, 20_000)

  test('stays, marked, when its file is emptied for good', async () => {
    truncateSync(join(directory, 'a.yaml'))
    await until(() => disks().join() === 'a 2048 !')
    expect(running?.state.disks.get('a')?.invalid?.message).toMatch(/holds no object/)
    await sleep(400)
    expect(disks()).toEqual(['a 2048 !'])
  })

  test('stays when an editor takes its file away for a moment', async () => {
    for (let round = 0; round < 5; round += 1) {
      renameSync(join(directory, 'a.yaml'), join(directory, 'a.yaml~'))
      await sleep(60)
      write('a.yaml', manifest('a', `size: ${4096 + round}`))
      await sleep(120)
    }
    await until(() => disks().join() === 'a 4100')
    for (const state of states) expect(state.disks.has('a')).toBe(true)
  })

  test('stays when its file becomes a directory or a link to nowhere', async () => {
    unlinkSync(join(directory, 'a.yaml'))
    mkdirSync(join(directory, 'a.yaml'))
    await until(() => disks().join() === 'a 2048 !')
    rmSync(join(directory, 'a.yaml'), { recursive: true })
    symlinkSync('nowhere', join(directory, 'a.yaml'))
    await until(() => problems().join().includes('ENOENT'))
    expect(disks()).toEqual(['a 2048 !'])
  })
})

describe('symlinks', () => {
  test('a volume of a ConfigMap changes as a whole, and at once', async () => {
    const version = (name: string, text: string) => {
      mkdirSync(join(directory, name))
      write(`${name}/a.yaml`, text)
    }
    version('..1', manifest('a'))
    symlinkSync('..1', join(directory, '..data'))
    symlinkSync('..data/a.yaml', join(directory, 'a.yaml'))
    await follow()
    expect(disks()).toEqual(['a 2048'])
    version('..2', manifest('a', 'size: 4Ki'))
    symlinkSync('..2', join(directory, '..data_tmp'))
    renameSync(join(directory, '..data_tmp'), join(directory, '..data'))
    expect(await until(() => disks().join() === 'a 4096')).toBeLessThan(PROMPT)
  })

  test('a change in a place without events is seen by looking again', async () => {
    mkdirSync(join(directory, 'elsewhere'))
    write('elsewhere/text', manifest('a'))
    symlinkSync('elsewhere/text', join(directory, 'a.yaml'))
    await follow({ rescanInterval: 100 })
    await sleep(300)
    write('elsewhere/text', manifest('a', 'size: 4Ki'))
    await until(() => disks().join() === 'a 4096')
    expect(states).toHaveLength(2)
  })
})

describe('the directory', () => {
  test('that vanishes keeps the last state and is reported once; a new one is followed again', async () => {
    write('a.yaml', manifest('a'))
    await follow({ rescanInterval: 1e6 })
    renameSync(directory, `${directory}-away`)
    try {
      await until(() => errors.length === 1)
      await sleep(500)
      expect(errors.map(({ message }) => message)).toEqual([expect.stringContaining(directory)])
      expect(disks()).toEqual(['a 2048'])
      mkdirSync(directory)
      write('a.yaml', manifest('a', 'size: 4Ki'))
      await until(() => disks().join() === 'a 4096')
      write('b.yaml', manifest('b'))
      expect(await until(() => running?.state.disks.has('b') === true)).toBeLessThan(PROMPT)
      rmSync(directory, { recursive: true })
      await until(() => errors.length === 2)
    } finally {
      rmSync(`${directory}-away`, { recursive: true })
    }
  })

  test('is left alone after close, though something has just changed', async () => {
    const manifests = await follow({ rescanInterval: 20 })
    write('a.yaml', manifest('a'))
    await sleep(30)
    await manifests.close()
    const told = states.length
    write('b.yaml', manifest('b'))
    await sleep(300)
    expect(states).toHaveLength(told)
    expect(errors).toEqual([])
  })

  test('leaves no descriptor open', async () => {
    const open = () =>
      execFileSync('ls', [`/proc/${process.pid}/fd`], { encoding: 'utf8' }).split('\n').length
    write('a.yaml', manifest('a'))
    write('b.yaml', 'broken: {')
    await (await follow({ rescanInterval: 10 })).close()
    const before = open()
    for (let round = 0; round < 10; round += 1) {
      const manifests = await follow({ rescanInterval: 10 })
      await sleep(20)
      await manifests.close()
    }
    await until(() => open() <= before)
  })

  test('of many files is looked at again without reading them', async () => {
    for (let index = 0; index < 1000; index += 1) write(`${index}.yaml`, manifest(`disk-${index}`))
    await sleep(150)
    await follow({ rescanInterval: 1e6 })
    const start = performance.now()
    write('1.yaml', manifest('disk-1', 'size: 4Ki'))
    await until(() => running?.state.disks.get('disk-1')?.disk.spec.size === 4096)
    expect(performance.now() - start).toBeLessThan(PROMPT)
    expect(states).toHaveLength(2)
  })
})

test('an error of the one who is told is reported, and the directory is followed on', async () => {
  let told = 0
  await follow({
    onChange() {
      told += 1
      if (told === 2) throw new Error('No more memory.')
    },
  })
  write('a.yaml', manifest('a'))
  await until(() => errors.length === 1)
  expect(errors[0]?.message).toContain('No more memory.')
  write('b.yaml', manifest('b'))
  await until(() => told === 3)
})
