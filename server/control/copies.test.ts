/** Copies over the control socket, of a file that stands for a disk. */
import { existsSync, readFileSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { makeDirectory } from '../backends/disks/test-directory.ts'
import type { PointCopy } from '../backends/file/point-copy.ts'
import { type CopiedSource, makeCopy } from './copies.ts'
import { askJson, serveJson } from './unix-http.ts'

const UID = '6f0f4a0e-3f0e-4b3e-9d5e-0e8f5f1c2a3b'
const AT = new Date('2026-01-02T03:04:05.678Z')
const DONE: PointCopy = { size: 5, method: 'copy', at: AT, heldMs: 1.23456 }

async function setUp(copy: CopiedSource['copy'] | undefined) {
  const directory = makeDirectory()
  const path = join(directory, 'control.sock')
  const errors: unknown[] = []
  const source = copy && { copy }
  const routes = {
    'POST /copies': ({ body, signal }: { body: unknown; signal: AbortSignal }) =>
      makeCopy(source, body, signal),
  }
  const server = await serveJson(path, routes, error => errors.push(error))
  onTestFinished(() => server.close())
  const to = join(directory, 'copy')
  const ask = (body: object = { uid: UID, to }, signal?: AbortSignal) =>
    askJson(path, { method: 'POST', path: '/copies', body, timeoutMs: 20_000, ...(signal && { signal }) })
  return { to, ask, errors }
}

test('a copy is told of, and is there', async () => {
  const { to, ask, errors } = await setUp(async (uid, fd) => {
    expect(uid).toBe(UID)
    writeSync(fd, 'bytes')
    return DONE
  })
  expect(await ask()).toEqual({ size: 5, method: 'copy', at: AT.toISOString(), heldMs: 1.235 })
  expect(readFileSync(to, 'utf8')).toBe('bytes')
  expect(errors).toEqual([])
})

test.each([
  ['ENOENT', 404],
  ['EINVAL', 422],
  ['ENOSPC', 507],
  ['EDQUOT', 507],
  ['EAGAIN', 409],
])('a copy that fails with %s leaves nothing, and is answered with %s', async (code, status) => {
  const { to, ask } = await setUp(async () => {
    throw Object.assign(new Error('It cannot be.'), { code })
  })
  await expect(ask()).rejects.toMatchObject({ name: 'RequestError', status })
  expect(existsSync(to)).toBe(false)
})

test('what is there already is not touched', async () => {
  const { to, ask } = await setUp(async () => DONE)
  writeFileSync(to, 'mine')
  await expect(ask()).rejects.toMatchObject({ status: 412, message: expect.stringContaining(to) })
  expect(readFileSync(to, 'utf8')).toBe('mine')
})

test('a copy ends, and leaves nothing, when whoever asked has gone', async () => {
  const leave = new AbortController()
  let ended = () => {}
  const end = new Promise<void>(resolve => {
    ended = resolve
  })
  const { to, ask } = await setUp(async (_uid, _fd, signal) => {
    leave.abort(new Error('gone'))
    await new Promise(resolve => signal.addEventListener('abort', resolve))
    ended()
    throw signal.reason
  })
  await expect(ask(undefined, leave.signal)).rejects.toThrow('gone')
  await end
  await expect.poll(() => existsSync(to), { timeout: 10_000 }).toBe(false)
})

test.each([
  ['no uid', { to: '/tmp/x' }, 'uid'],
  ['a uid that is a path', { uid: '../x', to: '/tmp/x' }, 'uid'],
  ['no path', { uid: UID }, 'to'],
  ['a relative path', { uid: UID, to: 'x' }, 'to'],
  ['a path that goes up', { uid: UID, to: '/tmp/../x' }, 'to'],
  ['nothing', [], 'uid'],
])('an order with %s is refused', async (_, body, field) => {
  const { ask } = await setUp(async () => DONE)
  await expect(ask(body)).rejects.toMatchObject({
    status: 400,
    message: expect.stringContaining(`${field}: `),
  })
})

test('a server without declared disks says so', async () => {
  const { ask } = await setUp(undefined)
  await expect(ask()).rejects.toMatchObject({ status: 404 })
})
