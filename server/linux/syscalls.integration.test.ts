import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  existsSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import koffi from 'koffi'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { ERRNO, errnoName, errnoOf, SystemCallError } from './errno.ts'
import {
  addressOf,
  blockDeviceSize,
  configureTcp,
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  fadvise,
  fallocate,
  fdatasync,
  lastErrno,
  limitUnsent,
  lockFile,
  lseek,
  nap,
  peerProcess,
  peerState,
  pread,
  pwrite,
  renameNoReplace,
  SEEK_DATA,
  SEEK_HOLE,
  tryPreadCached,
  trySend,
  unlockFile,
  voluntarySwitches,
} from './syscalls.ts'

function makeDirectory(): string {
  const path = mkdtempSync(join(tmpdir(), 'ondemand-disk-test-'))
  onTestFinished(() => rmSync(path, { recursive: true, force: true }))
  return path
}

function makeFile(content: string | Buffer = ''): string {
  const path = join(makeDirectory(), 'file')
  writeFileSync(path, content)
  return path
}

function open(path: string, flags = 'r+'): number {
  const fd = openSync(path, flags)
  onTestFinished(() => closeSync(fd))
  return fd
}

const BAD_DESCRIPTOR = 999_999

describe('Locks', () => {
  test('for writing exclude every other open file description, also of this process', () => {
    const path = makeFile()
    const [one, other] = [open(path), open(path)]
    expect(lockFile(one, 'write')).toBe(true)
    expect(lockFile(other, 'write')).toBe(false)
    expect(lockFile(other, 'read')).toBe(false)
    expect(lockFile(one, 'write')).toBe(true)
    unlockFile(one)
    expect(lockFile(other, 'write')).toBe(true)
  })

  test('for reading are shared, and become one for writing when nobody else reads', () => {
    const path = makeFile()
    const [one, other] = [open(path), open(path, 'r')]
    expect(lockFile(one, 'read')).toBe(true)
    expect(lockFile(other, 'read')).toBe(true)
    expect(lockFile(one, 'write')).toBe(false)
    unlockFile(other)
    expect(lockFile(one, 'write')).toBe(true)
    expect(lockFile(one, 'read')).toBe(true)
    expect(lockFile(other, 'read')).toBe(true)
  })

  test('cover the whole file, also what is behind its end', () => {
    const path = makeFile()
    lockFile(open(path), 'write')
    const { ino } = statSync(path)
    const lines = readFileSync('/proc/locks', 'utf8').split('\n')
    expect(lines.filter(line => line.includes(`:${ino} `)).join()).toMatch(/OFDLCK .* WRITE .* 0 EOF$/)
  })

  test('hold against other processes until their last descriptor is closed, or they are killed', async () => {
    const path = makeFile()
    const module = join(import.meta.dirname, 'syscalls.ts')
    const script = `import { openSync } from 'node:fs'
      const { lockFile } = await import(process.argv[1])
      console.log(lockFile(openSync(process.argv[2], 'r+'), 'write'))
      setInterval(() => {}, 1000)`
    const child = spawn(process.execPath, ['--input-type=module', '-e', script, module, path], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    onTestFinished(() => {
      child.kill('SIGKILL')
    })
    const [said] = await once(child.stdout, 'data')
    expect(String(said)).toBe('true\n')
    const fd = open(path)
    expect(lockFile(fd, 'write')).toBe(false)
    expect(lockFile(fd, 'read')).toBe(false)
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect(lockFile(fd, 'write')).toBe(true)
  })

  test('of a descriptor that is none fail with the reason', () => {
    expect(() => lockFile(BAD_DESCRIPTOR, 'write')).toThrow(expect.objectContaining({ code: 'EBADF' }))
    expect(() => unlockFile(BAD_DESCRIPTOR)).toThrow(SystemCallError)
  })

  test('for writing need a descriptor that may write', () => {
    expect(() => lockFile(open(makeFile(), 'r'), 'write')).toThrow(expect.objectContaining({ code: 'EBADF' }))
  })
})

describe('renameNoReplace', () => {
  test('renames', () => {
    const path = makeFile('x')
    renameNoReplace(path, `${path}2`)
    expect(existsSync(path)).toBe(false)
    expect(readFileSync(`${path}2`, 'utf8')).toBe('x')
  })

  test('replaces neither a file nor a link to nowhere, nor itself', () => {
    const path = makeFile('x')
    writeFileSync(`${path}2`, 'y')
    symlinkSync('nowhere', `${path}3`)
    for (const target of [`${path}2`, `${path}3`, path]) {
      expect(() => renameNoReplace(path, target)).toThrow(expect.objectContaining({ code: 'EEXIST' }))
    }
    expect(readFileSync(`${path}2`, 'utf8')).toBe('y')
  })

  test('says what it could not rename', () => {
    const path = makeFile()
    expect(() => renameNoReplace(`${path}-ä`, `${path}2`)).toThrow(/ENOENT: .*file-ä to .*file2/)
  })
})

/** A connected pair of sockets; the accepted one is paused. */
async function connected(where: { path?: string } = {}): Promise<{ accepted: Socket; client: Socket }> {
  const server = createServer({ pauseOnConnect: true })
  server.listen(where.path ?? { port: 0, host: '127.0.0.1' })
  await once(server, 'listening')
  const { port } = (where.path === undefined ? server.address() : { port: 0 }) as AddressInfo
  const client = where.path === undefined ? connect(port, '127.0.0.1') : connect(where.path)
  const [[accepted]] = await Promise.all([once(server, 'connection'), once(client, 'connect')])
  onTestFinished(() => {
    client.destroy()
    accepted.destroy()
    server.close()
  })
  return { accepted: accepted as Socket, client }
}

const fdOf = (socket: Socket) => (socket as unknown as { _handle: { fd: number } })._handle.fd

describe('trySend', () => {
  test('takes what fits, says EAGAIN of a full socket, and goes on when it is read', async () => {
    const { accepted, client } = await connected()
    client.pause()
    const fd = fdOf(accepted)
    const data = Buffer.alloc(2 ** 20, 1)
    const address = addressOf(data)
    let sent = 0
    let last = 0
    for (let round = 0; round < 1000; round++) {
      last = trySend(fd, address, data.length)
      if (last < 0) break
      sent += last
    }
    expect(last).toBe(-1)
    expect(lastErrno()).toBe(ERRNO.EAGAIN)
    let received = 0
    client.on('data', chunk => {
      received += chunk.length
    })
    client.resume()
    await expect.poll(() => received).toBe(sent)
    expect(trySend(fd, address, 100)).toBe(100)
  })

  test('to a peer that has gone is EPIPE or ECONNRESET, and no signal', async () => {
    const { accepted, client } = await connected()
    client.resetAndDestroy()
    const data = Buffer.alloc(10)
    await expect.poll(() => trySend(fdOf(accepted), addressOf(data), 10)).toBe(-1)
    expect([ERRNO.EPIPE, ERRNO.ECONNRESET]).toContain(lastErrno())
    expect(trySend(fdOf(accepted), addressOf(data), 10)).toBe(-1)
    expect(lastErrno()).toBe(ERRNO.EPIPE)
  })
})

const getsockopt = koffi
  .load(null)
  .func('int getsockopt(int fd, int level, int name, void *value, void *length)') as unknown as (
  fd: number,
  level: number,
  name: number,
  value: Buffer,
  length: Buffer,
) => number

function socketOption(fd: number, level: number, name: number): number {
  const [value, length] = [Buffer.alloc(4), Buffer.from([4, 0, 0, 0])]
  expect(getsockopt(fd, level, name, value, length)).toBe(0)
  return value.readInt32LE(0)
}

describe('configureTcp', () => {
  test('sets when a silent peer counts as gone', async () => {
    const { accepted } = await connected()
    const fd = fdOf(accepted)
    configureTcp(fd, { idle: 11, interval: 6, probes: 4, unacknowledged: 26 })
    const [SOCKET, TCP] = [1, 6]
    expect(socketOption(fd, SOCKET, 9), 'SO_KEEPALIVE').toBe(1)
    expect(socketOption(fd, TCP, 1), 'TCP_NODELAY').toBe(1)
    expect(socketOption(fd, TCP, 4), 'TCP_KEEPIDLE').toBe(11)
    expect(socketOption(fd, TCP, 5), 'TCP_KEEPINTVL').toBe(6)
    expect(socketOption(fd, TCP, 6), 'TCP_KEEPCNT').toBe(4)
    expect(socketOption(fd, TCP, 18), 'TCP_USER_TIMEOUT in ms').toBe(26_000)
  })

  test('of what is no TCP socket fails', () => {
    const liveness = { idle: 10, interval: 5, probes: 3, unacknowledged: 25 }
    expect(() => configureTcp(open(makeFile()), liveness)).toThrow(
      expect.objectContaining({ syscall: 'setsockopt(6, 1)', code: 'E88' }),
    )
  })
})

describe('limitUnsent', () => {
  test('is what the kernel goes by', async () => {
    const { accepted } = await connected()
    expect(limitUnsent(fdOf(accepted), 131_072)).toBe(true)
    expect(socketOption(fdOf(accepted), 6, 25), 'TCP_NOTSENT_LOWAT').toBe(131_072)
  })

  test('says where there is no such limit', () => {
    expect(limitUnsent(open(makeFile()), 131_072)).toBe(false)
  })
})

describe('peerProcess', () => {
  test('is who connected', async () => {
    const { accepted } = await connected({ path: join(makeDirectory(), 'socket') })
    expect(peerProcess(fdOf(accepted))).toEqual({
      pid: process.pid,
      uid: process.getuid?.(),
      gid: process.getgid?.(),
    })
  })

  test('is also another process', async () => {
    const path = join(makeDirectory(), 'socket')
    const server = createServer({ pauseOnConnect: true }).listen(path)
    await once(server, 'listening')
    const script = `import { connect } from 'node:net'
      process.stdin.on('end', () => process.exit()).resume()
      connect(process.argv[1])`
    const child = spawn(process.execPath, ['--input-type=module', '-e', script, path], {
      stdio: ['pipe', 'ignore', 'inherit'],
    })
    const [accepted] = (await once(server, 'connection')) as [Socket]
    onTestFinished(() => {
      accepted.destroy()
      server.close()
    })
    expect(peerProcess(fdOf(accepted)).pid).toBe(child.pid)
    child.stdin.end()
    await once(child, 'exit')
    expect(peerProcess(fdOf(accepted)).pid).toBe(child.pid)
  })
})

describe('peerState', () => {
  test.each([['TCP'], ['unix']])('of a %s socket follows the peer from connection to reset', async kind => {
    const path = kind === 'unix' ? { path: join(makeDirectory(), 'socket') } : undefined
    const { accepted, client } = await connected(path)
    const fd = fdOf(accepted)
    expect(peerState(fd)).toBe('there')
    client.end('unread')
    await vi.waitFor(() => expect(peerState(fd)).toBe('finished'))
    client.destroy()
    // A TCP peer that is closed says so once it is sent something.
    accepted.write('x')
    await vi.waitFor(() => expect(peerState(fd)).toBe('gone'))
  })

  test('knows a connection that was reset, though nothing is read', async () => {
    const { accepted, client } = await connected()
    client.resetAndDestroy()
    await vi.waitFor(() => expect(peerState(fdOf(accepted))).toBe('gone'))
  })
})

describe('Input and output', () => {
  test('pread and pwrite move bytes at offsets, and tell errors by lastErrno', () => {
    const fd = open(makeFile('0123456789'))
    const data = Buffer.from('....ab......')
    expect(pwrite(fd, addressOf(data) + 4, 2, 3)).toBe(2)
    expect(pread(fd, addressOf(data) + 6, 4, 2)).toBe(4)
    expect(data.toString()).toBe('....ab2ab5..')
    expect(pread(fd, addressOf(data), 5, 100)).toBe(0)
    expect(pread(BAD_DESCRIPTOR, addressOf(data), 5, 0)).toBe(-1)
    expect(lastErrno()).toBe(ERRNO.EBADF)
  })

  test('offsets beyond 2^32 arrive whole', () => {
    const fd = open(makeFile())
    const data = Buffer.from('end')
    const offset = 2 ** 40 + 12_345
    expect(pwrite(fd, addressOf(data), 3, offset)).toBe(3)
    expect(fstatSync(fd).size).toBe(offset + 3)
    const back = Buffer.alloc(3)
    readSync(fd, back, 0, 3, offset)
    expect(back.toString()).toBe('end')
    expect(lseek(fd, 0, SEEK_DATA)).toBeGreaterThan(2 ** 40)
    expect(lseek(fd, offset, SEEK_HOLE)).toBe(offset + 3)
    expect(tryPreadCached(fd, addressOf(back), 3, offset)).toBe(3)
  })

  test('tryPreadCached reads what is cached and stops at the end', () => {
    const fd = open(makeFile('0123456789'))
    const data = Buffer.alloc(20, '.')
    expect(tryPreadCached(fd, addressOf(data) + 1, 15, 4)).toBe(6)
    expect(data.toString()).toBe('.456789.............')
  })

  test('fallocate punches holes', () => {
    const path = makeFile(Buffer.alloc(2 ** 20, 1))
    const fd = open(path)
    expect(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 2 ** 20)).toBe(0)
    expect(statSync(path).blocks).toBe(0)
    expect(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 10)).toBe(-1)
    expect(lastErrno()).toBe(ERRNO.EOPNOTSUPP)
  })

  test('fadvise returns its error', () => {
    expect(fadvise(BAD_DESCRIPTOR, 0, 0, 3)).toBe(ERRNO.EBADF)
  })

  test('blockDeviceSize of a file fails', () => {
    expect(() => blockDeviceSize(open(makeFile()))).toThrow(expect.objectContaining({ code: 'ENOTTY' }))
  })

  test('many asynchronous calls at once each end with their own result and error number', async () => {
    const fd = open(makeFile())
    const expected = [
      { call: (done: Done) => fdatasync.async(fd, done), result: 0, errno: 0 },
      { call: (done: Done) => fdatasync.async(BAD_DESCRIPTOR, done), result: -1, errno: ERRNO.EBADF },
      { call: (done: Done) => fallocate.async(fd, 0, -1, 10, done), result: -1, errno: ERRNO.EINVAL },
      { call: (done: Done) => lseek.async(fd, 5, SEEK_DATA, done), result: -1, errno: ERRNO.ENXIO },
      { call: (done: Done) => pread.async(fd, 1, 10, 0, done), result: 0, errno: 0 },
    ]
    const rounds = Array.from({ length: 20 }, () => expected).flat()
    const ended = await Promise.all(
      rounds.map(
        ({ call }) =>
          new Promise<{ result: number; errno: number }>((resolve, reject) => {
            call((error, result) => {
              if (error !== null) reject(error)
              else resolve({ result, errno: result < 0 ? lastErrno() : 0 })
            })
          }),
      ),
    )
    expect(ended).toEqual(rounds.map(({ result, errno }) => ({ result, errno })))
  })
})

