import { execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test, vi } from 'vitest'
import { CREATION_STEPS } from '../backends/disks/create.ts'
import { HIDDEN_NAME } from '../backends/disks/directory.ts'
import { cannotMount, makeDirectory, makeSmallFilesystem } from '../backends/disks/test-directory.ts'
import { make as makeIt } from './make.ts'
import { UsageError } from './options.ts'
import { run } from './test-programs.ts'

const MAIN = join(import.meta.dirname, '../main.ts')
const MIB = 2 ** 20
const UID = '6f0f4a0e-3f0e-4b3e-9d5e-0e8f5f1c2a3b'

function object(spec: Record<string, unknown>, metadata: Record<string, unknown> = { uid: UID }) {
  return {
    apiVersion: 'ondemanddisk.dev/v1alpha1',
    kind: 'OnDemandDisk',
    metadata: { name: 'alice', namespace: 'default', resourceVersion: '7', ...metadata },
    spec: { poolName: 'lab', exportName: 'Alice: her disk', ...spec },
    status: { conditions: [] },
  }
}

/** A volume, and a manifest beside it. */
function setUp(content: unknown, volume = makeDirectory()) {
  const beside = makeDirectory()
  const manifest = join(beside, 'disk.json')
  writeFileSync(manifest, typeof content === 'string' ? content : JSON.stringify(content))
  const dir = join(volume, 'disks')
  const message = join(beside, 'message')
  const argv = ['--dir', dir, '--manifest', manifest, '--message-file', message]
  return {
    dir,
    argv,
    message: () => (existsSync(message) ? readFileSync(message, 'utf8') : undefined),
    make: (...more: string[]) => makeIt([...argv, ...more]),
    program: (...more: string[]) => run(process.execPath, MAIN, 'make', ...argv, ...more),
    disks: () => readdirSync(dir).filter(name => name !== HIDDEN_NAME),
    leftovers: () => (existsSync(join(dir, HIDDEN_NAME)) ? readdirSync(join(dir, HIDDEN_NAME)) : []),
  }
}

const DONE = { status: 0, stdout: '', stderr: '' }

test('makes the file of the UID, once, and never touches it again', async () => {
  const { make, program, dir, disks, leftovers, message } = setUp(
    object({ size: '8Mi', filesystem: { type: 'ext4', label: 'alice' } }),
  )
  expect(await program()).toEqual(DONE)
  expect(disks()).toEqual([UID])
  expect(leftovers()).toEqual([])
  expect(execFileSync('e2label', [join(dir, UID)], { encoding: 'utf8' })).toBe('alice\n')
  expect(message()).toBeUndefined()

  writeFileSync(join(dir, UID), 'what a client has written')
  await make()
  expect(readFileSync(join(dir, UID), 'utf8')).toBe('what a client has written')
})

test('two at once make one disk', async () => {
  const { make, disks, leftovers } = setUp(object({ size: '8Mi' }))
  await Promise.all([make(), make()])
  expect(disks()).toEqual([UID])
  expect(leftovers()).toEqual([])
})

test('spares: makes those that are missing', async () => {
  const { make, dir, disks } = setUp(object({ size: '8Mi' }))
  mkdirSync(dir)
  writeFileSync(join(dir, `${UID}-1`), 'there')
  await make('--spares', '3')
  expect(disks().sort()).toEqual([0, 1, 2].map(index => `${UID}-${index}`))
  expect(readFileSync(join(dir, `${UID}-1`), 'utf8')).toBe('there')
  const uuids = [0, 2].map(index => execFileSync('blkid', ['-p', '-s', 'UUID', join(dir, `${UID}-${index}`)]))
  expect(uuids[0]).not.toEqual(uuids[1])
})

describe('killed in the middle, it leaves no disk or a whole one, and the next run ends well', () => {
  test.for(CREATION_STEPS.filter(step => step !== 'recorded'))('at %s', async step => {
    const { argv, make, dir, disks, leftovers } = setUp(object({ size: '8Mi' }))
    const program = join(import.meta.dirname, 'making-process.ts')
    expect((await run(process.execPath, program, step, ...argv)).status).toBe(-1)
    const isNamed = ['published', 'durable', 'cleared'].includes(step)
    expect(disks()).toEqual(isNamed ? [UID] : [])
    const before = isNamed ? readFileSync(join(dir, UID)) : undefined

    await make()
    execFileSync('e2fsck', ['-fn', join(dir, UID)], { stdio: 'ignore' })
    if (before) expect(readFileSync(join(dir, UID)).equals(before)).toBe(true)
    // What is left over of a disk that is there, the pool's server removes when it starts.
    else expect(leftovers()).toEqual([])
  })
})

