import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'

/** Runs a program with the announcement loaded in front of it; it gets a second. */
async function announced(program: string, ...options: string[]): Promise<string> {
  const script = `import net from 'node:net'; import http from 'node:http'; ${program}; setTimeout(() => process.exit(), 1000)`
  const node = [
    `--import=${import.meta.dirname}/announce.ts`,
    '--input-type=module',
    '--eval',
    script,
    '--',
    ...options,
  ]
  return (await promisify(execFile)(process.execPath, node)).stdout
}

describe.concurrent('The announcement of a server that listens', () => {
  test('names the address and the commands to try', async () => {
    const text = await announced(
      `const s = net.createServer().listen(0, '127.0.0.1', () => console.log(s.address().port))`,
    )
    const port = text.match(/^\d+$/m)?.[0]
    expect(text).toContain(`Ready: nbd://127.0.0.1:${port}\n`)
    expect(text).toContain(`nbdinfo nbd://127.0.0.1:${port}/alice\n`)
    expect(text).toContain(`nbdcopy nbd://127.0.0.1:${port}/alice alice.img\n`)
    expect(text).toContain(`qemu-img info nbd://127.0.0.1:${port}/alice\n`)
    expect(text).toContain(`nbd-client -N alice 127.0.0.1 ${port} /dev/nbd0`)
    expect(text).toContain('apt-get install libnbd-bin qemu-utils nbd-client')
  })

  test.each([
    ['--upstream', 'nbd://elsewhere'],
    ['--backend=memory', 'size=1G'],
    ['--no-create', '--dir', '/srv/disks'],
    ['--disks', '/etc/disks'],
  ])('promises no disk of any name where none is made (%s)', async (...options) => {
    const text = await announced(`net.createServer().listen(0, '127.0.0.1')`, ...options)
    expect(text).toMatch(/nbdinfo --list nbd:\/\/127\.0\.0\.1:\d+\/\n/)
    expect(text).not.toContain('alice')
  })

  test('is made once, for the first address, and not for HTTP', async () => {
    const text = await announced(
      `http.createServer().listen(0, '127.0.0.1', () => net.createServer().listen(0, '127.0.0.2', () => net.createServer().listen(0, '127.0.0.3')))`,
    )
    expect(text.match(/^Ready: .*$/gm)).toEqual([expect.stringMatching(/^Ready: nbd:\/\/127\.0\.0\.2:\d+$/)])
  })

  test('says how this machine reaches a server that listens on every address', async () => {
    expect(await announced(`net.createServer().listen(0, '0.0.0.0')`)).toMatch(
      /^Ready: nbd:\/\/127\.0\.0\.1:\d+$/m,
    )
  })

  test('knows Unix sockets', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'announce-test-'))
    try {
      const text = await announced(`net.createServer().listen('${folder}/nbd')`)
      expect(text).toContain(`nbdinfo nbd+unix:///alice?socket=${folder}/nbd\n`)
      expect(text).toContain(`nbd-client -N alice -unix ${folder}/nbd /dev/nbd0`)
    } finally {
      await rm(folder, { recursive: true })
    }
  })

  test('is not made by a server whose next address is in use', async () => {
    const text = await announced(
      `net.createServer().listen(0, '127.0.0.1', function () {
         net.createServer().on('error', () => process.exit()).listen(this.address().port, '127.0.0.1')
       })`,
    )
    expect(text).toBe('')
  })
})
