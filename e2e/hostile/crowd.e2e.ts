/** Many clients at once: for new disks, for one disk, and doing nothing. */
import { readdir, readFile } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { check, needPrograms, run, scratch, startServer } from '../harness.ts'

const disksIn = async (dir: string) => (await readdir(dir)).filter(name => !name.startsWith('.')).sort()

/** What is in the hidden directory beside the server's own place, which is empty when nothing is being made. */
async function leftovers(dir: string): Promise<string[]> {
  const entries = await readdir(join(dir, '.ondemand-disk'), { recursive: true })
  return entries.filter(name => !/^(links|ondemand-disk-[0-9a-f]{32}(\.lock)?)$/.test(name))
}

describe('Clients who come at once', () => {
  test('fifty for fifty new names get fifty whole disks', { timeout: 120_000 }, async context => {
    await needPrograms(context, 'nbdinfo', 'e2fsck')
    await using dir = await scratch()
    await using server = await startServer(['--dir', dir.path, '--size', '1G'])
    const names = Array.from({ length: 50 }, (_, index) => `disk${index}`)
    const sizes = await Promise.all(names.map(name => check('nbdinfo', ['--size', server.uri(name)])))
    expect(new Set(sizes)).toEqual(new Set([`${2 ** 30}\n`]))
    expect(await disksIn(dir.path)).toEqual(names.toSorted())
    expect(await leftovers(dir.path)).toEqual([])
    expect(await server.stop()).toBe(0)
    await Promise.all(names.map(name => check('e2fsck', ['-fn', join(dir.path, name)])))
  })

  test('twenty for one new name get one disk, one after the other', { timeout: 120_000 }, async context => {
    await needPrograms(context, 'qemu-io')
    await using dir = await scratch()
    await using server = await startServer(['--dir', dir.path, '--size', '1G', '--wait'])
    const clients = Array.from({ length: 20 }, (_, index) =>
      check('qemu-io', ['-f', 'raw', '-c', `write -P ${index + 1} ${512 + index}M 1M`, server.uri('one')]),
    )
    await Promise.all(clients)
    const reads = Array.from({ length: 20 }, (_, index) => ['-c', `read -P ${index + 1} ${512 + index}M 1M`])
    const output = await check('qemu-io', ['-f', 'raw', '-r', ...reads.flat(), server.uri('one')])
    expect(output).not.toMatch(/failed/)
    expect(await disksIn(dir.path)).toEqual(['one'])
    expect(server.log()).not.toMatch(/refused/)
    expect(await server.stop()).toBe(0)
  })

  test('twenty for one disk without --wait: one has it, the others are told who', async context => {
    await needPrograms(context, 'qemu-io')
    await using dir = await scratch()
    await using server = await startServer(['--dir', dir.path, '--size', '64M'])
    await check('nbdinfo', ['--size', server.uri('one')])
    const ended = await Promise.all(
      Array.from({ length: 20 }, () => run('qemu-io', ['-f', 'raw', '-c', 'sleep 1000', server.uri('one')])),
    )
    const refused = ended.filter(({ status }) => status !== 0)
    expect(refused).toHaveLength(19)
    for (const { stderr, stdout } of refused) {
      expect(stderr + stdout).toMatch(/already has 1 connection from 127\.0\.0\.1, since 20/)
    }
  })

  test('to make disks do not delay one who only reads', { timeout: 120_000 }, async context => {
    await needPrograms(context, 'nbdinfo')
    await using dir = await scratch()
    const slow = 'case $disk in *) sleep 2; truncate -s "$size" "$disk";; esac'
    await using server = await startServer(['--dir', dir.path, '--size', '16M', '--command', slow])
    await check('nbdinfo', ['--size', server.uri('there')])
    const others = Array.from({ length: 20 }, (_, index) =>
      check('nbdinfo', ['--size', server.uri(`new${index}`)]),
    )
    const started = performance.now()
    await check('nbdinfo', ['--size', server.uri('there')])
    expect(performance.now() - started).toBeLessThan(1500)
    await Promise.all(others)
  })
})

describe('Idle connections', () => {
  /** VmRSS in bytes. */
  async function residentOf(pid: number): Promise<number> {
    const status = await readFile(`/proc/${pid}/status`, 'latin1')
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024
  }

  /** Attaches to a disk and stays. */
  const attach = (port: number, name: string) =>
    new Promise<Socket>((resolve, reject) => {
      const socket = connect(port, '127.0.0.1')
      const head = Buffer.from('\0\0\0\x03IHAVEOPT\0\0\0\x07', 'latin1')
      const lengths = Buffer.from([0, 0, 0, 6 + name.length, 0, 0, 0, name.length])
      const hello = Buffer.concat([head, lengths, Buffer.from(name), Buffer.from([0, 0])])
      let got = 0
      socket.on('error', reject)
      socket.once('data', () => socket.write(hello))
      socket.on('data', data => {
        got += data.length
        // Greeting, INFO_EXPORT, ACK.
        if (got >= 18 + 32 + 20) resolve(socket)
      })
    })

  test('2,000, each with a disk, cost less than 100 MB in all', { timeout: 120_000 }, async () => {
    await using dir = await scratch()
    await check('bash', ['-c', 'cd "$1" && truncate -s 1M disk{0..1999}', 'disks', dir.path])
    await using server = await startServer(['--dir', dir.path, '--no-create', '--max-connections', '2100'])
    const before = await residentOf(server.pid)
    const sockets: Socket[] = []
    while (sockets.length < 2000) {
      const names = Array.from({ length: 50 }, (_, index) => `disk${sockets.length + index}`)
      sockets.push(...(await Promise.all(names.map(name => attach(server.port, name)))))
    }
    await new Promise(resolve => setTimeout(resolve, 2000))
    const after = await residentOf(server.pid)
    const report = `${Math.round(before / 1e6)} MB before, ${Math.round(after / 1e6)} MB with 2,000`
    process.stdout.write(`Resident memory of the server: ${report}\n`)
    for (const socket of sockets) socket.destroy()
    expect(after - before, report).toBeLessThan(100e6)
  })
})
