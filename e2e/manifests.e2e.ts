/** Disks that manifests declare, with foreign clients: made, served by their own specs, changed and deleted. */
import { existsSync } from 'node:fs'
import { readdir, rename, rm, stat, symlink, writeFile } from 'node:fs/promises'
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
let server: ServerProcess | undefined

beforeEach(async () => {
  disks = await scratch()
  manifests = await scratch()
})

afterEach(async () => {
  await server?.[Symbol.asyncDispose]()
  server = undefined
  await disks[Symbol.asyncDispose]()
  await manifests[Symbol.asyncDispose]()
})

async function start(...args: readonly string[]): Promise<ServerProcess> {
  server = await startServer(['--dir', disks.path, '--disks', manifests.path, ...args])
  return server
}

/** Writes a file as a program does that means well: under another name first. */
async function put(name: string, text: string): Promise<void> {
  await writeFile(join(manifests.path, `.${name}`), text)
  await rename(join(manifests.path, `.${name}`), join(manifests.path, name))
}

const remove = (name: string) => rm(join(manifests.path, name))

/** A manifest whose spec is this YAML, each line indented already. */
const manifest = (name: string, spec: string, metadata = '') =>
  `apiVersion: ondemanddisk.dev/v1alpha1
kind: OnDemandDisk
metadata:
  name: ${name}
${metadata}spec:
${spec}
`

const BLANK = `  size: 1Mi
  command: truncate -s "$size" "$disk"`

const log = () => server?.log() ?? ''
const uri = (name: string) => server?.uri(name) ?? ''

/** The size in bytes that a client sees. */
const size = async (name: string) => Number(await check('nbdinfo', ['--size', uri(name)]))

/** Reasons in the log for this message, by the export or file that it is about. */
const reasons = (message: string): Readonly<Record<string, string>> =>
  Object.fromEntries(
    log()
      .split('\n')
      .filter(line => line.includes(`"${message}"`))
      .map(line => JSON.parse(line) as { file?: string; export?: string; reason: string })
      .map(({ file, export: name, reason }) => [file ?? name ?? '', reason]),
  )

/** Opens a disk and reads a sector 50 times a second until that fails, or the time is over. */
const HOLDER = `
import nbd, sys, time
h = nbd.NBD(); h.connect_uri(sys.argv[1])
print("open", flush=True)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    try:
        h.pread(512, 0)
    except nbd.Error as error:
        print("lost", flush=True)
        sys.exit(0)
    time.sleep(0.02)
print("kept", flush=True)
`

/** A client that has a disk open. */
interface Holder {
  /** Milliseconds from the call until the client has lost its disk; Infinity if it keeps it. */
  lost(): Promise<number>
}

async function hold(name: string, seconds = 8): Promise<Holder> {
  let onLine = (_: string) => {}
  const lines: string[] = []
  const saw = (wanted: string) =>
    new Promise<void>(resolve => {
      if (lines.includes(wanted)) resolve()
      onLine = line => line === wanted && resolve()
    })
  const ended = check(PYTHON, ['-c', HOLDER, uri(name), String(seconds)], {
    onLine: line => {
      lines.push(line)
      onLine(line)
    },
  })
  await Promise.race([saw('open'), ended])
  return {
    async lost() {
      const startedAt = performance.now()
      const output = await ended
      return output.includes('lost') ? performance.now() - startedAt : Number.POSITIVE_INFINITY
    },
  }
}

/** Lists names only, where nbdinfo --list also asks for all that there is to know of each. */
const LISTER = `
import nbd, sys
h = nbd.NBD(); h.set_opt_mode(True); h.connect_uri(sys.argv[1])
h.opt_list(lambda name, description: print(name) or 0)
h.opt_abort()
`

const isListed = async (name: string) =>
  (await check(PYTHON, ['-c', LISTER, uri('')])).split('\n').includes(name)

