/**
 * What calls do to the file, beside qemu-storage-daemon's FUSE export: the same calls on both, on images that
 * are alike. Where the two differ, the difference and its reason stand here, and a difference that is no more
 * fails the test.
 */
import { spawn } from 'node:child_process'
import { copyFile, open } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { needPrograms, scratch } from '../harness.ts'
import { fuse, needRoot, qemuFuse } from './mounts.ts'

const MiB = 1024 * 1024
const KEEP_SIZE = 1
const PUNCH_HOLE = 2
const ZERO_RANGE = 16
const COLLAPSE_RANGE = 8

type Call = readonly [name: string, ...args: (string | number)[]]

/** The image: 1 MiB of data, 1 MiB of hole, 1 MiB of data, 1 MiB of hole. */
const SIZE = 4 * MiB

async function makeImage(path: string): Promise<void> {
  const file = await open(path, 'w')
  const data = Buffer.alloc(MiB)
  for (let i = 0; i < data.length; i++) data[i] = (i * 31 + (i >> 10)) & 0xff
  await file.write(data, 0, MiB, 0)
  await file.write(data, 0, MiB, 2 * MiB)
  await file.truncate(SIZE)
  await file.sync()
  await file.close()
}

async function perform(path: string, calls: readonly Call[]): Promise<unknown[]> {
  const child = spawn('python3', [join(import.meta.dirname, 'calls.py'), path], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  child.stdin.end(calls.map(call => `${JSON.stringify(call)}\n`).join(''))
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
  })
  const status = await new Promise(resolve => child.once('close', resolve))
  expect(status).toBe(0)
  return text
    .trim()
    .split('\n')
    .map(line => JSON.parse(line))
}

/** What is done to the file however it is exported. */
const COMMON: readonly Call[] = [
  ['stat'],
  ['blocks'],
  ['open', 'r'],
  ['pread', 0, 4096],
  ['pread', 1, 100],
  ['pread', SIZE - 10, 100],
  ['pread', SIZE, 10],
  ['pread', SIZE + MiB, 10],
  ['data', 0],
  ['hole', 0],
  ['data', MiB],
  ['hole', MiB],
  ['data', 3 * MiB],
  ['hole', 3 * MiB],
  ['data', SIZE],
  ['hole', SIZE],
  ['hole', SIZE + 1],
  ['end'],
  ['fsync'],
  ['unlink'],
  ['rename'],
  ['statvfs'],
  ['setxattr'],
  ['listxattr'],
  ['close'],
]

const READ_ONLY: readonly Call[] = [
  ...COMMON,
  ['open', 'w'],
  ['open', 'rw'],
  ['truncate', 0],
  ['chmod', 0o600],
  ['chmod', 0o400],
]

const WRITING: readonly Call[] = [
  ...COMMON,
  ['open', 'rw'],
  ['pwrite', 0, 4096, 1],
  ['pwrite', 5000, 3, 2],
  ['pwrite', MiB - 100, 200, 3],
  ['pwrite', 0, 2 * MiB, 4],
  ['pread', 0, 3 * MiB],
  ['pwrite', SIZE - 10, 100, 5],
  ['size'],
  ['pread', SIZE - 10, 100],
  ['pwrite', SIZE + 1000, 10, 6],
  ['pwrite', SIZE + 100_000, 10, 6],
  ['size'],
  ['pread', SIZE, 200_000],
  ['ftruncate', SIZE],
  ['fsync'],
  ['fdatasync'],
  ['fallocate', 0, 0, 4096],
  ['fallocate', KEEP_SIZE, 0, 4096],
  ['fallocate', KEEP_SIZE, SIZE, 4096],
  ['fallocate', PUNCH_HOLE, 0, 4096],
  ['fallocate', PUNCH_HOLE | KEEP_SIZE, 0, 4096],
  ['pread', 0, 8192],
  ['data', 0],
  ['fallocate', PUNCH_HOLE | KEEP_SIZE, 100, 50],
  ['fallocate', PUNCH_HOLE | KEEP_SIZE, SIZE - 4096, 8192],
  ['size'],
  ['fallocate', ZERO_RANGE | KEEP_SIZE, 2 * MiB, 5000],
  ['pread', 2 * MiB, 8192],
  ['fallocate', ZERO_RANGE | KEEP_SIZE, SIZE - 4096, 8192],
  ['size'],
  ['fallocate', ZERO_RANGE, SIZE - 4096, 8192],
  ['size'],
  ['ftruncate', SIZE],
  ['fallocate', 0, SIZE, 8192],
  ['size'],
  ['ftruncate', SIZE],
  ['fallocate', 0, SIZE + 4096, 4096],
  ['size'],
  ['fallocate', COLLAPSE_RANGE, 0, 4096],
  ['fallocate', 0, 0, 0],
  ['ftruncate', 1000],
  ['size'],
  ['pread', 0, 4096],
  ['ftruncate', SIZE],
  ['pread', 0, 8192],
  ['truncate', 3 * MiB],
  ['size'],
  ['ftruncate', SIZE],
  ['map', 8192, 'shared'],
  ['pread', 8192, 10],
  ['chmod', 0o400],
  ['stat'],
  ['chmod', 0o600],
  ['chmod', 0o644],
  ['chown', 1, 1],
  ['utime'],
  ['open', 'trunc'],
  ['size'],
  ['pwrite', 0, 10, 7],
  ['size'],
  ['append', 10, 8],
  ['size'],
]

/** A call whose results differ: what ours returns, what QEMU's does, and why. */
interface Difference {
  readonly call: Call
  readonly ours: unknown
  readonly qemu: unknown
  readonly reason: string
}

