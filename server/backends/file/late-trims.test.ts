import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import type { Completion } from '../backend.ts'
import { ANSWER_MS, isLong, LateTrims, MAX_LATE } from './late-trims.ts'
import { MAX_TRIMS, PIECE } from './pending-trims.ts'

const KIB = 1024
const MIB = 2 ** 20

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
})
afterEach(() => {
  vi.useRealTimers()
})

/** Trims of a disk whose pieces end when the test says so. */
function trims() {
  const punched: { offset: number; length: number; done: Completion }[] = []
  const state = { isHeld: false, isBusy: false }
  const late = new LateTrims({
    punch: (offset, length, done) => punched.push({ offset, length, done }),
    isHeld: () => state.isHeld,
    becameBusy(isBusy) {
      expect(isBusy).not.toBe(state.isBusy)
      state.isBusy = isBusy
    },
  })
  const end = (error?: unknown, ms = 5) => {
    vi.advanceTimersByTime(ms)
    punched.at(-1)?.done.complete(error)
  }
  return {
    late,
    state,
    /** The pieces that have begun. */
    punched,
    /** Ends the piece under way after so many ms. */
    end,
    /** Ends all of them. */
    endAll() {
      while (late.isBusy) end()
    },
    /** A trim, and how often and how it ended. */
    trim(offset: number, length: number) {
      const ends: unknown[] = []
      const taken = late.add(offset, length, { complete: error => ends.push(error) })
      return { ends, taken }
    },
  }
}

/** When it has ended; `undefined` as long as it has not. */
function watched(promise: Promise<void>) {
  const state = { isOver: false }
  void promise.then(() => {
    state.isOver = true
  })
  return state
}
const microtasks = async () => {
  for (let count = 0; count < 5; count++) await Promise.resolve()
}

describe('A long trim', () => {
  test('is longer than a piece', () => {
    expect([isLong(PIECE), isLong(PIECE + 1)]).toEqual([false, true])
  })

  test('that ends in time is answered at its end', () => {
    const { trim, end, punched, state } = trims()
    const { ends } = trim(0, 2 * PIECE)
    expect(state.isBusy).toBe(true)
    end()
    expect(ends).toEqual([])
    end()
    expect(ends).toEqual([undefined])
    expect(punched.map(({ offset, length }) => [offset, length])).toEqual([
      [0, PIECE],
      [PIECE, PIECE],
    ])
    vi.advanceTimersByTime(1000)
    expect(ends).toEqual([undefined])
    expect(state.isBusy).toBe(false)
  })

  test('that lasts longer is answered after that time, once', () => {
    const { trim, endAll, late } = trims()
    const { ends } = trim(0, 100 * PIECE)
    vi.advanceTimersByTime(ANSWER_MS - 1)
    expect(ends).toEqual([])
    vi.advanceTimersByTime(1)
    expect(ends).toEqual([undefined])
    expect(late.isBusy).toBe(true)
    endAll()
    expect(ends).toEqual([undefined])
  })

  test('has one piece under way at a time, in the order of the disk', () => {
    const { trim, endAll, punched } = trims()
    trim(4096, 10 * PIECE)
    trim(100 * PIECE, 2 * PIECE)
    expect(punched.length).toBe(1)
    endAll()
    let at = 4096
    for (const { offset, length } of punched.slice(0, 10)) {
      expect(offset).toBe(at)
      at += length
    }
    expect(punched.slice(10).map(({ offset }) => offset)).toEqual([100 * PIECE, 101 * PIECE])
  })

  test('of which more is pending than may be is answered when the rest is little enough', () => {
    const { trim, end, punched } = trims()
    const { ends } = trim(0, MAX_LATE + 3 * PIECE)
    vi.advanceTimersByTime(1000)
    expect(ends).toEqual([])
    end()
    end()
    expect(ends).toEqual([])
    end()
    expect(ends).toEqual([undefined])
    expect(punched.length).toBe(4)
  })

  test('behind many others is not taken, nor while a copy is made', () => {
    const { trim, state } = trims()
    state.isHeld = true
    expect(trim(0, 2 * PIECE).taken).toBe(false)
    state.isHeld = false
    const all = Array.from({ length: MAX_TRIMS + 1 }, (_, index) => trim(index * 2 * PIECE, 2 * PIECE).taken)
    expect(all.indexOf(false)).toBe(MAX_TRIMS)
  })

  test('of a disk that cannot punch is over at once, however many pieces it has', () => {
    let pieces = 0
    const late = new LateTrims({
      punch(_offset, _length, done) {
        pieces++
        done.complete()
      },
      isHeld: () => false,
      becameBusy: () => {},
    })
    const ends: unknown[] = []
    late.add(0, 2 ** 45, { complete: error => ends.push(error) })
    expect(ends).toEqual([undefined])
    expect(pieces).toBeGreaterThan(100_000)
    expect(late.isBusy).toBe(false)
  })
})

