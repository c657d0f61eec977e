/** An agent that is killed while it has a copy made, by a server that lives on. */
import { type ChildProcess, spawn } from 'node:child_process'
import { readdirSync, readFileSync, statSync, writeFileSync, writeSync } from 'node:fs'
import { type FileHandle, mkdir, open } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { makeDirectory } from '../../server/backends/disks/test-directory.ts'
import { copyOfNow, type PointCopy } from '../../server/backends/file/point-copy.ts'
import { makeCopy } from '../../server/control/copies.ts'
import { serveJson } from '../../server/control/unix-http.ts'
import { COPY_STEPS, type CopyOrder, type CopyStep } from './copier.ts'
import { copyOnce } from './test-copy.ts'

const DISK = '11111111-0000-4000-8000-000000000001'
const SNAPSHOT = '22222222-0000-4000-8000-000000000002'
const CLONE = '33333333-0000-4000-8000-000000000003'
const SIZE = 2 ** 20

const ORDERS: readonly (readonly [string, CopyOrder])[] = [
  [
    'a snapshot of a disk',
    { from: { place: 'disks', uid: DISK }, to: { place: 'snapshots', uid: SNAPSHOT } },
  ],
  [
    'a disk of a snapshot',
    { from: { place: 'snapshots', uid: SNAPSHOT }, to: { place: 'disks', uid: CLONE } },
  ],
]

type Copy = (disk: FileHandle, to: number, signal: AbortSignal) => Promise<PointCopy>

const copyWhole: Copy = ({ fd }, to, signal) =>
  copyOfNow({ fd, size: SIZE, setBarrier: () => {}, changes: () => 0 }, to, signal)

/** A volume with what is to be copied, and the server's part of copying a disk. */
async function setUp({ from, to }: CopyOrder) {
  const volume = makeDirectory()
  const control = join(makeDirectory(), 'control.sock')
  await mkdir(join(volume, from.place))
  const content = Buffer.alloc(SIZE, 'content ')
  writeFileSync(join(volume, from.place, from.uid), content)
  const server = { copy: copyWhole }
  const source = {
    async copy(uid: string, target: number, signal: AbortSignal) {
      const disk = await open(join(volume, 'disks', uid))
      try {
        return await server.copy(disk, target, signal)
      } finally {
        await disk.close()
      }
    },
  }
  const routes = {
    'POST /copies': ({ body, signal }: { body: unknown; signal: AbortSignal }) =>
      makeCopy(source, body, signal),
  }
  const listening = await serveJson(control, routes, error => {
    throw error
  })
  onTestFinished(() => listening.close())
  const target = join(volume, to.place, to.uid)
  return {
    server,
    copy: () => copyOnce({ volume, control, order: { from, to } }),
    startAgent(dieAt?: CopyStep): ChildProcess {
      const program = join(import.meta.dirname, 'copying-process.ts')
      const told = JSON.stringify({ volume, control, order: { from, to }, dieAt })
      return spawn(process.execPath, [program, told], { stdio: ['ignore', 'ignore', 'inherit'] })
    },
    inode: () => statSync(target, { throwIfNoEntry: false })?.ino,
    expectWhole() {
      expect(readFileSync(target).equals(content)).toBe(true)
      expect(readFileSync(join(volume, from.place, from.uid)).equals(content)).toBe(true)
      expect(readdirSync(join(volume, 'copies'))).toEqual([])
    },
  }
}

const ending = (child: ChildProcess): Promise<NodeJS.Signals | null> =>
  new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (_, signal) => resolve(signal))
  })

describe.each(ORDERS)('An agent that is killed while it makes %s', (_, order) => {
  test.each(COPY_STEPS)('at %s: it is whole or not there, and the next agent makes it', async step => {
    const { startAgent, copy, inode, expectWhole } = await setUp(order)
    expect(await ending(startAgent(step))).toBe('SIGKILL')
    const published = inode()
    expect(published !== undefined).toBe(step === 'published')
    if (published !== undefined) expectWhole()

    expect(await copy()).toMatchObject({ state: 'done' })
    expectWhole()
    // What had its name already may be in use: it is not made anew.
    if (published !== undefined) expect(inode()).toBe(published)
  })
})

test('An agent that is killed while the server copies: half a copy counts for nothing, and is called off', async () => {
  const [[, order] = []] = ORDERS
  const { server, startAgent, copy, inode, expectWhole } = await setUp(order as CopyOrder)
  let agent: ChildProcess | undefined
  const half = new Promise<boolean>(resolve => {
    server.copy = async (_, to, signal) => {
      writeSync(to, Buffer.alloc(SIZE / 2, 'content '))
      agent?.kill('SIGKILL')
      await new Promise(calledOff => signal.addEventListener('abort', calledOff, { once: true }))
      resolve(inode() === undefined)
      throw signal.reason
    }
  })
  agent = startAgent()
  expect(await ending(agent)).toBe('SIGKILL')
  expect(await half).toBe(true)
  server.copy = copyWhole
  expect(await copy()).toMatchObject({ state: 'done' })
  expectWhole()
})