describe('Manifests', () => {
  test('have their disks made and served, each by its own spec', async context => {
    await needLibnbd(context)
    await needPrograms(context, 'nbdinfo', 'nbdcopy', 'blkid')
    await put('alice.yaml', manifest('alice', '  size: 64Mi\n  filesystem:\n    type: ext4\n    label: hers'))
    await put(
      'two.yaml',
      `${manifest('bob', `${BLANK}\n  readOnly: true`)}---\n${manifest('carol', `  exportName: Carol\n${BLANK}\n  access:\n    connections: 4`)}`,
    )
    await put(
      'temp.json',
      JSON.stringify({
        ...{ apiVersion: 'ondemanddisk.dev/v1alpha1', kind: 'OnDemandDisk', metadata: { name: 'scratch' } },
        spec: { size: '2Mi', mode: 'Temporary', command: 'truncate -s "$size" "$disk"' },
      }),
    )
    await put('uid.yaml', manifest('dave', BLANK, '  uid: 0b5f3c5e-7f0c-4a8e-9f3a-1d2c3b4a5968\n'))
    await start()
    expect(await size('alice')).toBe(64 * MIB)
    expect(await check('nbdinfo', [uri('alice')])).toMatch(/ext4.*volume name "hers"/)
    expect(await check('nbdinfo', [uri('bob')])).toMatch(/is_read_only: true/)
    expect(await check('nbdinfo', [uri('Carol')])).toMatch(/can_multi_conn: true/)
    expect(await check('nbdinfo', [uri('dave')])).toMatch(/can_multi_conn: false/)
    expect(await size('scratch')).toBe(2 * MIB)
    for (const name of ['alice', 'bob', 'Carol', 'dave', 'scratch']) expect(await isListed(name)).toBe(true)
    expect((await run('nbdinfo', [uri('carol')])).status).not.toBe(0)
    expect((await run('nbdinfo', [uri('0b5f3c5e-7f0c-4a8e-9f3a-1d2c3b4a5968')])).status).not.toBe(0)
    const files = (await readdir(disks.path)).filter(name => !name.startsWith('.'))
    expect(files.sort()).toEqual(['0b5f3c5e-7f0c-4a8e-9f3a-1d2c3b4a5968', 'Carol', 'alice', 'bob'])
    expect(await server?.stop()).toBe(0)
  })

  test("are followed while they come, change and go, also by way of a ConfigMap's links", async context => {
    await needPrograms(context, 'nbdinfo')
    await start()
    expect((await run('nbdinfo', [uri('alice')])).status).not.toBe(0)
    await put('alice.yaml', manifest('alice', BLANK))
    await expect.poll(async () => (await run('nbdinfo', [uri('alice')])).status).toBe(0)
    await remove('alice.yaml')
    await expect.poll(async () => (await run('nbdinfo', [uri('alice')])).status).not.toBe(0)
    expect(existsSync(join(disks.path, 'alice'))).toBe(true)

    const version = async (number: number, spec: string) => {
      const folder = join(manifests.path, `..${number}`)
      await check('mkdir', [folder])
      await writeFile(join(folder, 'bob.yaml'), manifest('bob', spec))
      await symlink(`..${number}`, join(manifests.path, '..tmp'))
      await rename(join(manifests.path, '..tmp'), join(manifests.path, '..data'))
    }
    await version(1, BLANK)
    await symlink('..data/bob.yaml', join(manifests.path, 'bob.yaml'))
    await expect.poll(async () => (await run('nbdinfo', [uri('bob')])).status).toBe(0)
    await version(2, `${BLANK}\n  readOnly: true`)
    await expect.poll(async () => await check('nbdinfo', [uri('bob')])).toContain('is_read_only: true')
    expect(await server?.stop()).toBe(0)
  })

  test('are found again by the next server, after a crash too', async context => {
    await needPrograms(context, 'nbdinfo', 'qemu-io')
    await put('alice.yaml', manifest('alice', '  size: 64Mi'))
    await put('bob.yaml', manifest('bob', BLANK, '  uid: b0b\n'))
    await start()
    for (const name of ['alice', 'bob']) {
      await check('qemu-io', ['-f', 'raw', '-c', 'write -P 0x42 512k 4k', uri(name)])
    }
    await server?.kill()
    await start()
    for (const name of ['alice', 'bob']) {
      await check('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 0x42 512k 4k', uri(name)])
    }
    expect(log()).not.toContain('"Disk made"')
    expect(await server?.stop()).toBe(0)
  })
})

