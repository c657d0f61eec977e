/** SIGKILL of operator, agent, server and API server at random moments, while disks are made, written, grown and deleted. */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { hasCode } from '../../operator/kube/kube-error.ts'
import { JOBS } from '../../operator/kube/objects.ts'
import { run } from '../harness.ts'
import { PYTHON } from '../libnbd.ts'
import { randomFrom } from '../random.ts'
import { NAMESPACE, type Program, patience, startPool, type TestPool } from './pool.ts'

const MIB = 2 ** 20
const SLOW = { timeout: 120_000, interval: 250 }
const ROUNDS = 4
/** The same numbers each time; which moment they hit is left to the machine. */
const SEED = 20260101

let pool: TestPool

beforeAll(async () => {
  pool = await startPool()
}, 300_000)

afterAll(async () => {
  await pool?.[Symbol.asyncDispose]()
})

/** Writes a mark into the disk unless it has one, and says which it has. */
const MARK = `import nbd, sys
h = nbd.NBD(); h.connect_uri(sys.argv[1])
mark = sys.argv[2].encode().ljust(512, b"\\0")
found = h.pread(512, 2 ** 20)
if sys.argv[3] == "write":
    h.pwrite(mark, 2 ** 20); h.flush()
    found = h.pread(512, 2 ** 20)
print(found == mark, h.get_size())`

async function mark(name: string, uid: string, mode: 'write' | 'read'): Promise<string> {
  return await vi.waitFor(async () => {
    const { status, stdout, stderr } = await run(PYTHON, ['-c', MARK, pool.uri(name), uid, mode])
    expect(status, stderr).toBe(0)
    return stdout.trim()
  }, SLOW)
}

const ready = (name: string, size: number) =>
  vi.waitFor(async () => {
    const disk = await patience(() => pool.disk(name))
    const condition = disk?.status?.conditions?.find(({ type }) => type === 'Ready')
    expect(condition).toMatchObject({ status: 'True' })
    expect(disk?.status?.size).toBe(size)
    return disk?.metadata.uid as string
  }, SLOW)

test(`every disk is made once, keeps its data, and is gone when it is deleted: ${ROUNDS} rounds`, async () => {
  const random = randomFrom(SEED)
  const victims: readonly (Pick<Program, 'kill' | 'start'> & { readonly name: string })[] = [
    { name: 'operator', kill: pool.operator.kill, start: pool.operator.start },
    { name: 'agent', kill: pool.agent.kill, start: pool.agent.start },
    { name: 'nbd', kill: pool.nbd.kill, start: pool.nbd.start },
    { name: 'API server', kill: pool.plane.killApiServer, start: pool.plane.startApiServer },
  ]
  let isOver = false
  const killing = (async () => {
    while (!isOver) {
      await sleep(300 + random() * 2500)
      const victim = victims[Math.floor(random() * victims.length)]
      await victim?.kill()
      await sleep(random() * 1000)
      await victim?.start()
    }
  })()
  // What it fails with is told at the end.
  killing.catch(() => {})
  const kept = new Map<string, string>()
  try {
    for (let round = 0; round < ROUNDS; round++) {
      const names = [0, 1, 2].map(index => `disk${round}-${index}`)
      for (const name of names) await patience(() => pool.apply(name, { size: '8Mi' }))
      await Promise.all(
        names.map(async name => {
          const uid = await ready(name, 8 * MIB)
          kept.set(name, uid)
          expect(await mark(name, uid, 'write')).toMatch(/^True/)
        }),
      )
      const [grown = '', deleted = ''] = names
      await patience(() => pool.apply(grown, { size: '16Mi' }))
      await patience(() => pool.remove(deleted)).catch((error: unknown) => {
        // The API server had done it before it died.
        if (!hasCode(error, 'NotFound')) throw error
      })
      await ready(grown, 16 * MIB)
      await vi.waitFor(async () => expect(await patience(() => pool.disk(deleted))).toBeUndefined(), SLOW)
      kept.delete(deleted)
    }
  } finally {
    isOver = true
    await killing
  }
  for (const [name, uid] of kept) {
    const size = name.endsWith('-0') ? 16 * MIB : 8 * MIB
    await ready(name, size)
    expect(await mark(name, uid, 'read')).toBe(`True ${size}`)
  }
  const files = (await readdir(join(pool.volume, 'disks'))).filter(file => !file.startsWith('.'))
  expect(files.sort()).toEqual([...kept.values()].sort())
  await vi.waitFor(async () => {
    const { items } = await pool.plane.client.list(JOBS, { namespace: NAMESPACE })
    expect(items).toEqual([])
  }, SLOW)
}, 900_000)