describe('says in one line, also for the termination log, why it fails', () => {
  test.for<[string, unknown, number, RegExp]>([
    [
      'what mkfs said last',
      object({ size: '1Mi', filesystem: { type: 'btrfs' } }),
      1,
      /^mkfs\.btrfs failed: ERROR: minimum size /,
    ],
    [
      'what a command said last',
      object({ size: 0, command: 'echo no luck >&2; exit 3' }),
      1,
      /^The command failed: no luck$/,
    ],
    [
      'no such mkfs',
      object({ size: '8Mi', filesystem: { type: 'nosuchfs' } }),
      2,
      /^spec\.filesystem\.type: There is no program mkfs\.nosuchfs/,
    ],
    ['a bad size', object({ size: '8MiB' }), 2, /^spec\.size: /],
    ['no UID', object({ size: '8Mi' }, {}), 2, /^metadata\.uid: This field is required/],
    ['a UID that leads elsewhere', object({ size: '8Mi' }, { uid: '../x' }), 2, /^metadata\.uid: /],
    [
      'a temporary disk',
      object({ size: '8Mi', mode: 'Temporary' }),
      2,
      /^spec\.mode: There is nothing to make/,
    ],
    [
      'an upstream',
      object({ upstream: { uri: 'nbd://other' } }),
      2,
      /^spec\.upstream: There is nothing to make/,
    ],
    ['no object', '', 2, /The file holds no object/],
    [
      'two objects',
      `${JSON.stringify(object({ size: 1 }))}\n---\n${JSON.stringify(object({ size: 1 }))}`,
      2,
      /one object/,
    ],
    [
      'text of a terminal',
      object({ size: 0, command: String.raw`printf 'a\033[2J\n' >&2; false` }),
      1,
      /^The command failed: a \[2J$/,
    ],
  ])('%s', async ([, content, status, reason]) => {
    const { make, message, dir, disks, leftovers } = setUp(content)
    const error = await make().then(
      () => undefined,
      (thrown: unknown) => thrown,
    )
    expect(error).toMatchObject({ message: expect.stringMatching(reason) })
    expect(error instanceof UsageError ? 2 : 1).toBe(status)
    expect(message()).toMatch(reason)
    if (existsSync(dir)) expect([...disks(), ...leftovers()]).toEqual([])
  })

  test.for([
    ['1Mi', 'btrfs', 1],
    ['8Mi', 'nosuchfs', 2],
  ] as const)('and on standard error: %s of %s', async ([size, type, status]) => {
    const { program, message } = setUp(object({ size, filesystem: { type } }))
    expect(await program()).toEqual({ status, stdout: '', stderr: `ondemand-disk: ${message()}\n` })
  })

  test('a command that hangs', async () => {
    const { make, message, disks, leftovers } = setUp(object({ size: 0, command: 'sleep 60 & sleep 60' }))
    await expect(make('--command-timeout', '200ms')).rejects.toThrow()
    expect(message()).toMatch(/^The command was killed: not done after 0\.2 s/)
    expect([...disks(), ...leftovers()]).toEqual([])
  })

  test('options that are missing or wrong', async () => {
    const { make, argv } = setUp(object({ size: '8Mi' }))
    await expect(make('--spares', '0')).rejects.toThrow(/^--spares: /)
    await expect(makeIt(argv.slice(2))).rejects.toThrow('--dir is missing')
    await expect(makeIt(argv.slice(0, 2))).rejects.toThrow('--manifest is missing')
  })

  test('a volume that is not mounted', async () => {
    const { make, message } = setUp(object({ size: '8Mi' }), '/nonexistent/volume')
    await expect(make()).rejects.toThrow()
    expect(message()).toBe('--dir: /nonexistent/volume/disks cannot be made: there is no /nonexistent/volume')
  })

  test('a volume that is full', async ({ skip }) => {
    skip(cannotMount !== undefined, cannotMount)
    const { make, message, disks, leftovers } = setUp(
      object({ size: 0, command: 'head -c 2M /dev/zero > "$disk"' }),
      makeSmallFilesystem(MIB),
    )
    await expect(make()).rejects.toThrow()
    expect(message()).toMatch(/^No space left for a new disk/)
    expect([...disks(), ...leftovers()]).toEqual([])
  })
})

test('SIGTERM ends the command with its children, and leaves nothing', async () => {
  const { argv, message, disks, leftovers, dir } = setUp(
    object({ size: 0, command: `sleep 60 & truncate -s 1M "$disk"; sleep 60` }),
  )
  const child = spawn(process.execPath, [MAIN, 'make', ...argv], { stdio: 'ignore' })
  const ended = new Promise(resolve => child.on('exit', (code, signal) => resolve({ code, signal })))
  const made = () => readdirSync(dir, { recursive: true }).some(name => String(name).endsWith('/disk'))
  await vi.waitFor(() => expect(made()).toBe(true), { timeout: 8000 })
  child.kill('SIGTERM')
  expect(await ended).toEqual({ code: 143, signal: null })
  expect(message()).toBe('Stopped by SIGTERM before the disk was made')
  expect([...disks(), ...leftovers()]).toEqual([])
})
