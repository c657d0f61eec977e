/** Disks that manifests declare, with foreign clients: made and served by their own specs, and what is wrong reported. */
import { existsSync } from 'node:fs'
import { readdir, rename, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { BLANK, manifest, useDeclaringServer } from './declaring-server.ts'
import { check, needPrograms, run } from './harness.ts'
import { needLibnbd } from './libnbd.ts'

const MIB = 2 ** 20

const server = useDeclaringServer()
const { start, put, remove, log, reasons, uri, size, isServed, isListed, hold } = server

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
    expect(await isServed('carol')).toBe(false)
    expect(await isServed('0b5f3c5e-7f0c-4a8e-9f3a-1d2c3b4a5968')).toBe(false)
    const files = (await readdir(server.disks)).filter(name => !name.startsWith('.'))
    expect(files.sort()).toEqual(['0b5f3c5e-7f0c-4a8e-9f3a-1d2c3b4a5968', 'Carol', 'alice', 'bob'])
    expect(await server.stop()).toBe(0)
  })

  test("are followed while they come, change and go, also by way of a ConfigMap's links", async context => {
    await needPrograms(context, 'nbdinfo')
    await start()
    expect(await isServed('alice')).toBe(false)
    await put('alice.yaml', manifest('alice', BLANK))
    await expect.poll(() => isServed('alice')).toBe(true)
    await remove('alice.yaml')
    await expect.poll(() => isServed('alice')).toBe(false)
    expect(existsSync(join(server.disks, 'alice'))).toBe(true)

    const version = async (number: number, spec: string) => {
      const folder = join(server.manifests, `..${number}`)
      await check('mkdir', [folder])
      await writeFile(join(folder, 'bob.yaml'), manifest('bob', spec))
      await symlink(`..${number}`, join(server.manifests, '..tmp'))
      await rename(join(server.manifests, '..tmp'), join(server.manifests, '..data'))
    }
    await version(1, BLANK)
    await symlink('..data/bob.yaml', join(server.manifests, 'bob.yaml'))
    await expect.poll(() => isServed('bob')).toBe(true)
    await version(2, `${BLANK}\n  readOnly: true`)
    await expect.poll(async () => await check('nbdinfo', [uri('bob')])).toContain('is_read_only: true')
    expect(await server.stop()).toBe(0)
  })

  test('are found again by the next server, after a crash too', async context => {
    await needPrograms(context, 'nbdinfo', 'qemu-io')
    await put('alice.yaml', manifest('alice', '  size: 64Mi'))
    await put('bob.yaml', manifest('bob', BLANK, '  uid: b0b\n'))
    await start()
    for (const name of ['alice', 'bob']) {
      await check('qemu-io', ['-f', 'raw', '-c', 'write -P 0x42 512k 4k', uri(name)])
    }
    await server.kill()
    await start()
    for (const name of ['alice', 'bob']) {
      await check('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 0x42 512k 4k', uri(name)])
    }
    expect(log()).not.toContain('"Disk made"')
    expect(await server.stop()).toBe(0)
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
      expect(await isServed(name), name).toBe(false)
      expect(await isListed(name)).toBe(false)
    }
    expect(await holder.lost()).toBe(Number.POSITIVE_INFINITY)
    await check('nbdinfo', [uri('good')])
    const files = (await readdir(server.disks)).filter(name => !name.startsWith('.'))
    expect(files).toEqual(['good'])
    // The filesystem of h is one that could be somewhere else, and so does not change.
    const curable = BAD.map(([, file]) => file).filter(file => file !== 'h.yaml')
    for (const file of curable) await put(file, manifest(file.slice(0, 1), BLANK))
    for (const name of curable.map(file => file.slice(0, 1))) {
      await expect.poll(() => isServed(name)).toBe(true)
    }
    expect(await server.stop()).toBe(0)
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
    expect(await server.stop()).toBe(0)
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
    await expect.poll(() => isServed('bad')).toBe(true)
    await put('worse.yaml', manifest('worse', '  size: 1Mi\n  command: sleep 12345'))
    await expect.poll(sleeps).toBe(true)
    expect(await server.stop()).toBe(0)
    expect(await sleeps()).toBe(false)
    const files = (await readdir(server.disks)).filter(name => !name.startsWith('.'))
    expect(files.sort()).toEqual(['bad', 'good'])
  })
})
