/** That a program which makes one request at a time does not have to wake the daemon up for each. */
import { readFile } from 'node:fs/promises'
import { beforeEach, expect, test } from 'vitest'
import { check, scratch, startServer } from '../harness.ts'
import { until } from '../until.ts'
import { fuse, needRoot } from './mounts.ts'

beforeEach(needRoot)

const READS = 500
/** Sleeps for each read. */
const SELDOM = 0.8

async function sleepsOf(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return Number(/^voluntary_ctxt_switches:\s*(\d+)$/m.exec(status)?.[1])
}

test('Requests and their answers over NBD are looked for before the daemon sleeps', {
  timeout: 330_000,
}, async () => {
  await using directory = await scratch()
  await using folder = await scratch()
  await using server = await startServer(['--dir', directory.path, '--size', '64M'])
  const read = ['iflag=direct', 'bs=4k', `count=${READS}`, 'of=/dev/null', 'status=none']
  let least = Number.POSITIVE_INFINITY
  // On a machine with other work answers often come late, and a daemon that has seen that does not look for them for long.
  const sleepsSeldom = async () => {
    await using file = await fuse(`nbd://127.0.0.1:${server.port}/alice`, folder.path)
    const pid = file.child.pid as number
    for (let round = 0; round < 5 && least >= SELDOM; round++) {
      const before = await sleepsOf(pid)
      await check('dd', [`if=${file.path}`, ...read])
      least = Math.min(least, ((await sleepsOf(pid)) - before) / READS)
    }
    return least < SELDOM
  }
  await until('the daemon sleeps seldom', 300_000, sleepsSeldom).catch(() => undefined)
  // One for each request, and one for its answer, are what it takes without.
  expect(least, 'sleeps for each read').toBeLessThan(SELDOM)
})
