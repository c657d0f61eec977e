/** Disks that clients make by connecting, in Kubernetes: the pool's limits, spares, and how fast it is. */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { check } from '../harness.ts'
import { PYTHON } from '../libnbd.ts'
import { startPool, type TestPool } from './pool.ts'

const MIB = 2 ** 20
const SLOW = { timeout: 90_000, interval: 200 }

let pool: TestPool

beforeAll(async () => {
  pool = await startPool({
    onDemand: { enabled: true, template: { size: '8Mi', access: { connections: 4 } }, maxSize: '32Mi' },
  })
}, 300_000)

afterAll(async () => {
  await pool?.[Symbol.asyncDispose]()
})

/** Connects one client for each name at the same moment; each writes and reads its own. What became of each. */
const MANY = `import nbd, sys, threading, time
results = {}
def connect(index, uri):
    h = nbd.NBD()
    words = []
    h.set_debug(True)
    h.set_debug_callback(lambda context, message: words.append(message) or 0)
    start = time.monotonic()
    try:
        h.connect_uri(uri)
        mark = ("%d" % index).encode().ljust(512)
        h.pwrite(mark, 4096 * index)
        assert h.pread(512, 4096 * index) == mark
        results[index] = "ok %d %.1f" % (h.get_size(), (time.monotonic() - start) * 1000)
    except nbd.Error as error:
        results[index] = "refused %s" % " | ".join(word for word in words if "spec." in word or "server" in word)
threads = [threading.Thread(target=connect, args=pair) for pair in enumerate(sys.argv[1:])]
for thread in threads: thread.start()
for thread in threads: thread.join()
for index in range(len(threads)): print(results.get(index, "crashed"))`

interface Outcome {
  readonly served: boolean
  /** Bytes of its disk. */
  readonly size: number
  /** From the connect to the first byte that was read, in ms. */
  readonly ms: number
  readonly said: string
}

async function connect(names: readonly string[]): Promise<Outcome[]> {
  const said = await check(PYTHON, ['-c', MANY, ...names.map(name => pool.uri(encodeURIComponent(name)))], {
    timeout: 170_000,
  })
  return said
    .trimEnd()
    .split('\n')
    .map(line => {
      const [word, size, ms] = line.split(' ')
      return { served: word === 'ok', size: Number(size), ms: Number(ms), said: line }
    })
}

const served = (outcomes: readonly Outcome[]) => outcomes.filter(outcome => outcome.served)

/** What the clients that were refused were told. The server's log leaves most of a hundred alike lines out. */
const refusals = (outcomes: readonly Outcome[]) =>
  outcomes
    .filter(outcome => !outcome.served)
    .map(({ said }) => said)
    .join('\n')

async function removeAll(): Promise<void> {
  for (const { metadata } of await pool.disks()) await pool.remove(metadata.name)
  await vi.waitFor(async () => expect(await pool.disks()).toEqual([]), SLOW)
  const files = await readdir(join(pool.volume, 'disks'))
  expect(files.filter(name => !name.startsWith('.'))).toEqual([])
}

describe('A name that no disk has', () => {
  test('becomes an object when a client connects to it, with a name that Kubernetes allows', async () => {
    const [plain, odd, sized] = await connect(['plain', 'Größe !', 'big:16M'])
    expect([plain?.size, odd?.size, sized?.size]).toEqual([8 * MIB, 8 * MIB, 16 * MIB])
    const disks = await pool.disks()
    const names = disks.map(({ metadata, spec }) => [metadata.name, spec.exportName, spec.size]).sort()
    expect(names).toEqual([
      ['big', 'big', 16 * MIB],
      [expect.stringMatching(/^gr-e-[0-9a-f]{10}$/), 'Größe !', 8 * MIB],
      ['plain', 'plain', 8 * MIB],
    ])
    await vi.waitFor(async () => {
      for (const disk of await pool.disks()) {
        const ready = disk.status?.conditions?.find(({ type }) => type === 'Ready')
        expect(ready).toMatchObject({ status: 'True' })
      }
    }, SLOW)
    // What is there is served as it is.
    const [again] = await connect(['plain:32M'])
    expect(again?.size).toBe(8 * MIB)
  })

  test('is only looked at by INFO, and refused with the limit that keeps it out', async () => {
    const before = (await pool.disks()).length
    const look = `import nbd, sys
h = nbd.NBD(); h.set_opt_mode(True); h.connect_uri(sys.argv[1]); h.opt_info(); print(h.get_size()); h.opt_abort()`
    expect(Number(await check(PYTHON, ['-c', look, pool.uri('never')]))).toBe(8 * MIB)
    const [large] = await connect(['large:64M'])
    expect(large).toMatchObject({ served: false })
    expect(pool.nbd.log()).toContain('spec.onDemand.maxSize')
    expect(await pool.disks()).toHaveLength(before)
    await removeAll()
  })
})