describe('A change of a manifest', () => {
  test('of who may connect ends within a second the connections that it does not admit', async context => {
    await needLibnbd(context)
    for (const name of ['alice', 'bob']) await put(`${name}.yaml`, manifest(name, BLANK))
    await start()
    const [alice, bob] = [await hold('alice'), await hold('bob', 3)]
    await put('alice.yaml', manifest('alice', `${BLANK}\n  access:\n    allow: [10.9.8.7]`))
    expect(await alice.lost()).toBeLessThan(1000)
    expect((await run('nbdinfo', [uri('alice')])).status).not.toBe(0)
    expect(await isListed('alice')).toBe(false)
    expect(await bob.lost()).toBe(Number.POSITIVE_INFINITY)
    await put('alice.yaml', manifest('alice', `${BLANK}\n  access:\n    allow: [10.9.8.7, 127.0.0.0/8]`))
    await expect.poll(async () => (await run('nbdinfo', [uri('alice')])).status).toBe(0)
    expect(await server?.stop()).toBe(0)
  })

  test("to read-only ends the writers' connections, and lets many read", async context => {
    await needLibnbd(context)
    await needPrograms(context, 'nbdinfo', 'qemu-io')
    await put('alice.yaml', manifest('alice', BLANK))
    await start()
    const writer = await hold('alice')
    await put('alice.yaml', manifest('alice', `${BLANK}\n  readOnly: true`))
    expect(await writer.lost()).toBeLessThan(1000)
    const [one, other] = [await hold('alice'), await hold('alice')]
    expect((await run('qemu-io', ['-f', 'raw', '-c', 'write 0 4k', uri('alice')])).status).not.toBe(0)
    await put('alice.yaml', manifest('alice', BLANK))
    expect(Math.max(await one.lost(), await other.lost())).toBeLessThan(1000)
    await check('qemu-io', ['-f', 'raw', '-c', 'write 0 4k', uri('alice')])
    expect(await server?.stop()).toBe(0)
  })

  test('of its connections holds for the next ones', async context => {
    await needPrograms(context, 'nbdcopy', 'nbdinfo')
    await put('alice.yaml', manifest('alice', BLANK))
    await start()
    expect(await check('nbdinfo', [uri('alice')])).toMatch(/can_multi_conn: false/)
    await put('alice.yaml', manifest('alice', `${BLANK}\n  access:\n    connections: 2`))
    await expect.poll(() => check('nbdinfo', [uri('alice')])).toMatch(/can_multi_conn: true/)
    await check('nbdcopy', ['--connections=2', uri('alice'), 'null:'])
    expect(await server?.stop()).toBe(0)
  })

  test('to a greater size grows the file and the filesystem of a disk that nobody uses', async context => {
    await needPrograms(context, 'nbdinfo', 'e2fsck', 'dumpe2fs')
    await put('alice.yaml', manifest('alice', '  size: 64Mi'))
    await start()
    expect(await size('alice')).toBe(64 * MIB)
    await put('alice.yaml', manifest('alice', '  size: 192Mi'))
    await expect.poll(log).toContain('"Disk grown"')
    expect(await size('alice')).toBe(192 * MIB)
    expect(await server?.stop()).toBe(0)
    const file = join(disks.path, 'alice')
    await check('e2fsck', ['-fn', file])
    const header = await check('dumpe2fs', ['-h', file])
    const field = (name: string) => Number(new RegExp(`^${name}: +(\\d+)$`, 'm').exec(header)?.[1])
    expect(field('Block count') * field('Block size')).toBe(192 * MIB)
  })

  test('to a greater size leaves alone who uses the disk, and grows the file', async context => {
    await needLibnbd(context)
    await needPrograms(context, 'nbdinfo', 'e2fsck')
    await put('alice.yaml', manifest('alice', '  size: 64Mi'))
    await start()
    const holder = await hold('alice', 3)
    await put('alice.yaml', manifest('alice', '  size: 128Mi'))
    await expect.poll(async () => (await stat(join(disks.path, 'alice'))).size).toBe(128 * MIB)
    expect(await holder.lost()).toBe(Number.POSITIVE_INFINITY)
    await expect.poll(() => size('alice')).toBe(128 * MIB)
    expect(await server?.stop()).toBe(0)
    await check('e2fsck', ['-fn', join(disks.path, 'alice')])
  })

  test('to a smaller size is refused: new clients hear why, those that have the disk keep it', async context => {
    await needLibnbd(context)
    await needPrograms(context, 'nbdinfo')
    await put('alice.yaml', manifest('alice', BLANK))
    await start()
    const holder = await hold('alice', 3)
    await put('alice.yaml', manifest('alice', BLANK.replace('1Mi', '512Ki')))
    await expect.poll(() => reasons('Bad manifest')['alice.yaml']).toMatch(/spec\.size: A disk cannot shrink/)
    expect(await holder.lost()).toBe(Number.POSITIVE_INFINITY)
    expect((await run('nbdinfo', [uri('alice')])).status).not.toBe(0)
    expect(reasons('Export refused').alice).toMatch(/cannot shrink/)
    expect((await stat(join(disks.path, 'alice'))).size).toBe(MIB)
    await put('alice.yaml', manifest('alice', BLANK))
    await expect.poll(async () => (await run('nbdinfo', [uri('alice')])).status).toBe(0)
    expect(await server?.stop()).toBe(0)
  })
})