type Done = (error: Error | null, result: number) => void

/** Node's table leaves them out. */
const NOT_IN_NODE = ['ESHUTDOWN']

describe('Error numbers', () => {
  test('have the names that the system gives them', () => {
    for (const [name, number] of Object.entries(ERRNO)) {
      const known: Readonly<Record<string, number>> = constants.errno
      if (!NOT_IN_NODE.includes(name)) expect(known[name], name).toBe(number)
    }
  })

  test('are found by name and by number', () => {
    for (const [name, number] of Object.entries(ERRNO)) {
      expect(errnoName(number)).toBe(name)
      expect(errnoOf(name)).toBe(number)
    }
    expect(errnoName(12_345)).toBe('E12345')
    for (const code of ['ENOTHING', 'toString', '', undefined, null, 28])
      expect(errnoOf(code)).toBe(ERRNO.EIO)
  })

  test('make an error that says what failed', () => {
    const error = new SystemCallError('fallocate', ERRNO.ENOSPC, 'disk')
    expect(error).toMatchObject({
      message: 'fallocate failed with ENOSPC: disk',
      code: 'ENOSPC',
      errno: 28,
      syscall: 'fallocate',
    })
    expect(new SystemCallError('x', 1).message).toBe('x failed with EPERM')
  })
})

test('A thread that sleeps has done so by itself; one that works has not', () => {
  const sleepsIn = (work: () => void) => {
    const before = voluntarySwitches()
    work()
    return voluntarySwitches() - before
  }
  const spin = () => {
    for (const until = performance.now() + 1; performance.now() < until; );
  }
  expect(sleepsIn(() => nap(200))).toBeGreaterThan(0)
  // The garbage collector may sleep as well, but not each time.
  expect(Math.min(...Array.from({ length: 20 }, () => sleepsIn(spin)))).toBe(0)
})
