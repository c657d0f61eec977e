/** Rate limits and metrics, as foreign clients and scrapers see them. */
import { mkdir, readdir, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { check, checkout, needPrograms, run, scratch, startServer } from './harness.ts'
import { PYTHON } from './libnbd.ts'

const MIB = 2 ** 20
/** Disks of zeroes, quick to make. */
const BLANK = ['--size', '64M', '--command', 'truncate -s "$size" "$disk"']

const python = (script: string, ...args: string[]) => check(PYTHON, ['-c', script, ...args])

/** Reads 4 KiB a hundred times a second for some seconds, and tells how long each took, in ms. */
const POLITE = `
import json, nbd, sys, time
h = nbd.NBD()
h.connect_uri(sys.argv[1])
times = []
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    start = time.monotonic()
    h.pread(4096, 4096 * len(times))
    times.append(1000 * (time.monotonic() - start))
    time.sleep(0.01)
print(json.dumps(times))
`

const median = (numbers: readonly number[]) =>
  numbers.toSorted((one, other) => one - other)[Math.floor(numbers.length / 2)] ?? Number.NaN

async function politeLatency(uri: string, seconds: number): Promise<number> {
  return median(JSON.parse(await python(POLITE, uri, String(seconds))))
}

describe('a greedy client with a limit of 10 MB a second', () => {
  test.for([
    ['reading', '--read-bps'],
    ['writing', '--write-bps'],
  ] as const)(
    'gets it within 10 % when %s, and a polite one beside it keeps its latency',
    async ([kind, option], context) => {
      await needPrograms(context, 'nbdcopy', 'python3')
      await using folder = await scratch()
      const dir = join(folder.path, 'disks')
      const socket = join(folder.path, 'socket')
      const source = join(folder.path, 'source')
      await mkdir(dir)
      await writeFile(source, Buffer.alloc(64 * MIB, 1))
      await using server = await startServer(['--dir', dir, ...BLANK, '--unix', socket, option, '10M'])
      // On the unix socket every process is a client of its own.
      const polite = `nbd+unix:///polite?socket=${socket}`
      const alone = await politeLatency(polite, 2)
      const greedy = server.uri('greedy')
      // With extents, holes would not be read.
      const copied = kind === 'reading' ? ['--no-extents', greedy, 'null:'] : [source, greedy]
      const start = performance.now()
      const copy = check('nbdcopy', copied)
      const beside = await politeLatency(polite, 4)
      await copy
      const rate = (64 * MIB) / ((performance.now() - start) / 1000)
      expect(rate / (10 * MIB)).toBeGreaterThan(0.9)
      expect(rate / (10 * MIB)).toBeLessThan(1.1)
      expect(beside).toBeLessThan(2 * alone + 1)
    },
  )
})

/** Reads as much as it may for some seconds; tells the bytes of each tenth of a second. */
const GREEDY = `
import json, nbd, sys, time
h = nbd.NBD()
h.connect_uri(sys.argv[1])
start = time.monotonic()
tenths = [0] * int(10 * float(sys.argv[2]))
while True:
    h.pread(32768, 0)
    tenth = int(10 * (time.monotonic() - start))
    if tenth >= len(tenths): break
    tenths[tenth] += 32768
print(json.dumps(tenths))
`

test('the limit of a manifest can be changed under a client, and holds within a second', async context => {
  await needPrograms(context, 'python3')
  await using folder = await scratch()
  const [dir, manifests] = [join(folder.path, 'disks'), join(folder.path, 'manifests')]
  await Promise.all([mkdir(dir), mkdir(manifests)])
  const limit = async (rate: string) => {
    const manifest = {
      apiVersion: 'ondemanddisk.dev/v1alpha1',
      kind: 'OnDemandDisk',
      metadata: { name: 'alice' },
      spec: { size: '64Mi', command: 'truncate -s "$size" "$disk"', limits: { readBytesPerSecond: rate } },
    }
    await writeFile(join(manifests, '.new'), JSON.stringify(manifest))
    await rename(join(manifests, '.new'), join(manifests, 'alice.json'))
  }
  await limit('2Mi')
  await using server = await startServer(['--dir', dir, '--disks', manifests])
  // The disk is made in the background.
  await expect.poll(async () => (await run('nbdinfo', ['--size', server.uri('alice')])).status).toBe(0)
  const reading = python(GREEDY, server.uri('alice'), '6')
  await sleep(2500)
  await limit('16Mi')
  await sleep(2000)
  await limit('2Mi')
  const tenths: number[] = JSON.parse(await reading)
  const rate = (from: number, to: number) =>
    tenths.slice(10 * from, 10 * to).reduce((sum, bytes) => sum + bytes, 0) / (to - from) / MIB
  // The process of the client takes a moment to start, so the changes come a little earlier in its time.
  expect(rate(0.5, 1.5)).toBeLessThan(3)
  expect(rate(3.5, 4)).toBeGreaterThan(10)
  expect(rate(5.5, 6)).toBeLessThan(3)
})

const LINE = /^(?:# (?:HELP|TYPE) \w+ .+|(\w+(?:\{.*\})?) (?:[-+]?[0-9.e+-]+|[+-]Inf|NaN))$/

/** The value of a series, written as it stands on the page: `name{label="value"}`. Every line must be well-formed. */
function valuesOf(page: string): (series: string) => number {
  const values = new Map<string, number>()
  for (const line of page.trimEnd().split('\n')) {
    const match = LINE.exec(line)
    if (match === null) throw new Error(`Bad line: ${line}`)
    if (match[1] !== undefined) values.set(match[1], Number(line.slice(match[1].length + 1)))
  }
  return series => values.get(series) ?? Number.NaN
}

/** Every command a known number of times. */
const WORKLOAD = `
import nbd, sys
h = nbd.NBD()
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.set_strict_mode(0)
h.connect_uri(sys.argv[1])
for i in range(10): h.pwrite(bytes([i]) * 8192, 8192 * i)
for i in range(20): h.pread(4096, 4096 * i)
h.pread(4 << 20, 0)
for i in range(3): h.flush()
for i in range(2): h.trim(4096, 4096 * i)
h.zero(65536, 1 << 20)
h.cache(65536, 0)
h.block_status(1 << 20, 0, lambda *args: 0)
for i in range(4):
    try: h.pread(512, 1 << 40)
    except nbd.Error: continue
    sys.exit('a read behind the end succeeded')
h.shutdown()
`

test('--metrics adds up after a known workload, line by line in the format of Prometheus', async context => {
  await needPrograms(context, 'python3', 'nbdinfo')
  await using folder = await scratch()
  await using server = await startServer(['--dir', folder.path, ...BLANK, '--metrics', '127.0.0.1:0'])
  const [, uri = ''] = /"uri":"(http:[^"]+)"/.exec(server.log()) ?? []
  expect((await fetch(`${uri}/readyz`)).status).toBe(200)
  expect((await fetch(`${uri}/healthz`)).status).toBe(200)
  expect((await fetch(`${uri}/nothing`)).status).toBe(404)
  await python(WORKLOAD, server.uri('alice'))
  expect((await run('nbdinfo', [server.uri('a.b')])).status).not.toBe(0)
  await expect
    .poll(async () => (await (await fetch(`${uri}/metrics`)).text()).includes('_connections 0\n'))
    .toBe(true)
  const response = await fetch(`${uri}/metrics`)
  expect(response.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8')
  const value = valuesOf(await response.text())
  const requests = { read: 25, write: 10, flush: 3, trim: 2, write_zeroes: 1, cache: 1, block_status: 1 }
  for (const [command, count] of Object.entries(requests)) {
    const labels = `{export="alice",command="${command}"}`
    expect(value(`ondemand_disk_requests_total${labels}`)).toBe(count)
    expect(value(`ondemand_disk_request_duration_seconds_count${labels}`)).toBe(count)
    expect(value(`ondemand_disk_request_errors_total${labels}`)).toBe(command === 'read' ? 4 : 0)
  }
  expect(value('ondemand_disk_read_bytes_total{export="alice"}')).toBe(20 * 4096 + 4 * MIB)
  expect(value('ondemand_disk_written_bytes_total{export="alice"}')).toBe(10 * 8192)
  expect(value('ondemand_disk_creations_total{result="made"}')).toBe(1)
  expect(value('ondemand_disk_creation_duration_seconds_count')).toBe(1)
  expect(value('ondemand_disk_handshakes_total{result="opened"}')).toBe(1)
  expect(value('ondemand_disk_refusals_total{reason="invalid"}')).toBeGreaterThan(0)
  expect(value('process_resident_memory_bytes')).toBeGreaterThan(MIB)
  expect(await server.stop()).toBe(0)
})

test('--metrics shows people a page of what is going on', async context => {
  await needPrograms(context, 'qemu-io')
  await using folder = await scratch()
  await using server = await startServer(['--dir', folder.path, ...BLANK, '--metrics', '127.0.0.1:0'])
  const address = /"uri":"(http:[^"]*)"/.exec(server.log())?.[1] ?? ''
  await check('qemu-io', ['-f', 'raw', '-c', 'write 0 1M', server.uri('alice')])
  const response = await fetch(`${address}/`)
  expect(response.headers.get('content-type')).toBe('text/html; charset=utf-8')
  expect(await response.text()).toMatch(
    /The server is ready\.[\s\S]*<td>alice<\/td><td>\d<\/td><td>[^<]*<\/td><td>1\.0 MiB</,
  )
})

test('--metrics at an address that is taken is told before anything is created', async () => {
  await using folder = await scratch()
  await using server = await startServer(['--dir', folder.path, ...BLANK, '--metrics', '127.0.0.1:0'])
  const [, address = ''] = /"uri":"http:\/\/([^"]+)"/.exec(server.log()) ?? []
  await using other = await scratch()
  const args = ['serve', '--dir', other.path, ...BLANK, '--listen', '127.0.0.1:0', '--metrics', address]
  const { status, stderr } = await run(join(checkout, 'hack/ondemand-disk'), args)
  expect(stderr).toContain(`Cannot serve HTTP on ${address}: another program listens there.`)
  expect(status).toBe(1)
  expect(await readdir(other.path)).toEqual([])
})
