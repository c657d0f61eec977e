import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { Admission, type Claim, type DiskHeldError, type Patience, type Place } from './admission.ts'

const never = new AbortController().signal

const claim = (client: string, other: Partial<Claim> = {}): Claim => ({
  disk: 'disk',
  client,
  exclusive: true,
  connections: 1,
  ...other,
})

/** A claim that may have to wait: what has become of it so far. */
function enter(
  admission: Admission,
  wanted: Claim,
  patience: Patience = 'unlimited',
  signal: AbortSignal = never,
) {
  const state: { place?: Place; error?: unknown } = {}
  const done = admission.enter(wanted, patience, signal).then(
    place => {
      state.place = place
    },
    (error: unknown) => {
      state.error = error
    },
  )
  return { state, done }
}

/** Lets all promises that can settle do so. */
async function settle(): Promise<void> {
  for (let round = 0; round < 10; round++) await Promise.resolve()
}

beforeEach(() => {
  vi.useFakeTimers({ now: new Date('2026-11-20T10:00:00Z') })
})

afterEach(() => {
  vi.useRealTimers()
})

describe('A disk that is written', () => {
  test('is held by one client, whom the refusal of others names, with the time', async () => {
    const admission = new Admission()
    await admission.enter(claim('10.0.0.1'), 0, never)
    vi.advanceTimersByTime(60_000)
    await expect(admission.enter(claim('10.0.0.2'), 0, never)).rejects.toMatchObject({
      code: 'EBUSY',
      message: 'Disk disk is in use by 10.0.0.1 since 2026-11-20T10:00:00.000Z.',
    })
    await admission.enter(claim('10.0.0.2', { disk: 'other' }), 0, never)
  })

  test('is free again as soon as its place is given back, which may be done twice', async () => {
    const admission = new Admission()
    const first = await admission.enter(claim('a'), 0, never)
    first.release()
    const second = await admission.enter(claim('b'), 0, never)
    first.release()
    await expect(admission.enter(claim('c'), 0, never)).rejects.toMatchObject({ code: 'EBUSY' })
    second.release()
    expect(admission.size).toBe(0)
  })

  test('can be had by N connections of one client', async () => {
    const admission = new Admission()
    const wanted = claim('a', { connections: 3 })
    const places = await Promise.all([1, 2, 3].map(() => admission.enter(wanted, 0, never)))
    expect(admission.holderOf('disk')).toMatchObject({ client: 'a', connections: 3 })
    await expect(admission.enter(wanted, 0, never)).rejects.toMatchObject({
      message:
        'Disk disk already has 3 connections from a, since 2026-11-20T10:00:00.000Z; a client may have 3.',
    })
    await expect(admission.enter(claim('b', { connections: 3 }), 0, never)).rejects.toMatchObject({
      message: 'Disk disk is in use by a and 2 more since 2026-11-20T10:00:00.000Z.',
    })
    places[0]?.release()
    await admission.enter(wanted, 0, never)
  })
})

test('A disk that is read has any number of readers, and no writer', async () => {
  const admission = new Admission()
  const reader = (client: string) => claim(client, { exclusive: false })
  const places = await Promise.all(['a', 'b', 'b'].map(name => admission.enter(reader(name), 0, never)))
  await expect(admission.enter(claim('a'), 0, never)).rejects.toMatchObject({ code: 'EBUSY' })
  for (const place of places) place.release()
  await admission.enter(claim('c'), 0, never)
  await expect(admission.enter(reader('c'), 0, never)).rejects.toMatchObject({ code: 'EBUSY' })
})

test('A refusal names a client that is still there', async () => {
  const admission = new Admission()
  const reader = (client: string) => claim(client, { exclusive: false })
  const first = await admission.enter(reader('a'), 0, never)
  vi.advanceTimersByTime(1000)
  await admission.enter(reader('b'), 0, never)
  first.release()
  await expect(admission.enter(claim('c'), 0, never)).rejects.toMatchObject({
    message: 'Disk disk is in use by b since 2026-11-20T10:00:01.000Z.',
  })
})

