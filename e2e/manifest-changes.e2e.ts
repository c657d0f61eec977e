/** Disks whose manifests change or are deleted while foreign clients have them. */
import { existsSync } from 'node:fs'
import { rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { BLANK, manifest, useDeclaringServer } from './declaring-server.ts'
import { check, needPrograms, run } from './harness.ts'
import { needLibnbd } from './libnbd.ts'

const MIB = 2 ** 20

const server = useDeclaringServer()
const { start, put, remove, log, reasons, uri, size, isServed, isListed, hold } = server

describe('A change of a manifest', () => {
  test('of who may connect ends within a second the connections that it does not admit', async context => {
    await needLibnbd(context)
    for (const name of ['alice', 'bob']) await put(`${name}.yaml`, manifest(name, BLANK))
    await start()
    const [alice, bob] = [await hold('alice'), await hold('bob', 3)]
    await put('alice.yaml', manifest('alice', `${BLANK}\n  access:\n    allow: [10.9.8.7]`))
    expect(await alice.lost()).toBeLessThan(1000)
    expect(await isServed('alice')).toBe(false)
    expect(await isListed('alice')).toBe(false)
    expect(await bob.lost()).toBe(Number.POSITIVE_INFINITY)
    await put('alice.yaml', manifest('alice', `${BLANK}\n  access:\n    allow: [10.9.8.7, 127.0.0.0/8]`))
    await expect.poll(() => isServed('alice')).toBe(true)
    expect(await server.stop()).toBe(0)
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
    expect(await server.stop()).toBe(0)
  })

  test('of its connections holds for the next ones', async context => {
    await needPrograms(context, 'nbdcopy', 'nbdinfo')
    await put('alice.yaml', manifest('alice', BLANK))
    await start()
    expect(await check('nbdinfo', [uri('alice')])).toMatch(/can_multi_conn: false/)
    await put('alice.yaml', manifest('alice', `${BLANK}\n  access:\n    connections: 2`))
    await expect.poll(() => check('nbdinfo', [uri('alice')])).toMatch(/can_multi_conn: true/)
    await check('nbdcopy', ['--connections=2', uri('alice'), 'null:'])
    expect(await server.stop()).toBe(0)
  })

  test('to a greater size grows the file and the filesystem of a disk that nobody uses', async context => {
    await needPrograms(context, 'nbdinfo', 'e2fsck', 'dumpe2fs')
    await put('alice.yaml', manifest('alice', '  size: 64Mi'))
    await start()
    expect(await size('alice')).toBe(64 * MIB)
    await put('alice.yaml', manifest('alice', '  size: 192Mi'))
    await expect.poll(log).toContain('"Disk grown"')
    expect(await size('alice')).toBe(192 * MIB)
    expect(await server.stop()).toBe(0)
    const file = join(server.disks, 'alice')
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
    await expect.poll(async () => (await stat(join(server.disks, 'alice'))).size).toBe(128 * MIB)
    expect(await holder.lost()).toBe(Number.POSITIVE_INFINITY)
    await expect.poll(() => size('alice')).toBe(128 * MIB)
    expect(await server.stop()).toBe(0)
    await check('e2fsck', ['-fn', join(server.disks, 'alice')])
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
    expect(await isServed('alice')).toBe(false)
    expect(reasons('Export refused').alice).toMatch(/cannot shrink/)
    expect((await stat(join(server.disks, 'alice'))).size).toBe(MIB)
    await put('alice.yaml', manifest('alice', BLANK))
    await expect.poll(() => isServed('alice')).toBe(true)
    expect(await server.stop()).toBe(0)
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
    expect(existsSync(join(server.disks, 'alice'))).toBe(true)
    await put('renamed.yaml', manifest('alice', BLANK))
    await expect
      .poll(
        async () =>
          (await run('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 0x42 0 4k', uri('alice')])).status,
      )
      .toBe(0)
    expect(await server.stop()).toBe(0)
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
    expect(await isServed('da7e')).toBe(false)
    expect(await isListed('da7e')).toBe(false)
    // What protected it from others is gone.
    await remove('alice.yaml')
    await remove('dave.yaml')
    const nobodyGetsIt = async () => {
      for (const name of ['alice', 'da7e']) {
        await expect.poll(() => isServed(name)).toBe(false)
        expect(await isListed(name)).toBe(false)
        await expect.poll(() => reasons('Export refused')[name]).toMatch(/not declared any more/)
      }
      expect(await isServed('dave')).toBe(true)
    }
    await nobodyGetsIt()
    expect(await server.stop()).toBe(0)
    await start(...onDemand)
    await nobodyGetsIt()
    expect(await server.stop()).toBe(0)
    // It was declared, but now cannot even be read.
    await put('alice.yaml', 'metadata: [')
    await start(...onDemand)
    expect(await isServed('alice')).toBe(false)
    await rm(join(server.disks, 'alice'))
    await check('nbdinfo', [uri('alice')])
    expect(await server.stop()).toBe(0)
  })
})
