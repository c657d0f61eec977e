/** The socket and its calls, with a client that is gRPC's own. */
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Client, credentials, makeClientConstructor, type ServiceError } from '@grpc/grpc-js'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { KubeError } from '../../kube/kube-error.ts'
import type { KubeLog } from '../../kube/log.ts'
import { loadServices } from '../protocol/definition.ts'
import type { ControllerMethods } from '../protocol/messages.ts'
import type { Handlers } from './call.ts'
import { exclusively } from './exclusive.ts'
import { listen, type RpcServer, serves } from './listen.ts'
import { RpcError } from './rpc-error.ts'

const services = loadServices()
const directory = mkdtempSync(join(tmpdir(), 'ondemand-disk-csi-'))
afterAll(() => rmSync(directory, { recursive: true }))

let sockets = 0
const newPath = () => join(directory, `${sockets++}.sock`)

function memoryLog(): KubeLog & { readonly lines: unknown[] } {
  const lines: unknown[] = []
  const write = (level: string) => (fields: object, message: string) =>
    void lines.push({ level, ...fields, message })
  return { lines, error: write('error'), warn: write('warn'), info: write('info'), debug: write('debug') }
}

async function start(handlers: Handlers<ControllerMethods>, path = newPath(), log = memoryLog()) {
  const server = await listen(path, [serves(services.controller, handlers)], log)
  const Constructor = makeClientConstructor(services.controller, 'Controller')
  const client = new Constructor(`unix:${path}`, credentials.createInsecure())
  onTestFinished(async () => {
    client.close()
    await server.stop()
  })
  return { server, client, path, log }
}

type Callback = (error: ServiceError | null, value: unknown) => void
type Methods = Readonly<
  Record<string, (request: object, options: { deadline?: number }, callback: Callback) => { cancel(): void }>
>

function call(client: Client, method: string, request: object, deadlineMs?: number) {
  const options = deadlineMs === undefined ? {} : { deadline: Date.now() + deadlineMs }
  let cancel = () => {}
  const answer = new Promise<unknown>((resolve, reject) => {
    const methods = client as unknown as Methods
    const running = methods[method]?.(request, options, (error, value) =>
      error ? reject(error) : resolve(value),
    )
    cancel = () => running?.cancel()
  })
  return Object.assign(answer, { cancel })
}

const refusal = (code: number, details: string | RegExp) =>
  expect.objectContaining({ code, details: expect.stringMatching(details) })

describe('The socket', () => {
  test('is for its own user only, is there once, and goes with the server', async () => {
    const { path, server } = await start({})
    expect(statSync(path).mode & 0o777).toBe(0o600)
    await expect(listen(path, [], memoryLog())).rejects.toMatchObject({ code: 'EADDRINUSE' })
    await server.stop()
    expect(existsSync(path)).toBe(false)
  })

  test('of a server that was killed is taken over', async () => {
    const path = newPath()
    const dead = createServer().listen(path)
    await new Promise(resolve => dead.once('listening', resolve))
    // What a kill leaves behind: a socket file on which nobody listens.
    const kept = newPath()
    const { link, unlink } = await import('node:fs/promises')
    await link(path, kept)
    await new Promise(resolve => dead.close(resolve))
    await link(kept, path)
    await unlink(kept)
    const { client } = await start({ ControllerGetCapabilities: async () => ({ capabilities: [] }) }, path)
    expect(await call(client, 'ControllerGetCapabilities', {})).toEqual({ capabilities: [] })
  })

  test('is no file that is something else, and in no directory that is not there', async () => {
    const file = newPath()
    writeFileSync(file, 'precious')
    await expect(listen(file, [], memoryLog())).rejects.toMatchObject({
      code: 'ENOTSOCK',
      message: expect.stringContaining('no socket'),
    })
    expect(statSync(file).size).toBe(8)
    await expect(listen(join(directory, 'none/x'), [], memoryLog())).rejects.toThrow('does not exist')
  })

  test('takes what is no gRPC without harm', async () => {
    const { client, path } = await start({ ControllerGetCapabilities: async () => ({ capabilities: [] }) })
    await new Promise<void>(resolve => {
      const socket = connect(path, () => socket.end('GET / HTTP/1.0\r\n\r\n'))
      socket.on('error', () => {})
      socket.on('close', () => resolve())
      socket.resume()
    })
    expect(await call(client, 'ControllerGetCapabilities', {})).toEqual({ capabilities: [] })
  })
})

