/**
 * Address rules across machines, as far as containers are machines: the server's image and its clients each have an
 * address of their own on a network of Docker's. Driven by docker's command line: testcontainers needs ssh2, which
 * runs a script when it is installed.
 */
import { randomBytes } from 'node:crypto'
import { chmod, mkdir, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { BUILD_LIMIT, buildClientImage, type Docker, useDocker } from './docker.ts'
import { type Scratch, scratch } from './harness.ts'
import { type Held, hold } from './held.ts'

const IMAGE = 'ondemand-disk:e2e'
const CLIENT_IMAGE = 'ondemand-disk-client:e2e'
/** An open connection ends within a second of a change; a busy machine tells of it later. */
const REVOCATION = 5000
const MIB = 2 ** 20

interface Client {
  readonly address: string
  isAdmitted(name: string): Promise<boolean>
  /** Names that the server lists to it, undefined if it is refused. */
  names(): Promise<string | undefined>
  hold(name: string): Promise<Held>
}

const network = `ondemand-disk-${randomBytes(4).toString('hex')}`
let docker: Docker
let folder: Scratch
let server: string
let a: Client
let b: Client

beforeAll(async () => {
  docker = await useDocker(IMAGE)
  if (docker.unavailable !== undefined) return
  await buildClientImage(docker, CLIENT_IMAGE)
  folder = await scratch()
  await docker.check('network', 'create', network)
  ;[a, b] = [await startClient(), await startClient()]
  await setUp()
}, 2 * BUILD_LIMIT)

afterAll(async () => {
  if (docker === undefined) return
  if (docker.unavailable === undefined) {
    const { stdout } = await docker.run('ps', '-aq', '--filter', `network=${network}`)
    for (const id of stdout.split('\n').filter(Boolean)) await docker.run('rm', '-f', '-v', id)
    await docker.run('network', 'rm', network)
  }
  await folder?.[Symbol.asyncDispose]()
  await docker[Symbol.asyncDispose]()
})

beforeEach(context => context.skip(docker.unavailable !== undefined, docker.unavailable))

/** Starts a container on the network; returns its id and address. */
async function start(...args: string[]): Promise<readonly [id: string, address: string]> {
  const restrictions = ['--read-only', '--cap-drop', 'ALL', '--security-opt', 'no-new-privileges', '--init']
  const id = (await docker.check('run', '-d', ...restrictions, '--network', network, ...args)).trim()
  const format = '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}'
  return [id, (await docker.check('inspect', '-f', format, id)).trim()]
}

async function startClient(): Promise<Client> {
  const [id, address] = await start(CLIENT_IMAGE, 'sleep', 'infinity')
  const uri = (name: string) => `nbd://${server}/${name}`
  const [program, ...first] = docker.command
  return {
    address,
    isAdmitted: async name => (await docker.run('exec', id, 'nbdinfo', '--size', uri(name))).status === 0,
    async names() {
      const { status, stdout } = await docker.run('exec', id, 'nbdinfo', '--list', '--json', uri(''))
      return status === 0 ? stdout : undefined
    },
    hold: name => hold(program, [...first, 'exec', '-i', id], uri(name)),
  }
}

/** Whole or not at all, as whoever edits a file by an editor does. */
async function write(path: string, object: object): Promise<void> {
  await writeFile(`${path}.new`, JSON.stringify(object), { mode: 0o644 })
  await rename(`${path}.new`, path)
}

const policyPath = () => join(folder.path, 'rules', 'policy.json')
const manifestPath = (name: string) => join(folder.path, 'disks', `${name}.json`)

const setPolicy = (...allow: string[]) => write(policyPath(), { allow, deny: [] })

const setDisk = (name: string, ...allow: string[]) =>
  write(manifestPath(name), {
    apiVersion: 'ondemanddisk.dev/v1alpha1',
    kind: 'OnDemandDisk',
    metadata: { name },
    spec: { size: 16 * MIB, access: { allow, deny: [] } },
  })

async function setUp(): Promise<void> {
  for (const name of ['rules', 'disks']) await mkdir(join(folder.path, name))
  // The server's user is another one.
  for (const name of ['.', 'rules', 'disks']) await chmod(join(folder.path, name), 0o755)
  await setPolicy(a.address)
  await setDisk('ann', a.address)
  await setDisk('bob', b.address)
  await setDisk('both', a.address, b.address)
  const mounts = ['rules', 'disks'].flatMap(name => ['-v', `${join(folder.path, name)}:/${name}:ro`])
  const [, address] = await start(
    ...mounts,
    ...[IMAGE, 'serve', '--dir', '/exports', '--disks', '/disks'],
    ...['--policy', '/rules/policy.json', '--listen', '0.0.0.0:10809'],
  )
  server = address
  await vi.waitFor(async () => expect(await a.isAdmitted('both')).toBe(true), {
    timeout: 60_000,
    interval: 500,
  })
}

describe('The server in a container', () => {
  test('admits one address and refuses another, by the rules of the whole server', async () => {
    await setPolicy(a.address)
    await expect.poll(() => b.isAdmitted('both')).toBe(false)
    expect(await a.isAdmitted('both')).toBe(true)
    expect(await b.names()).toBeUndefined()
  })

  test('ends an open connection when the rules change, and admits the other address', async () => {
    await setPolicy(a.address)
    await expect.poll(() => a.isAdmitted('both')).toBe(true)
    await using held = await a.hold('both')
    await setPolicy(b.address)
    const written = performance.now()
    expect((await held.ended) - written).toBeLessThan(REVOCATION)
    await expect.poll(() => b.isAdmitted('both')).toBe(true)
    expect(await a.isAdmitted('both')).toBe(false)
  })

  test('shows each address the disks that it may have, by the rules of the disks', async () => {
    await setPolicy(`${a.address}/32`, `${b.address}/32`)
    for (const [client, own, other] of [
      [a, 'ann', 'bob'],
      [b, 'bob', 'ann'],
    ] as const) {
      await expect.poll(() => client.isAdmitted(own)).toBe(true)
      expect(await client.isAdmitted(other)).toBe(false)
      const names = await client.names()
      expect(names).toContain(`"${own}"`)
      expect(names).not.toContain(`"${other}"`)
    }
  })

  test('ends an open connection when a disk’s own rules change', async () => {
    await setPolicy(a.address, b.address)
    await expect.poll(() => a.isAdmitted('ann')).toBe(true)
    await using held = await a.hold('ann')
    await setDisk('ann', b.address)
    const written = performance.now()
    expect((await held.ended) - written).toBeLessThan(REVOCATION)
    await expect.poll(() => b.isAdmitted('ann')).toBe(true)
    expect(await a.isAdmitted('ann')).toBe(false)
  })
})
