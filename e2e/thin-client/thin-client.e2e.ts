import { createHash } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import {
  check,
  checkout,
  type Ended,
  needPrograms,
  run,
  type Scratch,
  scratch,
  startServer,
} from '../harness.ts'
import { needThinClient, toldBy } from './guest.ts'

const MiB = 1024 * 1024
/** Seconds for a boot with its script; alone on a machine it takes 5 to 30. */
const BOOT_LIMIT = 180

/** What a boot may have besides its script. */
interface BootOptions {
  /** Files that the script finds in /. */
  readonly files?: readonly string[]
  /** Called with each line of the console as it comes. */
  readonly onLine?: (line: string) => void
}

/** Boots the thin client and runs shell commands in it. */
async function boot(
  folder: Scratch,
  script: string,
  { files = [], onLine }: BootOptions = {},
): Promise<Ended> {
  const file = join(folder.path, 'script')
  await writeFile(file, script)
  const options = { timeout: (BOOT_LIMIT + 60) * 1000, ...(onLine && { onLine }) }
  return run(join(import.meta.dirname, 'boot'), [file, `${BOOT_LIMIT}`, ...files], options)
}

/** Numbers stand this far apart in the content, so that no two blocks of a disk are alike. */
const PADDING = 'on-demand '.repeat(40)

/** Shell command of the thin client that prints `bytes` of content; each `seed` has its own. */
const printContent = (seed: number, bytes: number) =>
  `seq -s "${PADDING}" ${seed} ${seed + Math.ceil(bytes / PADDING.length)} | head -c ${bytes}`

/** SHA-256 of the same content, made on this side. */
function contentSum(seed: number, bytes: number): string {
  const numbers = Array.from({ length: Math.ceil(bytes / PADDING.length) + 1 }, (_, index) => seed + index)
  return createHash('sha256').update(numbers.join(PADDING).slice(0, bytes)).digest('hex')
}

const attach = (name: string, port: number) => `nbd-client -N ${name} 10.0.2.2 ${port} /dev/nbd0`
/** Without it the kernel's driver waits for ever for what was under way when its server was killed. Seconds. */
const PATIENCE = '-t 10'

test('A thin client that ends early says why, and what it had said before', {
  timeout: 600_000,
}, async context => {
  // One ended in the middle of a test, and nothing was left of its console but that its power was off.
  await needThinClient(context)
  await using folder = await scratch()
  const said = 'seq -s " " 2000'
  const panicked = await boot(
    folder,
    `${said}; sleep 1; echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger`,
  )
  expect([panicked.status, toldBy(panicked).split('\n', 1)[0]]).toEqual([
    125,
    expect.stringMatching(
      /Last on its console: .*boot: The thin client ended after \d+ s, and its kernel panicked\.$/,
    ),
  ])
  const failed = await boot(folder, `${said}; exit 7`)
  expect([failed.status, toldBy(failed).split('\n', 1)[0]]).toEqual([
    7,
    expect.stringMatching(/ended with 7\. .* 1999 2000 .*script ended with 7/),
  ])
})

test('What a thin client wrote and fsynced survives a kill of the server', {
  timeout: 600_000,
}, async context => {
  await needThinClient(context)
  await using folder = await scratch()
  await using dir = await scratch()
  const options = ['--dir', dir.path, '--size', '1G']
  const seed = 1_000_000

  await using first = await startServer(options)
  const writing = await boot(
    folder,
    `set -e
     ${attach('alice', first.port)}
     mount -t ext4 /dev/nbd0 /mnt
     ${printContent(seed, 64 * MiB)} | dd of=/mnt/data bs=64k conv=fsync
     umount /mnt
     nbd-client -d /dev/nbd0`,
  )
  expect(writing.status, toldBy(writing)).toBe(0)
  await first.kill()

  await using second = await startServer(options)
  const reading = await boot(
    folder,
    `set -e
     ${attach('alice', second.port)}
     mount -t ext4 /dev/nbd0 /mnt
     sha256sum /mnt/data
     umount /mnt
     nbd-client -d /dev/nbd0`,
  )
  expect(reading.status, toldBy(reading)).toBe(0)
  expect(reading.stdout).toContain(`${contentSum(seed, 64 * MiB)}  /mnt/data`)
  expect(await second.stop()).toBe(0)
  await check('e2fsck', ['-fn', join(dir.path, 'alice')])
})