describe('A piece that fails', () => {
  const EIO = Object.assign(new Error('lost'), { code: 'EIO' })
  const ENOSPC = Object.assign(new Error('full'), { code: 'ENOSPC' })

  test('fails the trim that has not been answered, and the next one goes on', () => {
    const { trim, end, endAll, late, punched } = trims()
    const [first, second] = [trim(0, 5 * PIECE), trim(10 * PIECE, 2 * PIECE)]
    end(ENOSPC)
    expect(first.ends).toEqual([ENOSPC])
    expect(punched.at(-1)?.offset).toBe(10 * PIECE)
    endAll()
    expect([first.ends, second.ends]).toEqual([[ENOSPC], [undefined]])
    expect(late.takeFailure()).toBeUndefined()
  })

  test('ends a trim that has been; an EIO is for the next flush, once, and other reasons for nobody', () => {
    for (const [error, told] of [
      [EIO, EIO],
      [ENOSPC, undefined],
    ]) {
      const { trim, end, late, punched } = trims()
      const { ends } = trim(0, 50 * PIECE)
      vi.advanceTimersByTime(ANSWER_MS)
      end(error)
      expect(ends).toEqual([undefined])
      expect([late.isBusy, punched.length]).toEqual([false, 1])
      expect([late.takeFailure(), late.takeFailure()]).toEqual([told, undefined])
    }
  })
})

describe('A change', () => {
  test('of what is pending takes its blocks out, and goes on at once', () => {
    const { trim, endAll, late, punched } = trims()
    trim(0, 4 * PIECE)
    expect(late.mayChange(2 * PIECE + 5000, 1)).toBe(true)
    endAll()
    const hole = punched.find(({ offset, length }) => offset + length === 2 * PIECE + 4096)
    expect(hole).toBeDefined()
    expect(punched.some(({ offset }) => offset === 2 * PIECE + 8192)).toBe(true)
  })

  test('of what is being punched waits until just that has ended', () => {
    const { trim, end, late, punched } = trims()
    trim(0, 4 * PIECE)
    expect(late.mayChange(PIECE - 1, 1)).toBe(false)
    expect(late.mayChange(PIECE, 1)).toBe(true)
    let asked: boolean | undefined
    late.wait(() => {
      asked = late.mayChange(PIECE - 1, 2)
    })
    expect(asked).toBeUndefined()
    end()
    expect(asked).toBe(true)
    expect(punched.length).toBe(2)
    expect(punched.at(-1)?.offset).toBe(PIECE + 4096)
  })

  test('of everything that is pending ends the trim with the piece under way', () => {
    const { trim, end, late, state } = trims()
    const { ends } = trim(0, 100 * PIECE)
    late.mayChange(0, 100 * PIECE)
    end()
    expect(ends).toEqual([undefined])
    expect([late.isBusy, state.isBusy]).toEqual([false, false])
  })
})

describe('Who waits', () => {
  test('for answered trims does not wait for those that come later, or have not been answered', async () => {
    const { trim, end, late, punched } = trims()
    trim(0, 3 * PIECE)
    expect(late.afterAnswered(() => {})).toBe(false)
    vi.advanceTimersByTime(ANSWER_MS)
    const flush = watched(late.answeredDone())
    trim(10 * PIECE, 3 * PIECE)
    end()
    end()
    await microtasks()
    expect(flush.isOver).toBe(false)
    end()
    await microtasks()
    expect(flush.isOver).toBe(true)
    expect(punched.at(-1)?.offset).toBe(10 * PIECE)
  })

  test('until all is settled does so for those that have not been answered, too', async () => {
    const { trim, end, late } = trims()
    await late.settled()
    trim(0, 2 * PIECE)
    const settled = watched(late.settled())
    end()
    await microtasks()
    expect(settled.isOver).toBe(false)
    end()
    await microtasks()
    expect(settled.isOver).toBe(true)
  })

  test('for the end of a disk that nobody needs waits for the piece under way only', async () => {
    const { trim, end, late, punched } = trims()
    trim(0, 100 * PIECE)
    vi.advanceTimersByTime(ANSWER_MS)
    late.drop()
    const settled = watched(late.settled())
    await microtasks()
    expect(settled.isOver).toBe(false)
    end()
    await microtasks()
    expect([settled.isOver, punched.length]).toEqual([true, 1])
  })

  test('for a copy does not wait for what is pending when it begins', () => {
    const { trim, end, late, state, punched } = trims()
    const [first, second] = [trim(0, 100 * PIECE), trim(200 * PIECE, 2 * PIECE)]
    state.isHeld = true
    end()
    expect([first.ends, second.ends]).toEqual([[undefined], [undefined]])
    expect([late.isBusy, punched.length]).toEqual([false, 1])
  })
})

test('Who trims again as soon as he is answered is served, and after those that waited', () => {
  const { late, punched, end, endAll } = trims()
  const order: string[] = []
  late.add(0, 2 * PIECE, {
    complete() {
      order.push('answered')
      late.add(10 * PIECE, 2 * PIECE, { complete: () => order.push('again') })
    },
  })
  end()
  late.wait(() => order.push('change'))
  end()
  expect(order).toEqual(['change', 'answered'])
  expect(punched.at(-1)?.offset).toBe(10 * PIECE)
  endAll()
  expect(order).toEqual(['change', 'answered', 'again'])
})