describe('A hundred clients at once', () => {
  const names = (count: number, prefix: string) =>
    Array.from({ length: count }, (_, index) => `${prefix}${index}`)

  test('get as many disks as maxDisks allows, and the others are told so', async () => {
    await pool.changePool({ onDemand: { maxDisks: 10 } })
    await settle()
    const outcomes = await connect(names(100, 'm'))
    expect(served(outcomes)).toHaveLength(10)
    expect(await pool.disks()).toHaveLength(10)
    expect(refusals(outcomes)).toContain('spec.onDemand.maxDisks')
    await removeAll()
  }, 240_000)

  test('get no more than the quota, whatever size they ask for', async () => {
    await pool.changePool({ onDemand: { maxDisks: null }, quota: '100Mi' })
    await settle()
    const outcomes = await connect(
      names(100, 'q').map((name, index) => `${name}:${index % 3 === 0 ? 32 : 8}M`),
    )
    const sum = (await pool.disks()).reduce((total, { spec }) => total + Number(spec.size), 0)
    expect(sum).toBeLessThanOrEqual(100 * MIB)
    // Nothing that would still have fitted was refused.
    expect(sum).toBeGreaterThan(92 * MIB)
    expect(served(outcomes)).toHaveLength((await pool.disks()).length)
    expect(refusals(outcomes)).toContain('spec.quota')
    await pool.changePool({ quota: null })
    await removeAll()
  }, 240_000)

  test('that all want one name share it', async () => {
    await settle()
    const outcomes = await connect(Array.from({ length: 4 }, () => 'shared'))
    expect(served(outcomes)).toHaveLength(4)
    expect(await pool.disks()).toHaveLength(1)
    await removeAll()
  })

  /** The agent follows the pool within moments of the edit. */
  async function settle(): Promise<void> {
    const { metadata } = await pool.pool()
    await vi.waitFor(() => expect(pool.agent.log()).toContain(`"generation":${metadata.generation}`), SLOW)
  }
})

test('A spare is taken without a wait for a Job, and replaced', async () => {
  await pool.changePool({ onDemand: { spares: 5 } })
  // The pool's status tells of those that are taken a moment later.
  const stocked = () =>
    vi.waitFor(async () => {
      const files = await readdir(join(pool.volume, 'spares'))
      expect(files.filter(name => !name.startsWith('.'))).toHaveLength(5)
    }, SLOW)
  await stocked()
  const times: number[] = []
  for (let round = 0; round < 4; round++) {
    for (let index = 0; index < 5; index++) {
      const [outcome] = await connect([`spare${round}${index}`])
      expect(outcome).toMatchObject({ served: true, size: 8 * MIB })
      times.push(outcome?.ms ?? Number.NaN)
    }
    await stocked()
  }
  const disks = await pool.disks()
  const taken = disks.filter(({ metadata }) => metadata.annotations?.['ondemanddisk.dev/spare'] !== undefined)
  expect(taken).toHaveLength(20)
  for (const { metadata } of taken) expect(pool.jobs.has(`odd-${metadata.uid}`)).toBe(false)
  times.sort((a, b) => a - b)
  process.stdout.write(`connect to first byte with a spare, ms: ${times.map(Math.round).join(' ')}\n`)
  await removeAll()
}, 240_000)

test('Without onDemand nothing is made', async () => {
  await pool.changePool({ onDemand: { enabled: false } })
  await vi.waitFor(async () => {
    const [outcome] = await connect(['nobody'])
    expect(outcome).toMatchObject({ served: false })
    await removeAll()
    expect(pool.nbd.log()).toContain('none is made on demand')
  }, SLOW)
}, 120_000)