test('Every file whose fsync was acknowledged survives a kill of the server amid the writes', {
  timeout: 600_000,
}, async context => {
  await needThinClient(context)
  await using folder = await scratch()
  await using dir = await scratch()
  const options = ['--dir', dir.path, '--size', '1G']
  const bytes = 192 * 1024
  const killAfter = 25

  await using first = await startServer(options)
  const acknowledged: number[] = []
  let killed: Promise<void> | undefined
  const writing = await boot(
    folder,
    `${attach('alice', first.port)} ${PATIENCE} || exit 10
     mount -t ext4 /dev/nbd0 /mnt || exit 11
     file=0
     while [ $file -lt 2000 ]; do
       file=$((file + 1))
       seed=$((file * 10000))
       seq -s "${PADDING}" $seed $((seed + ${Math.ceil(bytes / PADDING.length)})) | head -c ${bytes} |
         dd of=/mnt/$file bs=64k conv=fsync 2>/dev/null || exit 12
       echo "acknowledged $file"
     done`,
    {
      onLine: line => {
        const file = line.match(/^acknowledged (\d+)$/)?.[1]
        if (file === undefined) return
        acknowledged.push(Number(file))
        if (acknowledged.length === killAfter) killed = first.kill()
      },
    },
  )
  await killed
  // 12: a write failed, as it must when the server is gone.
  expect(writing.status, toldBy(writing)).toBe(12)
  expect(acknowledged.length).toBeGreaterThanOrEqual(killAfter)

  await using second = await startServer(options, { port: first.port })
  const reading = await boot(
    folder,
    `${attach('alice', second.port)} || exit 10
     e2fsck -p /dev/nbd0
     [ $? -le 1 ] || exit 11
     mount -t ext4 /dev/nbd0 /mnt || exit 12
     cd /mnt && sha256sum ${acknowledged.join(' ')} && cd / && umount /mnt && nbd-client -d /dev/nbd0`,
  )
  expect(reading.status, toldBy(reading)).toBe(0)
  const found = reading.stdout.match(/^[0-9a-f]{64} {2}\d+$/gm)
  expect(found).toEqual(acknowledged.map(file => `${contentSum(file * 10_000, bytes)}  ${file}`))
  expect(await second.stop()).toBe(0)
  await check('e2fsck', ['-fn', join(dir.path, 'alice')])
})

test('A thin client mounts its disk over TLS with its certificate, and not without', {
  timeout: 600_000,
}, async context => {
  await needThinClient(context)
  await needPrograms(context, 'openssl')
  await using folder = await scratch()
  await using dir = await scratch()
  await using certificates = await scratch()
  await check(join(checkout, 'hack/test-certificates'), [certificates.path])
  const file = (name: string) => join(certificates.path, name)
  await using server = await startServer([
    ...[
      '--dir',
      dir.path,
      '--size',
      '256M',
      '--tls',
      'require',
      '--tls-cert',
      file('server/server-cert.pem'),
    ],
    ...['--tls-key', file('server/server-key.pem'), '--tls-client-ca', file('authority/ca-cert.pem')],
    ...['--allow', 'dn:CN=alice,O=lab'],
  ])
  const secret = '-certfile /client-cert.pem -keyfile /client-key.pem -cacertfile /ca-cert.pem -H localhost'
  const seed = 3_000_000
  const booted = await boot(
    folder,
    `${attach('alice', server.port)} && exit 10
     set -e
     ${attach('alice', server.port)} ${secret}
     mount -t ext4 /dev/nbd0 /mnt
     ${printContent(seed, 16 * MiB)} | dd of=/mnt/data bs=64k conv=fsync
     umount /mnt
     nbd-client -d /dev/nbd0
     ${attach('alice', server.port)} ${secret}
     mount -t ext4 /dev/nbd0 /mnt
     sha256sum /mnt/data
     umount /mnt
     nbd-client -d /dev/nbd0`,
    { files: ['ca-cert', 'client-cert', 'client-key'].map(name => file(`alice/${name}.pem`)) },
  )
  expect(booted.status, toldBy(booted)).toBe(0)
  expect(booted.stdout).toContain(`${contentSum(seed, 16 * MiB)}  /mnt/data`)
  expect(server.log()).toMatch(/This server requires TLS|did not use TLS/)
  expect(await server.stop()).toBe(0)
  await check('e2fsck', ['-fn', join(dir.path, 'alice')])
})
