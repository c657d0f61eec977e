/** The sockets by which a program works with the server: what it is told, and disks that it declares on demand. */
import { rename, rm, truncate, writeFile } from 'node:fs/promises'
import { createServer, request, type Server } from 'node:http'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  check,
  needPrograms,
  run,
  type Scratch,
  type ServerProcess,
  scratch,
  startServer,
} from './harness.ts'
import { needLibnbd, PYTHON } from './libnbd.ts'

const MIB = 2 ** 20

let disks: Scratch
let manifests: Scratch
let sockets: Scratch
let server: ServerProcess | undefined
let answerer: Server | undefined

beforeEach(async () => {
  disks = await scratch()
  manifests = await scratch()
  sockets = await scratch()
})

afterEach(async () => {
  await server?.[Symbol.asyncDispose]()
  server = undefined
  answerer?.closeAllConnections()
  answerer?.close()
  answerer = undefined
  for (const folder of [disks, manifests, sockets]) await folder[Symbol.asyncDispose]()
})

const socket = (name: string) => join(sockets.path, name)
const uri = (name: string) => server?.uri(name) ?? ''

async function start(...args: readonly string[]): Promise<void> {
  server = await startServer([
    ...['--dir', disks.path, '--disks', manifests.path, '--no-create', '--control', socket('control')],
    ...args,
  ])
}

/** A manifest as the API has it, its disk being the file of its uid. */
async function declare(name: string, spec: object = {}): Promise<string> {
  const file = `${name}.json`
  const object = {
    apiVersion: 'ondemanddisk.dev/v1alpha1',
    kind: 'OnDemandDisk',
    metadata: { name, namespace: 'default', uid: `uid-${name}`, generation: 1 },
    spec: { size: '1Mi', ...spec },
  }
  await writeFile(join(manifests.path, `.${file}`), JSON.stringify(object))
  await rename(join(manifests.path, `.${file}`), join(manifests.path, file))
  return file
}

/** The disk's file, as a Job makes it. */
async function make(name: string): Promise<void> {
  await writeFile(join(disks.path, `uid-${name}`), '')
  await truncate(join(disks.path, `uid-${name}`), MIB)
}

interface Told {
  readonly boot: string
  readonly revision: number
  readonly full: boolean
  readonly exports: readonly { readonly name: string; readonly [field: string]: unknown }[]
  readonly gone: readonly string[]
  readonly problems: readonly { readonly file: string; readonly reason: string }[]
}

async function control(
  method: string,
  path: string,
  body?: unknown,
): Promise<{ status: number; value: Told }> {
  return await new Promise((resolve, reject) => {
    const sent = request({ socketPath: socket('control'), method, path, agent: false }, response => {
      let text = ''
      response.setEncoding('utf8').on('data', chunk => {
        text += chunk
      })
      response.on('end', () => resolve({ status: response.statusCode ?? 0, value: JSON.parse(text) }))
    })
    sent.on('error', reject)
    sent.end(body === undefined ? undefined : JSON.stringify(body))
  })
}

const state = async (query = '') => (await control('GET', `/exports${query}`)).value
const exportOf = ({ exports }: Told, name: string) => exports.find(entry => entry.name === name)

/** Opens a disk, writes and reads a sector, and holds it until stdin ends. */
const HOLDER = `
import nbd, sys
h = nbd.NBD(); h.connect_uri(sys.argv[1])
h.pwrite(b"x" * 512, 0); assert h.pread(512, 0) == b"x" * 512
print("open", flush=True)
sys.stdin.read()
`

/** Connects a client of libnbd and says what became of it. */
async function connect(name: string): Promise<{ size: number } | { refused: string }> {
  const script = `import nbd, sys
h = nbd.NBD()
try:
    h.connect_uri(sys.argv[1])
except nbd.Error as error:
    print("refused", error); sys.exit(0)
print(h.get_size())`
  const said = await check(PYTHON, ['-c', script, uri(name)])
  return said.startsWith('refused') ? { refused: said } : { size: Number(said) }
}

/** Connects a client that is refused, and returns the words that it was sent, which libnbd keeps to itself. */
async function refusal(name: string): Promise<string> {
  expect(await connect(name)).toHaveProperty('refused')
  const lines = (server?.log() ?? '').split('\n').filter(line => line.includes('"Export refused"'))
  return JSON.parse(lines.at(-1) ?? '{}').reason
}

