import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { InvalidSpecError, parseOnDemandDisk } from '../../crds/ondemanddisk.ts'
import { type ManifestDocument, unreadable } from './manifest-file.ts'
import {
  EMPTY_SET,
  isSameState,
  type ManifestFile,
  type ManifestSet,
  type ManifestState,
  MISSING_GRACE,
  nextSet,
} from './manifest-set.ts'

interface Wanted {
  name: string
  exportName?: string
  size?: number
  uid?: string
}

const good = ({ name, exportName, size = 2048, uid }: Wanted): ManifestDocument => {
  const disk = parseOnDemandDisk({
    apiVersion: 'ondemanddisk.dev/v1alpha1',
    kind: 'OnDemandDisk',
    metadata: { name, ...(uid && { uid }) },
    spec: { size, ...(exportName && { exportName }) },
  })
  return { line: 1, object: `/${name}`, exportName: disk.spec.exportName, content: disk }
}

const bad = (name: string, exportName = name): ManifestDocument => ({
  line: 1,
  object: `/${name}`,
  exportName,
  content: new InvalidSpecError('spec.size', 'It is wrong.'),
})

const file = (name: string, ...documents: ManifestDocument[]): ManifestFile => ({ name, documents })

/** Lets sets follow each other, a second apart unless told. */
function play(...steps: ManifestFile[][]): ManifestSet {
  return steps.reduce((set, files, index) => nextSet(set, files, index * 1000), EMPTY_SET)
}

/** The state in short: `name: file size` with `!` where the file is wrong, and the problems. */
function show({ disks, refused, problems }: ManifestState) {
  const lines = [...disks].map(
    ([name, { disk, file, invalid }]) => `${name}: ${file} ${disk.spec.size}${invalid ? ' !' : ''}`,
  )
  return {
    disks: lines.sort(),
    refused: [...refused.keys()].sort(),
    problems: problems.map(({ file, error }) => `${file} ${error.field || error.message}`),
  }
}

test('good files are disks, under their export names', () => {
  const set = play([
    file('1', good({ name: 'a' }), good({ name: 'b', exportName: 'x' })),
    file('2', good({ name: 'c' })),
  ])
  expect(show(set)).toEqual({ disks: ['a: 1 2048', 'c: 2 2048', 'x: 1 2048'], refused: [], problems: [] })
})

describe('a file that turns bad', () => {
  test('leaves its disk as it was', () => {
    const set = play(
      [file('1', good({ name: 'a' })), file('2', good({ name: 'b' }))],
      [file('1', bad('a')), file('2')],
    )
    expect(show(set)).toEqual({ disks: ['a: 1 2048 !', 'b: 2 2048'], refused: [], problems: ['1 spec.size'] })
    expect(set.disks.get('a')?.invalid?.field).toBe('spec.size')
  })

  test('leaves all its disks as they were, if nothing of it can be read', () => {
    const set = play(
      [file('1', good({ name: 'a' }), good({ name: 'b' }))],
      [file('1', unreadable('It is empty.'))],
    )
    expect(show(set)).toEqual({
      disks: ['a: 1 2048 !', 'b: 1 2048 !'],
      refused: [],
      problems: ['1 It is empty.'],
    })
  })

  test('leaves disks that have got lost in it', () => {
    const cut = play([file('1', good({ name: 'disk' }))], [file('1', bad('dis'))], [file('1', bad('dis'))])
    expect(show(cut)).toEqual({ disks: ['disk: 1 2048 !'], refused: ['dis'], problems: ['1 spec.size'] })
  })

  test('is as if nothing had been, once it is good again', () => {
    const before = [file('1', good({ name: 'a' }))]
    const set = play(before, [file('1', unreadable('It is empty.'))], [file('1', good({ name: 'a' }))])
    expect(isSameState(set, play(before))).toBe(true)
    expect(show(set)).toEqual(show(play(before)))
    expect(set.disks.get('a')?.disk).toBe(before[0]?.documents[0]?.content)
  })

  test('keeps the name of a disk that was never good from being made on demand', () => {
    const set = play([file('1', bad('a', 'x'), unreadable('It is broken.'))])
    expect(show(set)).toEqual({ disks: [], refused: ['x'], problems: ['1 spec.size', '1 It is broken.'] })
    expect(set.refused.get('x')?.message).toBe('spec.size: It is wrong.')
  })
})

describe('a change', () => {
  const from = [file('1', good({ name: 'a' }))]

  test('that grows the disk is taken', () => {
    expect(show(play(from, [file('1', good({ name: 'a', size: 4096 }))])).disks).toEqual(['a: 1 4096'])
  })

  test('that shrinks it is refused against the last good spec, however often', () => {
    const shrunk = [file('1', good({ name: 'a', size: 1024 }))]
    const set = play(from, shrunk, shrunk, [file('1', bad('a'))], shrunk)
    expect(show(set)).toEqual({ disks: ['a: 1 2048 !'], refused: [], problems: ['1 spec.size'] })
  })

  test('of the export name is refused', () => {
    const set = play(from, [file('1', good({ name: 'a', exportName: 'b' }))])
    expect(show(set)).toEqual({ disks: ['a: 1 2048 !'], refused: ['b'], problems: ['1 spec.exportName'] })
  })

  test('is no change of a disk that Kubernetes has deleted and made again', () => {
    const old = [file('1', good({ name: 'a', uid: '1' }))]
    expect(show(play(old, [file('1', good({ name: 'a', uid: '2', size: 1024 }))])).disks).toEqual([
      'a: 1 1024',
    ])
    const renamed = [file('1', good({ name: 'a', uid: '2', exportName: 'b' }))]
    expect(show(play(old, renamed))).toEqual({ disks: ['b: 1 2048'], refused: [], problems: [] })
  })
})

