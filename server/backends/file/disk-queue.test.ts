import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { DiskQueue, type Job, Lane, type Shares, sharesOf } from './disk-queue.ts'

interface TestJob extends Job {
  readonly lane: number
  readonly number: number
}

/** A queue whose jobs run until they are told to end. */
function setUp(shares: Shares, lanes: number) {
  const queue = new DiskQueue(shares)
  const each = Array.from({ length: lanes }, () => new Lane())
  const running: TestJob[] = []
  const started: TestJob[] = []
  let count = 0
  return {
    queue,
    running,
    started,
    runningOf: (lane: number) => running.filter(job => job.lane === lane).length,
    submit(lane: number): TestJob {
      const job: TestJob = {
        lane,
        number: count++,
        next: undefined,
        start: () => {
          running.push(job)
          started.push(job)
        },
      }
      queue.submit(each[lane] as Lane, job)
      return job
    },
    /** Ends a running job; what waited may start within. */
    end(index: number): void {
      const [job] = running.splice(index % running.length, 1)
      queue.finished(each[(job as TestJob).lane] as Lane)
    },
  }
}

const shares = fc
  .record({ threads: fc.integer({ min: 1, max: 6 }), perLane: fc.integer({ min: 1, max: 6 }) })
  .map(({ threads, perLane }) => ({ threads, perLane: Math.min(threads, perLane) }))
const LANES = 4
const steps = fc.array(
  fc.oneof(
    { weight: 3, arbitrary: fc.record({ submit: fc.nat(LANES - 1) }) },
    { weight: 2, arbitrary: fc.record({ end: fc.nat() }) },
  ),
  { maxLength: 120 },
)

describe('The disk queue', () => {
  test('keeps its limits, leaves no thread idle, and loses no job', () => {
    fc.assert(
      fc.property(shares, steps, (limits, sequence) => {
        const queue = setUp(limits, LANES)
        const submitted: TestJob[] = []
        const check = () => {
          expect(queue.running.length).toBeLessThanOrEqual(limits.threads)
          expect(queue.queue.waiting).toBe(submitted.length - queue.started.length)
          for (let lane = 0; lane < LANES; lane++) {
            const running = queue.runningOf(lane)
            const ofLane = queue.started.filter(job => job.lane === lane)
            const waiting = submitted.filter(job => job.lane === lane).length - ofLane.length
            expect(running).toBeLessThanOrEqual(limits.perLane)
            // A job that waits has a reason to.
            if (waiting > 0) {
              expect(running === limits.perLane || queue.running.length === limits.threads).toBe(true)
            }
            // The jobs of one lane start in their order, each once.
            expect(ofLane).toEqual(submitted.filter(job => job.lane === lane).slice(0, ofLane.length))
          }
        }
        for (const step of sequence) {
          if ('submit' in step) submitted.push(queue.submit(step.submit))
          else if (queue.running.length > 0) queue.end(step.end)
          check()
        }
        while (queue.running.length > 0) {
          queue.end(0)
          check()
        }
        expect(new Set(queue.started).size).toBe(submitted.length)
      }),
      { numRuns: 300 },
    )
  })

  test('starts a job of a lane that has nothing after one turn of the others, however deep their queues', () => {
    fc.assert(
      fc.property(shares, fc.nat(), (limits, choice) => {
        const queue = setUp(limits, LANES)
        for (let index = 0; index < 50; index++) {
          for (let lane = 0; lane < LANES - 1; lane++) queue.submit(lane)
        }
        const late = queue.submit(LANES - 1)
        let turns = 0
        while (!queue.started.includes(late)) {
          queue.end(choice)
          turns++
        }
        expect(turns).toBeLessThanOrEqual(LANES)
      }),
    )
  })

  test('gives waiting lanes the same number of jobs', () => {
    const queue = setUp({ threads: 3, perLane: 2 }, LANES)
    for (let lane = 0; lane < LANES; lane++) for (let job = 0; job < 100; job++) queue.submit(lane)
    for (let ended = 0; ended < 200; ended++) queue.end(0)
    const counts = [0, 1, 2, 3].map(lane => queue.started.filter(job => job.lane === lane).length)
    expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(2)
  })

  test('takes a job again that is over', () => {
    const queue = new DiskQueue({ threads: 1, perLane: 1 })
    const lane = new Lane()
    let starts = 0
    const job: Job = {
      next: undefined,
      start: () => {
        starts++
      },
    }
    for (let round = 0; round < 100; round++) {
      queue.submit(lane, job)
      queue.finished(lane)
    }
    expect(starts).toBe(100)
  })
})

test.each<[pool: number, threads: number, perLane: number]>([
  [1, 1, 1],
  [2, 1, 1],
  [4, 3, 2],
  [8, 7, 5],
  [16, 14, 11],
  [32, 28, 23],
  [128, 32, 26],
  [1024, 32, 26],
])('A pool of %i threads: %i for disks, %i for one disk', (pool, threads, perLane) => {
  expect(sharesOf(pool)).toEqual({ threads, perLane })
})