describe('A manifest that is deleted', () => {
  test('disconnects its clients; the file stays, and comes back with the manifest', async context => {
    await needLibnbd(context)
    await needPrograms(context, 'qemu-io')
    await put('alice.yaml', manifest('alice', BLANK))
    await put('bob.yaml', manifest('bob', BLANK))
    await start()
    await check('qemu-io', ['-f', 'raw', '-c', 'write -P 0x42 0 4k', uri('alice')])
    const [alice, bob] = [await hold('alice'), await hold('bob', 3)]
    await remove('alice.yaml')
    expect(await alice.lost()).toBeLessThan(1000)
    expect(await bob.lost()).toBe(Number.POSITIVE_INFINITY)
    expect(existsSync(join(disks.path, 'alice'))).toBe(true)
    await put('renamed.yaml', manifest('alice', BLANK))
    await expect
      .poll(
        async () =>
          (await run('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 0x42 0 4k', uri('alice')])).status,
      )
      .toBe(0)
    expect(await server?.stop()).toBe(0)
  })

  test('does not leave its disk to everybody where disks are made on demand, nor does a restart', async context => {
    await needLibnbd(context)
    await needPrograms(context, 'nbdinfo', 'qemu-io')
    const onDemand = ['--size', '2M', '--command', 'truncate -s "$size" "$disk"']
    await put('alice.yaml', manifest('alice', BLANK))
    await put('dave.yaml', manifest('dave', BLANK, '  uid: da7e\n'))
    await start(...onDemand)
    await check('qemu-io', ['-f', 'raw', '-c', 'write -P 0x42 0 4k', uri('alice')])
    expect(await size('other')).toBe(2 * MIB)
    expect((await run('nbdinfo', [uri('da7e')])).status).not.toBe(0)
    expect(await isListed('da7e')).toBe(false)
    // What protected it from others is gone.
    await remove('alice.yaml')
    await remove('dave.yaml')
    const nobodyGetsIt = async () => {
      for (const name of ['alice', 'da7e']) {
        await expect.poll(async () => (await run('nbdinfo', [uri(name)])).status).not.toBe(0)
        expect(await isListed(name)).toBe(false)
        await expect.poll(() => reasons('Export refused')[name]).toMatch(/not declared any more/)
      }
      expect((await run('nbdinfo', [uri('dave')])).status).toBe(0)
    }
    await nobodyGetsIt()
    expect(await server?.stop()).toBe(0)
    await start(...onDemand)
    await nobodyGetsIt()
    expect(await server?.stop()).toBe(0)
    // It was declared, but now cannot even be read.
    await put('alice.yaml', 'metadata: [')
    await start(...onDemand)
    expect((await run('nbdinfo', [uri('alice')])).status).not.toBe(0)
    await rm(join(disks.path, 'alice'))
    await check('nbdinfo', [uri('alice')])
    expect(await server?.stop()).toBe(0)
  })
})

