/** The agent of a pool: from the API to clients that read and write, and back into the disks' status. */
import { existsSync } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { check, run } from '../harness.ts'
import { PYTHON } from '../libnbd.ts'
import { startPool, type TestPool } from './pool.ts'

const MIB = 2 ** 20
/** On a machine that is busy with other things nothing is quick. */
const SLOW = { timeout: 60_000, interval: 100 }

let pool: TestPool

beforeAll(async () => {
  pool = await startPool()
}, 300_000)

afterAll(async () => {
  await pool?.[Symbol.asyncDispose]()
})

const conditionOf = (disk: OnDemandDisk | undefined, type: string) =>
  disk?.status?.conditions?.find(condition => condition.type === type)

const summary = (disk: OnDemandDisk | undefined, type: string) => {
  const { status, reason } = conditionOf(disk, type) ?? {}
  return `${status} ${reason}`
}

async function ready(name: string): Promise<OnDemandDisk> {
  return await vi.waitFor(async () => {
    const disk = await pool.disk(name)
    expect(summary(disk, 'Ready')).toBe('True Ready')
    return disk as OnDemandDisk
  }, SLOW)
}

const gone = (name: string) => vi.waitFor(async () => expect(await pool.disk(name)).toBeUndefined(), SLOW)

const WRITE = `import nbd, sys
h = nbd.NBD(); h.connect_uri(sys.argv[1])
h.pwrite(b"x" * 512, 4096); h.flush(); assert h.pread(512, 4096) == b"x" * 512
print(h.get_size())`

/** Reads until that fails, or stdin of the shell around it ends; says when, in ms since 1970. */
const HOLD = `import nbd, sys, time
h = nbd.NBD(); h.connect_uri(sys.argv[1])
print("open", flush=True)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    try:
        h.pread(512, 0); time.sleep(0.02)
    except nbd.Error:
        print("lost", time.time() * 1000, flush=True); sys.exit(0)
print("kept")`

/** A client that has the disk open until it loses it, or for so many seconds. */
async function hold(name: string, seconds: number): Promise<{ ended: Promise<string> }> {
  const opened = Promise.withResolvers<void>()
  const ended = check(PYTHON, ['-c', HOLD, pool.uri(name), String(seconds)], {
    timeout: (seconds + 30) * 1000,
    onLine: line => line === 'open' && opened.resolve(),
  })
  await Promise.race([opened.promise, ended])
  return { ended }
}

const lostAt = (said: string) => Number(/lost ([\d.]+)/.exec(said)?.[1] ?? Number.POSITIVE_INFINITY)

async function write(name: string): Promise<number> {
  return Number(await check(PYTHON, ['-c', WRITE, pool.uri(name)]))
}

const isRefused = async (name: string) => (await run(PYTHON, ['-c', WRITE, pool.uri(name)])).status !== 0

test('A disk is formatted by a Job once, served, and says so', async () => {
  await pool.apply('alice', { size: '16Mi' })
  const disk = await ready('alice')
  expect(await write('alice')).toBe(16 * MIB)
  expect(disk.status).toMatchObject({ size: 16 * MIB, uri: expect.stringMatching(/^nbd:.*\/alice$/) })
  expect(summary(disk, 'Exported')).toBe('True Serving')
  expect(pool.jobs.get(`odd-${disk.metadata.uid}`)).toBe(1)

  const held = await hold('alice', 8)
  await vi.waitFor(async () => {
    const { status } = (await pool.disk('alice')) as OnDemandDisk
    expect(status).toMatchObject({ connections: 1, clients: ['127.0.0.1'] })
  }, SLOW)
  await held.ended
  await vi.waitFor(async () => {
    expect((await pool.disk('alice'))?.status).toMatchObject({ connections: 0, clients: [] })
  }, SLOW)
  await vi.waitFor(async () => {
    expect((await pool.pool()).status).toMatchObject({
      capacity: expect.any(Number),
      free: expect.any(Number),
    })
  }, SLOW)
})

test('Temporary disks and those with upstream need no Job', async () => {
  await pool.apply('tmp', { size: '8Mi', mode: 'Temporary' })
  await ready('tmp')
  expect(await write('tmp')).toBe(8 * MIB)
  await pool.apply('far', { upstream: { uri: pool.uri('tmp') } })
  await ready('far')
  expect(await write('far')).toBe(8 * MIB)
  for (const name of ['tmp', 'far']) await pool.remove(name)
  for (const name of ['tmp', 'far']) await gone(name)
})