const NO_HOLES = "Debian builds QEMU 7.2 without FUSE's lseek, and then the kernel takes all for data."

/** Those of every file. */
const ALWAYS: readonly Difference[] = [
  { call: ['hole', 0], ours: MiB, qemu: SIZE, reason: NO_HOLES },
  { call: ['data', MiB], ours: 2 * MiB, qemu: MiB, reason: NO_HOLES },
  { call: ['hole', MiB], ours: MiB, qemu: SIZE, reason: NO_HOLES },
  { call: ['data', 3 * MiB], ours: 'ENXIO', qemu: 3 * MiB, reason: NO_HOLES },
  { call: ['hole', 3 * MiB], ours: 3 * MiB, qemu: SIZE, reason: NO_HOLES },
  { call: ['hole', SIZE], ours: 'ENXIO', qemu: SIZE, reason: `${NO_HOLES} Ours does what lseek(2) says.` },
  { call: ['statvfs'], ours: [SIZE, 255], qemu: [0, 255], reason: 'QEMU 7.2 has nothing for df to show.' },
]

const SECTORS = "QEMU rounds sizes up to sectors of 512 bytes; ours are the image's, byte by byte."
const CUT_SHORT = 'Ours cuts a write at the end down to nothing, as later versions of QEMU do.'
const TRUNCATED = 'QEMU 7.2 ignores O_TRUNC; later versions, and ours, obey it where the file can grow.'

/** After a truncation to 1000 bytes. */
const SHORTENED: readonly Difference[] = [
  { call: ['size'], ours: 1000, qemu: 1024, reason: SECTORS },
  {
    call: ['pread', 0, 4096],
    ours: [1000, '541b3e9daa09b20b'],
    qemu: [1024, '5f70bf18a0860070'],
    reason: SECTORS,
  },
]

const MOUNTED_READ_ONLY = 'Ours is mounted read-only, as by later versions of QEMU, so the kernel refuses.'

const DIFFERENCES: Readonly<Record<string, readonly Difference[]>> = {
  'read-only': [
    ...ALWAYS,
    { call: ['setxattr'], ours: 'EROFS', qemu: 'ENOTSUP', reason: MOUNTED_READ_ONLY },
    { call: ['open', 'w'], ours: 'EROFS', qemu: 'opened', reason: MOUNTED_READ_ONLY },
    { call: ['open', 'rw'], ours: 'EROFS', qemu: 'opened', reason: MOUNTED_READ_ONLY },
    { call: ['truncate', 0], ours: 'EROFS', qemu: 'EACCES', reason: MOUNTED_READ_ONLY },
    { call: ['chmod', 0o400], ours: 'EROFS', qemu: null, reason: MOUNTED_READ_ONLY },
  ],
  writable: [
    ...ALWAYS,
    { call: ['pwrite', SIZE + 1000, 10, 6], ours: 0, qemu: 'EIO', reason: CUT_SHORT },
    { call: ['pwrite', SIZE + 100_000, 10, 6], ours: 0, qemu: 'EIO', reason: CUT_SHORT },
    ...SHORTENED,
    { call: ['append', 10, 8], ours: 0, qemu: 'EIO', reason: CUT_SHORT },
  ],
  growable: [
    ...ALWAYS,
    { call: ['size'], ours: SIZE + 90, qemu: SIZE + 512, reason: SECTORS },
    { call: ['size'], ours: SIZE + 100_010, qemu: SIZE + 100_352, reason: SECTORS },
    {
      call: ['pread', SIZE, 200_000],
      ours: [100_010, '226298b59d24cc93'],
      qemu: [100_352, '5325fe9fefd0f88f'],
      reason: SECTORS,
    },
    ...SHORTENED,
    { call: ['size'], ours: 0, qemu: SIZE, reason: TRUNCATED },
    { call: ['size'], ours: 10, qemu: SIZE, reason: TRUNCATED },
    { call: ['size'], ours: 20, qemu: SIZE + 512, reason: `${TRUNCATED} ${SECTORS}` },
  ],
}

test.for([
  ['read-only', [], [], READ_ONLY],
  ['writable', ['--writable'], ['writable=on'], WRITING],
  ['growable', ['--writable', '--growable'], ['writable=on', 'growable=on'], WRITING],
] as const)(
  'Calls on a file that is %s do what they do with QEMU, but for what is listed',
  async ([name, ours, qemu, calls], context) => {
    needRoot(context)
    await needPrograms(context, 'qemu-storage-daemon', 'python3')
    await using folder = await scratch()
    const [image, other] = [join(folder.path, 'image'), join(folder.path, 'other')]
    await makeImage(image)
    await copyFile(image, other)
    await using ourFile = await fuse(image, folder.path, [...ours])
    await using qemuFile = await qemuFuse(other, folder.path, [...qemu, 'allow-other=off'])
    const [ourResults, qemuResults] = [
      await perform(ourFile.path, calls),
      await perform(qemuFile.path, calls),
    ]

    // A script that lost its descriptor would agree on everything.
    expect(ourResults).not.toContain('EBADF')

    const found = calls.flatMap((call, at) => {
      const [mine, theirs] = [ourResults[at], qemuResults[at]]
      return JSON.stringify(mine) === JSON.stringify(theirs) ? [] : [{ call, ours: mine, qemu: theirs }]
    })
    const listed = (DIFFERENCES[name] ?? []).map(({ reason: _, ...difference }) => difference)
    expect(found).toEqual(listed)
    expect(await ourFile.stop()).toBe(0)
  },
)