describe('A bad manifest', () => {
  const BAD: [what: string, name: string, text: string, reason: RegExp][] = [
    ['broken YAML', 'a.yaml', `${manifest('a', BLANK)}\n}: [`, /^Line \d+: the YAML is broken\./],
    ['an unknown field', 'b.yaml', manifest('b', `${BLANK}\n  colour: red`), /^spec\.colour: /],
    [
      'a bad CIDR',
      'c.yaml',
      manifest('c', `${BLANK}\n  access:\n    allow: [10.0.0.0/33]`),
      /^spec\.access\.allow\[0\]: .*not an access rule/,
    ],
    ['no size', 'd.yaml', manifest('d', '  filesystem:\n    type: ext4'), /^spec\.size: /],
    ['another kind', 'e.yaml', 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: e}\n', /^apiVersion: /],
    ['nothing in it', 'f.yaml', '', /holds no object/],
    [
      'a rule that needs TLS',
      'g.yaml',
      manifest('g', `${BLANK}\n  access:\n    deny: ['dn:*']`),
      /needs TLS/,
    ],
    [
      'an mkfs that the machine lacks',
      'h.yaml',
      manifest('h', '  size: 1Mi\n  filesystem:\n    type: nosuchfs'),
      /^spec\.filesystem\.type: There is no program mkfs\.nosuchfs/,
    ],
    [
      'a path for mkfs',
      'i.yaml',
      manifest('i', '  size: 1Mi\n  filesystem:\n    type: ext4\n    mkfsOptions: ["-d/etc"]'),
      /^spec\.filesystem\.mkfsOptions\[0\]: /,
    ],
    [
      'an export name that is none',
      'j.yaml',
      manifest('j', `  exportName: ../j\n${BLANK}`),
      /^spec\.exportName: /,
    ],
    ['a uid with a path', 'k.yaml', manifest('k', BLANK, '  uid: ../../k\n'), /^metadata\.uid: /],
  ]

  test('is reported with its file and field, refused by its name, made by nobody, and disturbs no other', async context => {
    await needLibnbd(context)
    await needPrograms(context, 'nbdinfo')
    await put('good.yaml', manifest('good', BLANK))
    for (const [, name, text] of BAD.slice(0, 5)) await put(name, text)
    await start('--size', '1M', '--command', 'truncate -s "$size" "$disk"')
    const holder = await hold('good', 4)
    for (const [, name, text] of BAD.slice(5)) await put(name, text)
    for (const [what, file, , reason] of BAD) {
      const told = () =>
        reasons('Bad manifest')[file] ?? reasons('Declared disk is not ready')[file.slice(0, 1)]
      await expect.poll(told, { timeout: 5000, message: what }).toMatch(reason)
    }
    // Those of which the name can be read.
    for (const name of ['b', 'c', 'd', 'g', 'h', 'i', 'k']) {
      expect((await run('nbdinfo', [uri(name)])).status, name).not.toBe(0)
      expect(await isListed(name)).toBe(false)
    }
    expect(await holder.lost()).toBe(Number.POSITIVE_INFINITY)
    await check('nbdinfo', [uri('good')])
    const files = (await readdir(disks.path)).filter(name => !name.startsWith('.'))
    expect(files).toEqual(['good'])
    // The filesystem of h is one that could be somewhere else, and so does not change.
    const curable = BAD.map(([, file]) => file).filter(file => file !== 'h.yaml')
    for (const file of curable) await put(file, manifest(file.slice(0, 1), BLANK))
    for (const name of curable.map(file => file.slice(0, 1))) {
      await expect.poll(async () => (await run('nbdinfo', [uri(name)])).status).toBe(0)
    }
    expect(await server?.stop()).toBe(0)
  })

  test('with the name of another is refused; the first keeps it', async context => {
    await needPrograms(context, 'nbdinfo')
    await put('a.yaml', manifest('alice', BLANK))
    await put('b.yaml', manifest('impostor', `  exportName: alice\n${BLANK.replace('1Mi', '2Mi')}`))
    await start()
    expect(reasons('Bad manifest')['b.yaml']).toMatch(
      /^spec\.exportName: The export name is already used by a\.yaml/,
    )
    expect(await size('alice')).toBe(MIB)
    await put('0.yaml', manifest('alice', BLANK.replace('1Mi', '4Mi')))
    await expect
      .poll(() => reasons('Bad manifest')['0.yaml'])
      .toMatch(/^metadata\.name: The object is already in a\.yaml/)
    expect(await size('alice')).toBe(MIB)
    expect(await server?.stop()).toBe(0)
  })

  test('whose command hangs holds up nobody, and ends when it is corrected, and when the server stops', async context => {
    await needPrograms(context, 'nbdinfo')
    await put('bad.yaml', manifest('bad', '  size: 1Mi\n  command: sleep 12345'))
    await put('good.yaml', manifest('good', BLANK))
    await start()
    const sleeps = async () => (await run('pgrep', ['-f', 'sleep 12345'])).stdout.trim() !== ''
    await expect.poll(sleeps).toBe(true)
    await check('nbdinfo', [uri('good')])
    await put('bad.yaml', manifest('bad', BLANK))
    await expect.poll(sleeps).toBe(false)
    await expect.poll(async () => (await run('nbdinfo', [uri('bad')])).status).toBe(0)
    await put('worse.yaml', manifest('worse', '  size: 1Mi\n  command: sleep 12345'))
    await expect.poll(sleeps).toBe(true)
    expect(await server?.stop()).toBe(0)
    expect(await sleeps()).toBe(false)
    const files = (await readdir(disks.path)).filter(name => !name.startsWith('.'))
    expect(files.sort()).toEqual(['bad', 'good'])
  })
})