describe('Policy', () => {
  test('of a disk holds for open connections within two seconds of the edit', async () => {
    await pool.apply('bob', { size: '16Mi' })
    await ready('bob')
    const held = await hold('bob', 30)
    await pool.apply('bob', { access: { allow: ['10.99.0.0/16'] } })
    const at = Date.now()
    expect(lostAt(await held.ended) - at).toBeLessThan(2000)
    expect(await isRefused('bob')).toBe(true)
    await pool.apply('bob', { access: { allow: ['127.0.0.0/8'] } })
    await vi.waitFor(async () => expect(await isRefused('bob')).toBe(false), SLOW)
  })

  test('of the pool, too, and its server is not restarted for it', async () => {
    const held = await hold('bob', 30)
    await pool.changePool({ access: { deny: ['127.0.0.1'] } })
    const at = Date.now()
    expect(lostAt(await held.ended) - at).toBeLessThan(2000)
    expect(await isRefused('bob')).toBe(true)
    await pool.changePool({ access: { deny: [] } })
    await vi.waitFor(async () => expect(await isRefused('bob')).toBe(false), SLOW)
  })

  test('that is wrong changes nothing, and is told', async () => {
    const disk = (await pool.disk('bob')) as OnDemandDisk
    await pool.apply('bob', { access: { allow: ['10.0.0.1/99'] } })
    await vi.waitFor(
      async () => expect(summary(await pool.disk('bob'), 'Ready')).toBe('False InvalidSpec'),
      SLOW,
    )
    expect(await isRefused('bob')).toBe(false)
    await pool.apply('bob', { access: { allow: [] } })
    await ready('bob')
    expect((await pool.disk('bob'))?.metadata.uid).toBe(disk.metadata.uid)
  })
})

test('A disk grows while a client has it, and its filesystem when the client has left', async () => {
  await pool.apply('carol', { size: '16Mi' })
  await ready('carol')
  const held = await hold('carol', 6)
  await pool.apply('carol', { size: '64Mi' })
  await vi.waitFor(async () => {
    const disk = await pool.disk('carol')
    expect(disk?.status?.size).toBe(64 * MIB)
    expect(summary(disk, 'Resizing')).toBe('True WaitingForClients')
  }, SLOW)
  await held.ended
  await vi.waitFor(
    async () => expect(summary(await pool.disk('carol'), 'Resizing')).toBe('False Resized'),
    SLOW,
  )
  const file = join(pool.volume, 'disks', (await ready('carol')).metadata.uid ?? '')
  expect(await check('dumpe2fs', ['-h', file])).toMatch(/Block count: +(65536|16384)\n/)
  expect(await write('carol')).toBe(64 * MIB)
})

test('A file that is missing is told, and never formatted again', async () => {
  await pool.apply('dave', { size: '16Mi' })
  const { metadata } = await ready('dave')
  await check('rm', [join(pool.volume, 'disks', metadata.uid ?? '')])
  // Nothing tells of it but a client, or the next look.
  expect(await isRefused('dave')).toBe(true)
  await vi.waitFor(
    async () => expect(summary(await pool.disk('dave'), 'Ready')).toBe('False DataMissing'),
    SLOW,
  )
  expect(existsSync(join(pool.volume, 'disks', metadata.uid ?? ''))).toBe(false)
  expect(pool.jobs.get(`odd-${metadata.uid}`)).toBe(1)
  await pool.remove('dave')
  await gone('dave')
})

describe('A disk that is deleted', () => {
  test('waits for its clients, says who they are, and takes no new ones', async () => {
    await pool.apply('erin', { size: '16Mi', access: { connections: 2 } })
    const { metadata } = await ready('erin')
    const held = await hold('erin', 8)
    await pool.remove('erin')
    await vi.waitFor(async () => {
      const condition = conditionOf(await pool.disk('erin'), 'Ready')
      expect(condition).toMatchObject({ status: 'False', reason: 'Deleting' })
      expect(condition?.message).toContain('127.0.0.1')
    }, SLOW)
    expect(await isRefused('erin')).toBe(true)
    expect(await held.ended).toContain('kept')
    await gone('erin')
    expect(existsSync(join(pool.volume, 'disks', metadata.uid ?? ''))).toBe(false)
  })

  test('does not wait if it is forced, and is kept if it says so', async () => {
    await pool.apply('frank', { size: '16Mi', reclaimPolicy: 'Retain' })
    const { metadata } = await ready('frank')
    const held = await hold('frank', 60)
    await pool.annotate('frank', { 'ondemanddisk.dev/force-delete': 'true' })
    await pool.remove('frank')
    await gone('frank')
    expect(await held.ended).toContain('lost')
    expect((await stat(join(pool.volume, 'retained', metadata.uid ?? ''))).size).toBe(16 * MIB)
    expect(await readdir(join(pool.volume, 'disks'))).not.toContain(metadata.uid)
  })
})

test('Nothing is written while nothing changes', async () => {
  await ready('alice')
  await vi.waitFor(
    async () => {
      const before = (await pool.disks()).map(({ metadata }) => metadata.resourceVersion)
      await new Promise(resolve => setTimeout(resolve, 8000))
      expect((await pool.disks()).map(({ metadata }) => metadata.resourceVersion)).toEqual(before)
    },
    { timeout: 40_000 },
  )
})

test('While the API server is away disks stay served, whatever is restarted, and changes catch up', async () => {
  await ready('bob')
  await pool.plane.killApiServer()
  expect(await write('bob')).toBe(16 * MIB)
  await pool.nbd.kill()
  await pool.nbd.start()
  expect(await write('bob')).toBe(16 * MIB)
  await pool.agent.kill()
  await pool.agent.start()
  expect(await write('bob')).toBe(16 * MIB)
  await pool.plane.startApiServer()
  await pool.apply('bob', { size: '32Mi' })
  await vi.waitFor(async () => expect(await write('bob')).toBe(32 * MIB), SLOW)
  await ready('bob')
}, 180_000)