describe('Waiting', () => {
  test('is in line', async () => {
    const admission = new Admission()
    const first = await admission.enter(claim('a'), 0, never)
    const waiting = ['b', 'c', 'd'].map(client => enter(admission, claim(client)))
    first.release()
    for (const { state, done } of waiting) {
      await done
      expect(waiting.filter(other => other.state.place !== undefined)).toHaveLength(
        waiting.findIndex(other => other.state === state) + 1,
      )
      state.place?.release()
    }
    expect(admission.size).toBe(0)
  })

  test('ends after so many ms, with a refusal that names who holds the disk now', async () => {
    const admission = new Admission()
    const first = await admission.enter(claim('a'), 0, never)
    const second = enter(admission, claim('b'), 10_000)
    const third = enter(admission, claim('c'), 5000)
    await vi.advanceTimersByTimeAsync(4000)
    first.release()
    await vi.advanceTimersByTimeAsync(999)
    expect(third.state).toEqual({})
    await vi.advanceTimersByTimeAsync(1)
    expect((third.state.error as DiskHeldError).message).toBe(
      'Disk disk is in use by b since 2026-11-20T10:00:04.000Z.',
    )
    second.state.place?.release()
    expect(admission.size).toBe(0)
    expect(vi.getTimerCount()).toBe(0)
  })

  test('without a limit has no timer', async () => {
    const admission = new Admission()
    await admission.enter(claim('a'), 0, never)
    const { state } = enter(admission, claim('b'))
    await vi.advanceTimersByTimeAsync(2 ** 31)
    expect(state).toEqual({})
    expect(vi.getTimerCount()).toBe(0)
  })

  test('ends at once, with the reason of the signal, when the client leaves', async () => {
    const admission = new Admission()
    const first = await admission.enter(claim('a'), 0, never)
    const leaving = new AbortController()
    const second = enter(admission, claim('b'), 10_000, leaving.signal)
    const third = enter(admission, claim('c'))
    const reason = new Error('gone')
    leaving.abort(reason)
    await settle()
    expect(second.state.error).toBe(reason)
    first.release()
    await settle()
    expect(third.state.place).toBeDefined()
    expect(vi.getTimerCount()).toBe(0)
  })

  test('does not begin for a client that has left', async () => {
    const admission = new Admission()
    await expect(admission.enter(claim('a'), 0, AbortSignal.abort(new Error('gone')))).rejects.toThrow('gone')
    expect(admission.size).toBe(0)
  })

  test('of one disk is in nobody’s way on another', async () => {
    const admission = new Admission()
    await admission.enter(claim('a'), 0, never)
    enter(admission, claim('b'))
    await admission.enter(claim('c', { disk: 'other' }), 0, never)
  })

  test('with several connections is not behind a client that waits for this one to end', async () => {
    const admission = new Admission()
    const several = { connections: 3 }
    const holder = await admission.enter(claim('a', several), 0, never)
    const [one, , three] = ['b', 'c', 'b'].map(client => enter(admission, claim(client, several)))
    holder.release()
    await settle()
    expect(one?.state.place).toBeDefined()
    expect(three?.state.place, 'a client needs all its connections before it begins').toBeDefined()
  })

  test('to write is not put off by readers who come later', async () => {
    const admission = new Admission()
    const reader = (client: string) => claim(client, { exclusive: false })
    const reading = await admission.enter(reader('a'), 0, never)
    const writer = enter(admission, claim('b'))
    const later = enter(admission, reader('c'))
    await settle()
    expect(later.state).toEqual({})
    reading.release()
    await settle()
    expect(writer.state.place).toBeDefined()
    writer.state.place?.release()
    await settle()
    expect(later.state.place).toBeDefined()
  })
})

test('Readers who waited behind a writer go on when that one gives up', async () => {
  const admission = new Admission()
  const reader = (client: string) => claim(client, { exclusive: false })
  await admission.enter(reader('a'), 0, never)
  const leaving = new AbortController()
  const writers = [
    enter(admission, claim('b'), 1000),
    enter(admission, claim('c'), 'unlimited', leaving.signal),
  ]
  const later = enter(admission, reader('d'))
  await vi.advanceTimersByTimeAsync(1000)
  expect(writers[0]?.state.error).toBeDefined()
  expect(later.state).toEqual({})
  leaving.abort()
  await settle()
  expect(later.state.place).toBeDefined()
})

describe('Whatever clients do', () => {
  const CLIENTS = ['a', 'b', 'c']
  const step = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({
        enter: fc.constantFrom(...CLIENTS),
        exclusive: fc.boolean(),
        patience: fc.constantFrom<Patience>(0, 1000, 'unlimited'),
      }),
    },
    { weight: 3, arbitrary: fc.record({ release: fc.nat() }) },
    { weight: 1, arbitrary: fc.record({ abort: fc.nat() }) },
    { weight: 1, arbitrary: fc.record({ pass: fc.constantFrom(1, 500, 1000) }) },
  )
  const CONNECTIONS = 2

  test('a disk never has two writers, or a writer and a reader, and in the end nobody holds anything', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), async steps => {
        const admission = new Admission()
        const all: (ReturnType<typeof enter> & { claim: Claim; abort: AbortController })[] = []
        const released = new Set<Place>()
        const holding = () =>
          all.filter(({ state }) => state.place !== undefined && !released.has(state.place))
        const waiting = () =>
          all.filter(({ state }) => state.place === undefined && state.error === undefined)
        const check = () => {
          const writers = holding().filter(({ claim: { exclusive } }) => exclusive)
          expect(new Set(writers.map(({ claim: { client } }) => client)).size).toBeLessThanOrEqual(1)
          expect(writers.length).toBeLessThanOrEqual(CONNECTIONS)
          if (writers.length > 0) expect(holding()).toHaveLength(writers.length)
          expect(admission.holderOf('disk')?.connections ?? 0).toBe(holding().length)
          // Somebody waits only as long as somebody else holds the disk.
          if (holding().length === 0) expect(waiting()).toEqual([])
          // A further connection of the client that writes does not wait.
          const [writer] = writers
          if (writer !== undefined && writers.length < CONNECTIONS) {
            const further = waiting().filter(
              ({ claim: { client, exclusive } }) => exclusive && client === writer.claim.client,
            )
            expect(further).toEqual([])
          }
        }
        const release = (index: number) => {
          const place = holding()[index % holding().length]?.state.place
          if (place === undefined) return
          released.add(place)
          place.release()
        }
        for (const item of steps) {
          if ('enter' in item) {
            const wanted = claim(item.enter, { exclusive: item.exclusive, connections: CONNECTIONS })
            const abort = new AbortController()
            all.push({ ...enter(admission, wanted, item.patience, abort.signal), claim: wanted, abort })
          } else if ('release' in item) release(item.release)
          else if ('abort' in item) waiting()[item.abort % waiting().length]?.abort.abort()
          else await vi.advanceTimersByTimeAsync(item.pass)
          await settle()
          check()
        }
        while (holding().length > 0) {
          release(0)
          await settle()
          check()
        }
        expect(waiting()).toEqual([])
        expect(admission.size).toBe(0)
        expect(vi.getTimerCount()).toBe(0)
      }),
      { numRuns: 200 },
    )
  })
})
