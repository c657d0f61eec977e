import { describe, expect, test } from 'vitest'
import { badPools, goodPools, poolTransitions } from './diskpool.cases.ts'
import { badSnapshots, goodSnapshots, snapshotTransitions } from './disksnapshot.cases.ts'
import { badCases, goodCases, transitionCases } from './ondemanddisk.cases.ts'
import { admission } from './test-admission.ts'

const KINDS = [
  ['ondemanddisk', 'OnDemandDisk', goodCases, badCases, transitionCases],
  ['disksnapshot', 'DiskSnapshot', goodSnapshots, badSnapshots, snapshotTransitions],
  ['diskpool', 'DiskPool', goodPools, badPools, poolTransitions],
] as const

describe.each(KINDS)('an API server that has loaded %s.yaml', (file, kind, good, bad, transitions) => {
  const judge = admission(file)
  const object = (spec: object, name = 'disk') => ({
    apiVersion: 'ondemanddisk.dev/v1alpha1',
    kind,
    metadata: { name },
    spec,
  })

  test.each(good)('takes $title', ({ spec, name }) => {
    expect(judge(object(spec, name))).toEqual({ openapi: [], cel: [] })
  })

  test.each(bad.filter(({ by }) => by === 'openapi'))('refuses $title by OpenAPI', ({ spec, name }) => {
    expect(judge(object(spec, name)).openapi).not.toEqual([])
  })

  test.each(bad.filter(({ by }) => by === 'cel'))(
    'refuses $title by a rule, and by nothing else',
    ({ spec, name }) => {
      const { openapi, cel } = judge(object(spec, name))
      expect(openapi).toEqual([])
      expect(cel).toHaveLength(1)
    },
  )

  test.each(bad.filter(({ by }) => by === 'program'))(
    'cannot know that $title is wrong',
    ({ spec, name }) => {
      expect(judge(object(spec, name))).toEqual({ openapi: [], cel: [] })
    },
  )

  test.each(transitions)('$title', ({ before, after, field }) => {
    const { openapi, cel } = judge(object(after), object(before))
    expect(openapi).toEqual([])
    if (field === undefined) expect(cel).toEqual([])
    else expect(cel).not.toEqual([])
  })
})