describe('--control', () => {
  test('tells of every disk who has it open, how large it is, and what is wrong with it', async context => {
    await needLibnbd(context)
    await make('alice')
    await declare('alice')
    await declare('bob')
    await writeFile(join(manifests.path, 'bad.json'), '{"kind": "OnDemandDisk"}')
    await start()
    const first = await state()
    expect(first.full).toBe(true)
    expect(first.problems.map(({ file }) => file)).toEqual(['bad.json'])
    expect(exportOf(first, 'alice')).toMatchObject({
      ...{ uid: 'uid-alice', generation: 1, declared: true, work: 'none', size: MIB, connections: [] },
    })
    expect(exportOf(first, 'bob')).toMatchObject({ missing: true })

    const waiting = state(`?boot=${first.boot}&after=${first.revision}&wait=60`)
    let opened = () => {}
    const isOpen = new Promise<void>(resolve => {
      opened = resolve
    })
    // Held by a shell's pipe, so that the client leaves when the pipe ends.
    const held = check('/bin/sh', ['-c', `sleep 3 | ${PYTHON} -c "$0" "$1"`, HOLDER, uri('alice')], {
      onLine: line => line === 'open' && opened(),
    })
    await isOpen
    const told = await waiting
    expect(told.full).toBe(false)
    expect(told.exports.map(({ name }) => name)).toEqual(['alice'])
    expect(exportOf(await state(), 'alice')).toMatchObject({
      connections: [{ client: expect.stringMatching(/^127\./) }],
    })

    expect(await connect('alice')).toHaveProperty('refused')
    const refused = exportOf(await state(), 'alice')
    expect(refused).toMatchObject({ refusals: { busy: 1 }, lastRefusal: { reason: 'busy' } })
    await held
    await expect
      .poll(async () => exportOf(await state(), 'alice')?.connections, { timeout: 5000 })
      .toEqual([])

    const before = await state()
    await rm(join(manifests.path, 'bob.json'))
    const after = await state(`?boot=${before.boot}&after=${before.revision}&wait=60`)
    expect(after.gone).toEqual(['bob'])
  })

  test('reads manifests at once when told, and what they say holds then', async context => {
    await needLibnbd(context)
    await start()
    await make('carol')
    const file = await declare('carol')
    expect((await control('POST', '/rescan', { manifests: [file] })).status).toBe(200)
    expect(await connect('carol')).toEqual({ size: MIB })
    await declare('carol', { access: { deny: ['any'] } })
    expect((await control('POST', '/rescan')).status).toBe(200)
    expect(await connect('carol')).toHaveProperty('refused')
  })

  test('says what is wrong with a request', async () => {
    await start()
    const answers = [
      await control('GET', '/nothing'),
      await control('GET', '/exports?after=x'),
      await control('POST', '/rescan', { manifests: ['../x'] }),
      await control('POST', '/rescan', { manifests: 'x'.repeat(100_000) }),
    ]
    expect(answers.map(({ status }) => status)).toEqual([404, 400, 400, 413])
  })
})

describe('--policy', () => {
  test('admits nobody until it is there, and holds at once for who is connected', async context => {
    await needLibnbd(context)
    const policy = join(sockets.path, 'policy.json')
    const say = async (value: object) => {
      await writeFile(`${policy}.new`, JSON.stringify(value))
      await rename(`${policy}.new`, policy)
    }
    await make('alice')
    await declare('alice')
    await start('--policy', policy)
    expect(await connect('alice')).toHaveProperty('refused')
    await say({ allow: ['127.0.0.0/8'] })
    await expect.poll(() => connect('alice'), { timeout: 10_000 }).toEqual({ size: MIB })
    const poll = `import nbd, sys, time
h = nbd.NBD(); h.connect_uri(sys.argv[1]); print("open", flush=True)
try:
    while True:
        h.pread(512, 0); time.sleep(0.02)
except nbd.Error: print(time.time() * 1000)`
    let cutAt = 0
    const lost = await check(PYTHON, ['-c', poll, uri('alice')], {
      onLine: line => {
        if (line !== 'open') return
        cutAt = Date.now()
        void say({ deny: ['127.0.0.1'] })
      },
    })
    expect(Number(lost.split('\n')[1]) - cutAt).toBeLessThan(2000)
    expect(await connect('alice')).toHaveProperty('refused')
    await say({ maxConnections: 1 })
    await expect.poll(() => connect('alice'), { timeout: 10_000 }).toEqual({ size: MIB })
  })
})

describe('--no-create', () => {
  test('never makes a declared disk, whatever happens; what is temporary is no disk that could be lost', async context => {
    await needLibnbd(context)
    await declare('alice')
    await declare('tmp', { mode: 'Temporary' })
    await start()
    expect(await refusal('alice')).toContain('The file of this disk is missing')
    expect(await connect('tmp')).toEqual({ size: MIB })
    await declare('alice', { size: '2Mi' })
    await control('POST', '/rescan')
    expect(await connect('alice')).toHaveProperty('refused')
    await make('alice')
    await control('POST', '/rescan')
    expect(await connect('alice')).toEqual({ size: MIB })
    await server?.stop()
    await rm(join(disks.path, 'uid-alice'))
    await start()
    expect(await connect('alice')).toHaveProperty('refused')
    expect(await run('ls', [disks.path])).toMatchObject({ stdout: '' })
  })
})

