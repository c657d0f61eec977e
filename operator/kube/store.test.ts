import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { KubeObject } from './objects.ts'
import { keyFor, keyOf, ObjectStore, refOf, type StoreEvent } from './store.ts'

type Thing = KubeObject & { readonly colour?: string }

const thing = (name: string, uid: string, version: string, colour?: string): Thing => ({
  apiVersion: 'v1',
  kind: 'Thing',
  metadata: { name, namespace: 'a', uid, resourceVersion: version },
  ...(colour !== undefined && { colour }),
})
const byColour = { colour: ({ colour }: Thing) => (colour === undefined ? [] : [colour]) }
const types = (events: readonly StoreEvent<Thing>[]) =>
  events.map(({ type, object }) => `${type} ${object.metadata.uid}`)

describe('what a store says of a change', () => {
  test('new, changed, known already, gone', () => {
    const store = new ObjectStore<Thing>()
    expect(store.set(thing('x', 'u1', '1'), true)).toMatchObject([{ type: 'added', initial: true }])
    expect(store.set(thing('x', 'u1', '2'))).toMatchObject([
      { type: 'updated', old: { metadata: { resourceVersion: '1' } } },
    ])
    expect(store.set(thing('x', 'u1', '2'))).toEqual([])
    expect(types(store.delete(thing('x', 'u1', '3')))).toEqual(['deleted u1'])
    expect(store.size).toBe(0)
    expect(store.delete(thing('x', 'u1', '3'))).toEqual([])
  })

  test('an object that was deleted and made again is another one', () => {
    const store = new ObjectStore<Thing>()
    store.set(thing('x', 'u1', '1'))
    expect(types(store.set(thing('x', 'u2', '5')))).toEqual(['deleted u1', 'added u2'])
    // News of the old one's end, which came late.
    expect(store.delete(thing('x', 'u1', '4'))).toEqual([])
    expect(store.get('a', 'x')?.metadata.uid).toBe('u2')
  })

  test('what a new list no longer has is gone', () => {
    const store = new ObjectStore<Thing>()
    for (const name of ['x', 'y', 'z']) store.set(thing(name, name, '1'))
    expect(types(store.keepOnly(new Set(['a/y'])))).toEqual(['deleted x', 'deleted z'])
    expect(store.list().map(keyOf)).toEqual(['a/y'])
  })
})

test('objects are found by name, namespace and index', () => {
  const store = new ObjectStore<Thing>(byColour)
  store.set(thing('x', 'u1', '1', 'red'))
  store.set({ ...thing('x', 'u2', '1', 'red'), metadata: { name: 'x', namespace: 'b', uid: 'u2' } })
  store.set({ ...thing('n', 'u3', '1'), metadata: { name: 'n', uid: 'u3' } })
  expect(store.get('b', 'x')?.metadata.uid).toBe('u2')
  expect(store.get(undefined, 'n')?.metadata.uid).toBe('u3')
  expect(store.list('a')).toHaveLength(1)
  expect(store.byIndex('colour', 'red')).toHaveLength(2)
  expect(store.byIndex('colour', 'blue')).toEqual([])
  expect(() => store.byIndex('size', '1')).toThrow(TypeError)
})

test('a key and what it stands for', () => {
  expect(refOf(keyFor('a', 'x'))).toEqual({ namespace: 'a', name: 'x' })
  expect(refOf(keyFor(undefined, 'x'))).toEqual({ name: 'x' })
})

test('whatever happens, the store has what was said last, and its events tell the same story', () => {
  const name = fc.constantFrom('x', 'y', 'z')
  const colour = fc.constantFrom('red', 'blue', undefined)
  const step = fc.oneof(
    fc.record({ kind: fc.constant('set' as const), name, uid: fc.integer({ min: 1, max: 3 }), colour }),
    fc.record({ kind: fc.constant('delete' as const), name, uid: fc.integer({ min: 1, max: 3 }) }),
    fc.record({ kind: fc.constant('keep' as const), names: fc.uniqueArray(name) }),
  )
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), steps => {
      const store = new ObjectStore<Thing>(byColour)
      const model = new Map<string, Thing>()
      const told = new Map<string, string>()
      let version = 0
      for (const step of steps) {
        let events: StoreEvent<Thing>[]
        if (step.kind === 'set') {
          const object = thing(step.name, `${step.name}${step.uid}`, String(++version), step.colour)
          model.set(keyOf(object), object)
          events = store.set(object)
        } else if (step.kind === 'delete') {
          const object = thing(step.name, `${step.name}${step.uid}`, String(++version))
          if (model.get(keyOf(object))?.metadata.uid === object.metadata.uid) model.delete(keyOf(object))
          events = store.delete(object)
        } else {
          const keys = new Set(step.names.map(kept => keyFor('a', kept)))
          for (const key of model.keys()) if (!keys.has(key)) model.delete(key)
          events = store.keepOnly(keys)
        }
        for (const { type, object } of events) {
          const { uid = '' } = object.metadata
          // Each object begins once and ends once, and lives only in between.
          expect(told.has(keyOf(object))).toBe(type !== 'added')
          if (type !== 'added') expect(told.get(keyOf(object))).toBe(uid)
          if (type === 'deleted') told.delete(keyOf(object))
          else told.set(keyOf(object), uid)
        }
      }
      expect(new Map(store.list().map(object => [keyOf(object), object]))).toEqual(model)
      for (const value of ['red', 'blue']) {
        const found = store.byIndex('colour', value).map(keyOf).sort()
        expect(found).toEqual(
          [...model]
            .filter(([, { colour }]) => colour === value)
            .map(([key]) => key)
            .sort(),
        )
      }
    }),
    { numRuns: 300 },
  )
})
