import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Activity } from './activity.ts'

const refusal = { client: '10.0.0.1:1', reason: 'busy', message: 'It is in use.' } as const

describe('Changes', () => {
  test('are those after a revision', () => {
    const activity = new Activity()
    activity.changed('a')
    const { revision } = activity
    expect(activity.since(revision)).toEqual(new Set())
    const left = activity.opened('b', '10.0.0.1:1')
    activity.changed('c')
    expect(activity.since(revision)).toEqual(new Set(['b', 'c']))
    const later = activity.revision
    left()
    expect(activity.since(later)).toEqual(new Set(['b']))
    left()
    expect(activity.of('b').connections.size).toBe(0)
  })

  test('of a revision of the future, which was another server, are all', () => {
    expect(new Activity().since(1000)).toBe('all')
  })

  test('are all where some have been forgotten; what is open never is', () => {
    const activity = new Activity({ maxIdle: 2 })
    const { revision } = activity
    activity.opened('held', '10.0.0.1:1')
    for (const name of ['a', 'b', 'c', 'd']) activity.changed(name)
    expect(activity.since(revision)).toBe('all')
    expect([...activity.open()]).toEqual(['held'])
    expect(activity.since(activity.revision)).toEqual(new Set())
  })

  test('never miss anything, whatever happens', () => {
    const step = fc.record({
      name: fc.constantFrom('a', 'b', 'c', 'd'),
      kind: fc.constantFrom('open', 'change'),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40, size: 'max' }), fc.nat(40), (steps, from) => {
        const activity = new Activity({ maxIdle: 3 })
        let revision = activity.revision
        const changed = new Set<string>()
        steps.forEach(({ name, kind }, index) => {
          if (index === from) {
            revision = activity.revision
            changed.clear()
          }
          if (kind === 'open') activity.opened(name, 'x')()
          else activity.changed(name)
          changed.add(name)
        })
        const told = activity.since(revision)
        if (told !== 'all') expect(told).toEqual(changed)
      }),
      { numRuns: 200 },
    )
  })
})

describe('A refusal', () => {
  test('is counted for an export that is known', () => {
    const activity = new Activity()
    activity.changed('a')
    activity.refused('a', { ...refusal, message: 'x'.repeat(2000) })
    activity.refused('a', refusal)
    expect(activity.of('a').refusals).toEqual({ busy: 2 })
    expect(activity.of('a').lastRefusal).toMatchObject(refusal)
  })

  test('of a made-up name leaves nothing', () => {
    const activity = new Activity()
    const { revision } = activity
    activity.refused('x', refusal)
    expect(activity.revision).toBe(revision)
  })
})

describe('Waiting', () => {
  test('ends with the next change, or the signal, or at once if there is news', async () => {
    const activity = new Activity()
    const { revision } = activity
    const never = new AbortController().signal
    const waits = activity.after(revision, never)
    activity.changed('a')
    await waits
    await activity.after(revision, never)
    const abort = new AbortController()
    const ended = activity.after(activity.revision, abort.signal)
    abort.abort()
    await ended
  })
})
