import { randomBytes } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, type TestContext, test } from 'vitest'
import { BUILD_LIMIT, type Docker, useDocker } from './docker.ts'
import { check, needPrograms, scratch } from './harness.ts'

const IMAGE = 'ondemand-disk:e2e'

let docker: Docker

beforeAll(async () => {
  docker = await useDocker(IMAGE)
}, BUILD_LIMIT + 10_000)

afterAll(async () => {
  await docker?.[Symbol.asyncDispose]()
})

interface Container extends AsyncDisposable {
  readonly id: string
  readonly port: string
}

/** Starts the image as a careful admin does: read-only, without capabilities, port published on loopback. */
async function startContainer(...args: string[]): Promise<Container> {
  const restrictions = ['--read-only', '--cap-drop', 'ALL', '--security-opt', 'no-new-privileges']
  const id = (
    await docker.check('run', '-d', ...restrictions, '-p', '127.0.0.1::10809', IMAGE, ...args)
  ).trim()
  const port = (await docker.check('port', id, '10809/tcp')).trim().split(':').at(-1) ?? ''
  return {
    id,
    port,
    async [Symbol.asyncDispose]() {
      await docker.check('rm', '-f', '-v', id)
    },
  }
}

/** Waits, for at most 20 s, until the server in the container says that it listens. */
async function listening({ id }: Container): Promise<void> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const { stdout, stderr } = await docker.run('logs', id)
    if (`${stdout}${stderr}`.includes('"msg":"Listening"')) return
    await new Promise(resolve => setTimeout(resolve, 200))
  }
  throw new Error(`The server in the container does not listen:\n${await docker.check('logs', id)}`)
}

const needImage = async (context: TestContext) => {
  context.skip(docker.unavailable !== undefined, docker.unavailable)
  await needPrograms(context, 'nbdinfo', 'nbdcopy')
}

describe('The container image', () => {
  test('serves disks as an ordinary user without capabilities, and ends in order', async context => {
    await needImage(context)
    await using folder = await scratch()
    await using container = await startContainer()
    await listening(container)

    const pid = (await docker.check('inspect', '-f', '{{.State.Pid}}', container.id)).trim()
    const status = await readFile(`/proc/${pid}/status`, 'utf8')
    expect(status).toMatch(/^Uid:\t10809\t10809\t10809\t10809$/m)
    expect(status).toMatch(/^CapEff:\t0+$/m)
    expect(await docker.check('inspect', '-f', '{{.Config.User}}', IMAGE)).toBe('10809:10809\n')

    const uri = `nbd://127.0.0.1:${container.port}/alice`
    expect(await check('nbdinfo', ['--size', uri])).toBe(`${1024 ** 3}\n`)
    await check('nbdinfo', ['--can', 'write', uri])
    const written = join(folder.path, 'written')
    const read = join(folder.path, 'read')
    await writeFile(written, randomBytes(3_000_000))
    await check('nbdcopy', [written, uri])
    await check('nbdcopy', [uri, read])
    expect((await readFile(read)).subarray(0, 3_000_000).equals(await readFile(written))).toBe(true)

    await docker.check('stop', '-t', '10', container.id)
    expect(
      await docker.check('inspect', '-f', '{{.State.ExitCode}} {{.State.OOMKilled}}', container.id),
    ).toBe('0 false\n')
  })

  test.for(['ext4', 'xfs', 'vfat', 'btrfs', 'ntfs'])('can make %s', async (type, context) => {
    await needImage(context)
    const serve = ['serve', '--dir', '/exports', '--size', '512M', '--listen', '0.0.0.0:10809']
    await using container = await startContainer(...serve, '--type', type)
    await listening(container)
    await check('nbdinfo', [`nbd://127.0.0.1:${container.port}/alice`])
  })

  test('holds what the server needs and nothing of its development', async context => {
    await needImage(context)
    const list = 'ls /app /app/node_modules; find /app -name "*.test.ts"; find / -xdev -name "*.deb"'
    const { stdout } = await docker.run('run', '--rm', '--entrypoint', 'sh', IMAGE, '-c', list)
    expect(stdout).toMatch(/^koffi$/m)
    expect(stdout).not.toMatch(/vitest|biome|typescript|hack|e2e|\.test\.ts|\.deb/)
  })
})
