/**
 * What no server can be faster than: the jobs of the table on the file itself, without a server, and what the system
 * calls of a request cost alone, on a connection of the loopback.
 *
 *     npm run bench:limit
 */
import { once } from 'node:events'
import { mkdirSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { addressOf, pread, pwrite, tryPreadCached, tryReceive, trySend } from '../linux/syscalls.ts'
import { drop, needDisk, warm } from './disks.ts'
import { type FioJob, fioOnFile } from './fio.ts'
import { endWithChildren } from './process.ts'

const GIB = 2 ** 30
const SECONDS = 1
const CALLS = 50_000
const directory = join(tmpdir(), 'ondemand-disk-bench')
endWithChildren()
mkdirSync(directory, { recursive: true })
needDisk(directory, 'disk', GIB)
const disk = join(directory, 'disk')

const JOBS: readonly { readonly job: FioJob; readonly isCold?: true }[] = [
  ...[1, 16, 64].map(iodepth => ({ job: { rw: 'randread', bs: '4k', iodepth } as const })),
  ...[1, 16, 64].map(iodepth => ({ job: { rw: 'randwrite', bs: '4k', iodepth } as const })),
  { job: { rw: 'read', bs: '256k', iodepth: 8 } },
  { job: { rw: 'write', bs: '256k', iodepth: 8 } },
  ...[1, 16, 64].map(iodepth => ({
    job: { rw: 'randread', bs: '4k', iodepth } as const,
    isCold: true as const,
  })),
]

for (const { job, isCold } of JOBS) {
  if (isCold) drop(disk)
  else warm(disk)
  const { rate, throughput, clientBusy } = await fioOnFile(job, disk, SECONDS)
  process.stdout.write(
    `fio ${job.rw} ${job.bs} QD ${job.iodepth}, the file itself, ${isCold ? 'dropped' : 'cached'}: ` +
      `${rate.toFixed(0)} IOPS, ${throughput.toFixed(0)} MiB/s, fio ${clientBusy.toFixed(0)} % of a core\n`,
  )
}

/** Two ends of a TCP connection, both in this process, which nothing else reads. */
async function connection(): Promise<[Socket, Socket]> {
  const server = createServer({ pauseOnConnect: true, noDelay: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const accepted = once(server, 'connection') as Promise<[Socket]>
  const client = connect({ port: (server.address() as { port: number }).port, noDelay: true })
  client.pause()
  const [[socket]] = await Promise.all([accepted, once(client, 'connect')])
  server.close()
  return [client, socket]
}

const descriptorOf = (socket: Socket) => (socket as unknown as { _handle: { fd: number } })._handle.fd

/** Microseconds that one of so many calls takes. */
function costOf(call: (index: number) => number): number {
  const startedAt = performance.now()
  for (let index = 0; index < CALLS; index++) {
    if (call(index) <= 0) throw new Error('The call failed.')
  }
  return ((performance.now() - startedAt) * 1000) / CALLS
}

const buffer = Buffer.alloc(65_536, 1)
const address = addressOf(buffer)
const offsetOf = (index: number) => ((index * 7919) % (GIB / 4096)) * 4096
const [client, server] = (await connection()).map(descriptorOf) as [number, number]
const file = await open(disk, 'r+')
warm(disk)

/** Bytes there, taken out on the other side, which is the client's cost and counted all the same. */
const across = (from: number, to: number, length: number) => {
  const sent = trySend(from, address, length)
  let received = 0
  while (received < sent) received += tryReceive(to, address, length)
  return received
}
/** The kernel may have dropped a few pages since they were read: a handful of 50,000, which are read as they are then. */
function readCached(index: number): number {
  const read = tryPreadCached(file.fd, address, 4096, offsetOf(index))
  return read > 0 ? read : pread(file.fd, address, 4096, offsetOf(index))
}
const COSTS: readonly (readonly [what: string, call: (index: number) => number])[] = [
  ['preadv2 of 4 KiB, cached', readCached],
  ['pwrite of 4 KiB', index => pwrite(file.fd, address, 4096, offsetOf(index))],
  ['28 bytes through a connection: send and recv', () => across(client, server, 28)],
  ['4 KiB and a header through a connection: send and recv', () => across(server, client, 4112)],
]
for (const [what, call] of COSTS) {
  costOf(call)
  process.stdout.write(`${what}: ${costOf(call).toFixed(2)} us\n`)
}
await file.close()
process.exit()