describe('A call', () => {
  test('that fails is answered with code and message, and one that nobody foresaw without', async () => {
    const errors: Record<string, Error> = {
      known: new RpcError('OUT_OF_RANGE', 'Too large.'),
      api: new KubeError('Forbidden', 'You may not.', { status: 403 }),
      quota: new KubeError('Forbidden', 'exceeded quota: disks', { status: 403 }),
      away: new KubeError('Unreachable', 'Nobody answers.'),
      bug: new TypeError('the secret is 42'),
    }
    const { client, log } = await start({
      DeleteVolume: async ({ volumeId }) => {
        throw errors[volumeId] ?? new Error('x')
      },
    })
    const failing = (volumeId: string) => call(client, 'DeleteVolume', { volumeId })
    await expect(failing('known')).rejects.toEqual(refusal(11, /^Too large\.$/))
    await expect(failing('api')).rejects.toEqual(refusal(7, /^You may not\.$/))
    await expect(failing('quota')).rejects.toEqual(refusal(8, 'quota'))
    await expect(failing('away')).rejects.toEqual(refusal(14, 'Nobody'))
    await expect(failing('bug')).rejects.toEqual(refusal(13, /^The driver failed\. Its log says why\.$/))
    expect(log.lines.at(-1)).toMatchObject({ level: 'error', method: 'DeleteVolume', err: errors.bug })
    await expect(call(client, 'CreateSnapshot', {})).rejects.toEqual(refusal(12, ''))
  })

  test('shows nothing of its secrets and parameters in the log', async () => {
    const { client, log } = await start({
      CreateVolume: async () => ({ volume: { volumeId: 'a/b', capacityBytes: '1' } }),
    })
    await call(client, 'CreateVolume', {
      name: 'pvc-1',
      secrets: { password: 'hunter2' },
      parameters: { password: 'hunter2' },
      volumeCapabilities: [{ mount: { mountFlags: ['hunter2'] } }],
    })
    expect(JSON.stringify(log.lines)).toContain('pvc-1')
    expect(JSON.stringify(log.lines)).not.toContain('hunter2')
  })

  test('on a volume on which another is at work is aborted; the volume is free when that has ended', async () => {
    const started = Promise.withResolvers<void>()
    const go = Promise.withResolvers<object>()
    const one = exclusively()
    const { client } = await start({
      DeleteVolume: one(
        ({ volumeId }) => volumeId,
        () => {
          started.resolve()
          return go.promise
        },
      ),
      ControllerModifyVolume: one(
        ({ volumeId }) => volumeId,
        async () => ({}),
      ),
    })
    const first = call(client, 'DeleteVolume', { volumeId: 'a/b' })
    await started.promise
    await expect(call(client, 'ControllerModifyVolume', { volumeId: 'a/b' })).rejects.toEqual(
      refusal(10, 'under way'),
    )
    expect(await call(client, 'ControllerModifyVolume', { volumeId: 'a/c' })).toEqual({})
    go.resolve({})
    expect(await first).toEqual({})
    expect(await call(client, 'ControllerModifyVolume', { volumeId: 'a/b' })).toEqual({})
  })

  const untilAborted = (seen: (error: unknown) => void, signal: AbortSignal) =>
    new Promise<object>((_, reject) => {
      signal.addEventListener('abort', () => {
        seen(signal.reason)
        reject(signal.reason)
      })
    })

  test('is told to end before its deadline, so that it can still say what it waited for', async () => {
    const { client } = await start({
      DeleteVolume: (_, { signal }) =>
        untilAborted(() => {}, signal).catch(() => {
          throw new RpcError('DEADLINE_EXCEEDED', 'The disk is not ready.')
        }),
    })
    await expect(call(client, 'DeleteVolume', { volumeId: 'a/b' }, 1500)).rejects.toEqual(
      refusal(4, 'not ready'),
    )
  })

  test('is told to end when the client gives up', async () => {
    const seen = Promise.withResolvers<unknown>()
    const started = Promise.withResolvers<void>()
    const { client } = await start({
      DeleteVolume: (_, { signal }) => {
        started.resolve()
        return untilAborted(seen.resolve, signal)
      },
    })
    const running = call(client, 'DeleteVolume', { volumeId: 'a/b' })
    running.catch(() => {})
    await started.promise
    running.cancel()
    expect(await seen.promise).toMatchObject({ code: 'CANCELLED' })
  })

  test('that does not end is aborted when the server stops, and a quick one is not', async () => {
    const go = Promise.withResolvers<object>()
    const started = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
    const { client, server }: { client: Client; server: RpcServer } = await start({
      DeleteVolume: (_, { signal }) => {
        started[0]?.resolve()
        return untilAborted(() => {}, signal)
      },
      ControllerModifyVolume: () => {
        started[1]?.resolve()
        return go.promise
      },
    })
    const slow = call(client, 'DeleteVolume', { volumeId: 'a/b' })
    const quick = call(client, 'ControllerModifyVolume', { volumeId: 'a/c' })
    const refused = expect(slow).rejects.toEqual(refusal(14, 'stopping'))
    await Promise.all(started.map(({ promise }) => promise))
    const stopped = server.stop()
    go.resolve({})
    expect(await quick).toEqual({})
    await refused
    await stopped
  })
})