describe('a disk that is in no file', () => {
  const files = [file('1', good({ name: 'a' }), good({ name: 'b' }))]

  test('is gone after the grace, not before', () => {
    const first = nextSet(play(files), [], 5000)
    expect(show(first).disks).toEqual(['a: 1 2048', 'b: 1 2048'])
    expect(isSameState(first, play(files))).toBe(true)
    const second = nextSet(first, [], 5000 + MISSING_GRACE - 1)
    expect(second.disks.size).toBe(2)
    expect(nextSet(second, [], 5000 + MISSING_GRACE).disks.size).toBe(0)
  })

  test('stays if it comes back in time, and has its whole grace the next time', () => {
    const back = nextSet(nextSet(play(files), [], 5000), files, 5050)
    expect(back.missing.size).toBe(0)
    expect(nextSet(back, [], 5000 + MISSING_GRACE).disks.size).toBe(2)
  })

  test('is gone although its file is still there with others', () => {
    const left = [file('1', good({ name: 'b' }))]
    const set = nextSet(nextSet(play(files), left, 5000), left, 5000 + MISSING_GRACE)
    expect(show(set)).toEqual({ disks: ['b: 1 2048'], refused: [], problems: [] })
  })

  test('is not gone when its file is renamed', () => {
    const set = play(files, [file('2', good({ name: 'a' }), good({ name: 'b', size: 4096 }))])
    expect(show(set)).toEqual({ disks: ['a: 2 2048', 'b: 2 4096'], refused: [], problems: [] })
  })

  test('can be made anew afterwards, smaller', () => {
    const small = [file('1', good({ name: 'a', size: 1024 }))]
    expect(show(play(files, [], [], small)).disks).toEqual(['a: 1 1024'])
  })
})

describe('one export name in two files', () => {
  const a = file('a', good({ name: 'a', exportName: 'x' }))
  const b = file('b', good({ name: 'b', exportName: 'x', size: 4096 }))

  test('goes to the first by file name', () => {
    expect(show(play([a, b]))).toEqual({ disks: ['x: a 2048'], refused: [], problems: ['b spec.exportName'] })
    expect(play([a, b]).problems[0]?.error.message).toMatch(/already used by a\b/)
  })

  test('stays with the one that has it', () => {
    const expected = { disks: ['x: b 4096'], refused: [], problems: ['a spec.exportName'] }
    expect(show(play([b], [a, b], [a, b]))).toEqual(expected)
  })

  test('stays with the one that has it, even when its file turns bad', () => {
    const set = play([b], [a, b], [a, file('b', unreadable('It is empty.'))])
    expect(show(set)).toEqual({
      disks: ['x: b 4096 !'],
      refused: [],
      problems: ['a spec.exportName', 'b It is empty.'],
    })
  })

  test('goes to the other once the one is gone', () => {
    expect(show(play([b], [a, b], [a], [a]))).toEqual({ disks: ['x: a 2048'], refused: [], problems: [] })
  })
})

describe('one object in two files', () => {
  const a = file('a', good({ name: 'disk', exportName: 'x' }))
  const b = file('b', good({ name: 'disk', exportName: 'y' }))

  test('is the first by file name, and the other name is refused', () => {
    expect(show(play([a, b]))).toEqual({
      disks: ['x: a 2048'],
      refused: ['y'],
      problems: ['b metadata.name'],
    })
  })

  test('stays the one that is served', () => {
    expect(show(play([b], [a, b]))).toEqual({
      disks: ['y: b 2048'],
      refused: ['x'],
      problems: ['a metadata.name'],
    })
  })
})

test('whatever the files do: live disks never shrink, and vanish only when no broken file may hold them', () => {
  const document = fc.oneof(
    fc
      .record({
        name: fc.constantFrom('a', 'b', 'c'),
        exportName: fc.constantFrom('x', 'y', 'z'),
        size: fc.constantFrom(1024, 2048, 4096),
      })
      .map(good),
    fc.constantFrom('a', 'b').map(name => bad(name)),
    fc.constant(unreadable('It is broken.')),
  )
  const files = fc
    .uniqueArray(
      fc.tuple(fc.constantFrom('1', '2', '3'), fc.array(document, { minLength: 1, maxLength: 3 })),
      {
        selector: ([name]) => name,
      },
    )
    .map(files =>
      files.map(([name, documents]) => file(name, ...documents)).sort((p, q) => (p.name < q.name ? -1 : 1)),
    )
  fc.assert(
    fc.property(fc.array(files, { minLength: 2, maxLength: 6 }), steps => {
      let set = EMPTY_SET
      let now = 0
      for (const step of steps) {
        const before = set
        set = nextSet(set, step, now)
        now += 60
        const objects = [...set.disks.values()].map(({ disk }) => disk.metadata.name)
        expect(new Set(objects).size).toBe(objects.length)
        for (const [name, { disk }] of set.disks) {
          expect(disk.spec.exportName).toBe(name)
          expect(set.refused.has(name)).toBe(false)
        }
        for (const [name, entry] of before.disks) {
          const after = set.disks.get(name)
          if (after?.disk.metadata.name === entry.disk.metadata.name) {
            expect(after.disk.spec.size).toBeGreaterThanOrEqual(entry.disk.spec.size ?? 0)
          } else {
            const home = step.find(({ name }) => name === entry.file)
            expect(home?.documents.some(({ content }) => content instanceof Error) ?? false).toBe(false)
            expect(before.missing.has(name)).toBe(true)
          }
        }
        for (const { file } of set.problems) expect(step.map(({ name }) => name)).toContain(file)
        expect(isSameState(set, nextSet(set, step, now - 60))).toBe(true)
      }
    }),
    { numRuns: 300 },
  )
})