// A disk in units of 2 KiB: what a client must find there (0: it cannot know), and what there is.
const UNIT = 2 * KIB
const UNITS = (64 * MIB) / UNIT
const PIECE_UNITS = PIECE / UNIT
const BLOCK_UNITS = 2
const HOLE = 255
const UNKNOWN = 0

const offset = fc.oneof(
  fc.nat(UNITS - 1),
  fc.nat(7).map(piece => piece * PIECE_UNITS),
)
const operation = fc.oneof(
  fc.record({
    kind: fc.constant('trim' as const),
    offset,
    length: fc.integer({ min: PIECE_UNITS + 1, max: UNITS }),
  }),
  fc.record({
    kind: fc.constantFrom('write' as const, 'zero' as const),
    offset,
    length: fc.oneof(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 2 * PIECE_UNITS })),
  }),
  fc.record({
    kind: fc.constantFrom('flush' as const, 'hold' as const, 'fail' as const),
    lost: fc.boolean(),
  }),
  fc.record({ kind: fc.constant('end' as const), ms: fc.constantFrom(0, 5, 30) }),
)

test('Whatever comes in whatever order, no written byte is lost, and what was trimmed is a hole in the end', () => {
  fc.assert(
    fc.property(fc.array(operation, { minLength: 1, maxLength: 40 }), operations => {
      const { late, state, punched, trim, end, endAll } = trims()
      const expected = new Uint8Array(UNITS).fill(1)
      const disk = new Uint8Array(UNITS).fill(1)
      /** Trimmed, and to be a hole unless it is written, or its trim failed or met a copy. */
      const trimmed = new Uint8Array(UNITS)
      let value = 1
      let waiting = 0
      let ended = 0

      /** A piece changes the disk at any time between its begin and its end; twice is once. */
      const punch = () => {
        const piece = punched.at(-1)
        if (piece === undefined || !late.isBusy) return
        disk.fill(HOLE, Math.ceil(piece.offset / UNIT), Math.floor((piece.offset + piece.length) / UNIT))
      }
      const change = (from: number, length: number, byte: number) => {
        if (!late.mayChange(from * UNIT, length * UNIT)) {
          waiting++
          late.wait(() => {
            waiting--
            change(from, length, byte)
          })
          return
        }
        disk.fill(byte, from, from + length)
        expected.fill(byte, from, from + length)
        // Pieces are of blocks of 4 KiB.
        const end = Math.ceil((from + length) / BLOCK_UNITS) * BLOCK_UNITS
        trimmed.fill(0, from - (from % BLOCK_UNITS), end)
      }
      const check = () => {
        for (let at = 0; at < UNITS; at++) {
          if (expected[at] === UNKNOWN || expected[at] === disk[at]) continue
          expect.fail(`${expected[at]} became ${disk[at]} at ${at}`)
        }
      }
      const endPiece = (error: unknown, ms: number) => {
        if (!late.isBusy) return
        punch()
        ended++
        end(error, ms)
      }

      for (const step of operations) {
        switch (step.kind) {
          case 'trim': {
            const length = Math.min(step.length, UNITS - step.offset)
            if (!isLong(length * UNIT)) break
            expected.fill(UNKNOWN, step.offset, step.offset + length)
            trimmed.fill(1, step.offset, step.offset + length)
            trim(step.offset * UNIT, length * UNIT)
            break
          }
          case 'write':
          case 'zero': {
            const length = Math.min(step.length, UNITS - step.offset)
            value = 2 + (value % 200)
            change(step.offset, length, step.kind === 'zero' ? HOLE : value)
            break
          }
          case 'flush':
            late.afterAnswered(() => {})
            break
          case 'hold':
            // A copy begins and is over.
            state.isHeld = true
            if (late.isBusy) trimmed.fill(0)
            endPiece(undefined, 1)
            state.isHeld = false
            break
          case 'fail':
            if (late.isBusy) trimmed.fill(0)
            endPiece(Object.assign(new Error('lost'), { code: step.lost ? 'EIO' : 'ENOSPC' }), 1)
            break
          case 'end':
            endPiece(undefined, step.ms)
        }
        punch()
        check()
      }
      while (late.isBusy) {
        endPiece(undefined, 1)
        punch()
        check()
      }
      endAll()
      expect([waiting, state.isBusy]).toEqual([0, false])
      expect(ended).toBe(punched.length)
      expect(trimmed.findIndex((is, at) => is === 1 && disk[at] !== HOLE)).toBe(-1)
    }),
    { numRuns: 150 },
  )
})

test('A disk is trimmed and written for long without anything piling up', () => {
  const { late, trim, end } = trims()
  for (let round = 0; round < 5000; round++) {
    trim((round * 7919 * MIB) % (64 * 2 ** 30), 64 * MIB)
    late.mayChange((round * 104_729 * KIB) % (64 * 2 ** 30), 100)
    end()
  }
  while (late.isBusy) end()
  expect(vi.getTimerCount()).toBe(0)
})