describe('--ask', () => {
  /** Starts a program that decides, and answers what the test says. */
  async function decide(
    answer: (asked: { name: string; create: boolean; size?: number }) => Promise<unknown>,
  ) {
    const asked: unknown[] = []
    answerer = createServer((incoming, response) => {
      let text = ''
      incoming.on('data', chunk => {
        text += chunk
      })
      incoming.on('end', async () => {
        const question = JSON.parse(text)
        asked.push(question)
        response.end(JSON.stringify(await answer(question)))
      })
    })
    await new Promise<void>(resolve => answerer?.listen(socket('ask'), resolve))
    return asked
  }

  test('has a disk declared that a client wants, once for all who want it', async context => {
    await needLibnbd(context)
    await start('--ask', socket('ask'), '--wait')
    const asked = await decide(async ({ name }) => {
      await make(name)
      return { result: 'declared', manifest: await declare(name) }
    })
    const wanted = ['eve', 'eve', 'eve', 'mallory']
    expect(await Promise.all(wanted.map(connect))).toEqual(wanted.map(() => ({ size: MIB })))
    const question = { client: '127.0.0.1', create: true }
    expect(asked).toHaveLength(2)
    expect(asked).toContainEqual({ name: 'eve', ...question })
    expect(asked).toContainEqual({ name: 'mallory', ...question })
    expect(await connect('eve')).toEqual({ size: MIB })
    expect(asked).toHaveLength(2)
  })

  test('tells a client that only looks what it would get, and passes a size on', async context => {
    await needPrograms(context, 'nbdinfo')
    await start('--ask', socket('ask'))
    const asked = await decide(async ({ size = MIB }) => ({ result: 'size', size }))
    const look = `import nbd, sys
h = nbd.NBD(); h.set_opt_mode(True); h.connect_uri(sys.argv[1])
h.opt_info(); print(h.get_size()); h.opt_abort()`
    expect(Number(await check(PYTHON, ['-c', look, uri('eve')]))).toBe(MIB)
    expect(Number(await check(PYTHON, ['-c', look, uri('eve:4M')]))).toBe(4 * MIB)
    expect(asked).toMatchObject([
      { name: 'eve', create: false },
      { name: 'eve', create: false, size: 4 * MIB },
    ])
    // A server that has only been asked lists nothing that is not there.
    expect(await run('nbdinfo', ['--list', uri('')])).toMatchObject({
      stdout: expect.not.stringContaining('eve'),
    })
  })

  test('passes the words of a refusal on, and does not ask for a name that is not allowed', async context => {
    await needLibnbd(context)
    await start('--ask', socket('ask'))
    const asked = await decide(async () => ({
      ...{
        result: 'refused',
        kind: 'limit',
        message: 'The pool has 3 disks already (spec.onDemand.maxDisks).',
      },
    }))
    expect(await refusal('eve')).toContain('spec.onDemand.maxDisks')
    expect(await connect('..%2Fetc')).toHaveProperty('refused')
    expect(asked).toHaveLength(1)
  })

  test('refuses within seconds while the program is away; a disk that is there is served', async context => {
    await needLibnbd(context)
    await make('alice')
    await declare('alice')
    await start('--ask', socket('ask'))
    const begun = performance.now()
    expect(await refusal('eve')).toContain('does not answer')
    expect(performance.now() - begun).toBeLessThan(15_000)
    expect(await connect('alice')).toEqual({ size: MIB })
  })

  test('does not count the wait for a disk as the client’s time, and notices when the client leaves', async context => {
    await needLibnbd(context)
    await start('--ask', socket('ask'), '--handshake-timeout', '500ms')
    let dropped = 0
    const asked = await decide(async ({ name }) => {
      if (name === 'slow') {
        await new Promise(resolve => setTimeout(resolve, 1500))
        await make(name)
        return { result: 'declared', manifest: await declare(name) }
      }
      return await new Promise(() => undefined)
    })
    answerer?.on('request', (_, response) => response.on('close', () => response.writableEnded || dropped++))
    expect(await connect('slow')).toEqual({ size: MIB })
    const hasty = await run('timeout', ['1', PYTHON, '-c', HOLDER, uri('never')])
    expect(hasty.status).not.toBe(0)
    await expect.poll(() => dropped, { timeout: 5000 }).toBe(1)
    expect(asked).toHaveLength(2)
  })
})
