/**
 * Measures ondemand-disk beside nbdkit, qemu-nbd and nbd-server: every row on every server in turn, so that all
 * share the machine's moods.
 *
 *     npm run bench                                  all rows, written to server/bench/results.md
 *     npm run bench -- --row randread --rounds 5     the rows whose name contains this; nothing is written
 *     npm run bench -- --row randread --save         the same, and these rows of the file are replaced
 *     npm run bench -- --before ../other-checkout    beside our own server out of another checkout
 *     npm run bench -- --list
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, cpus, release, tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { makeAuthority } from '../client/test-certificates.ts'
import { needDisk, needSparseDisks } from './disks.ts'
import { endWithChildren, outputOf, scratchFolder } from './process.ts'
import { mergedTable, type Rounds, rowText, tableText, verdictsOf } from './report.ts'
import type { Measurement, Place, Row } from './row.ts'
import { ROWS } from './rows.ts'
import { BEFORE, type Server, type ServerName, startServer } from './servers.ts'

const RESULTS = join(import.meta.dirname, 'results.md')

interface Terms {
  readonly rounds: number
  readonly seconds: number
  /** Where disks are made; kept, so that the next run need not make them. */
  readonly directory: string
  readonly scratch: string
  readonly certificates: string
  /** Another checkout of ours, whose server is measured as well. */
  readonly before: string | undefined
}

/** Runs one row: so many rounds, in each of which every server has its turn. */
async function runRow(row: Row, only: readonly string[], terms: Terms): Promise<Rounds> {
  const directory = join(terms.directory, row.subdirectory ?? '.')
  mkdirSync(directory, { recursive: true })
  for (const [disk, size] of Object.entries(row.disks)) if (size > 0) needDisk(directory, disk, size)
  const names = Object.keys(row.disks)
  if (row.subdirectory !== undefined) needSparseDisks(directory, names.length, index => names[index] ?? '')
  // Sockets that a row leaves behind would be in the next one's way.
  const scratch = mkdtempSync(join(terms.scratch, 'row-'))
  const servers: Server[] = []
  const rounds = new Map<ServerName, Measurement[]>()
  try {
    const all: ServerName[] = [...row.servers]
    if (terms.before !== undefined) all.push(BEFORE)
    for (const name of all) {
      if (only.length > 0 && !only.some(wanted => name.includes(wanted))) continue
      servers.push(
        await startServer(name, { ...terms, scratch, directory, disks: names, transport: row.transport }),
      )
      rounds.set(name, [])
    }
    // The first round warms programs and caches up and does not count.
    for (let round = 0; round <= terms.rounds; round++) {
      const place = { directory, seconds: round === 0 ? 0.5 : terms.seconds }
      for (const server of servers) {
        const measurement = await measured(row, server, place)
        if (round > 0) rounds.get(server.name)?.push(measurement)
      }
    }
  } finally {
    await Promise.all(servers.map(server => server.stop()))
  }
  return rounds
}

/** @throws Error that names the server, and how it has ended if it has: a client tells only that nobody is there */
async function measured(row: Row, server: Server, place: Place): Promise<Measurement> {
  try {
    return await row.measure(server, place)
  } catch (cause) {
    const ending = server.ending()
    throw new Error(
      `${row.name} cannot be measured on ${server.name}${ending === undefined ? '' : `, as ${ending}`}.`,
      { cause },
    )
  }
}

async function versions(): Promise<string> {
  const packages = ['nbdkit', 'qemu-utils', 'nbd-server', 'fio', 'libnbd-bin']
  const text = await outputOf('dpkg-query', ['-W', ...packages]).catch(() => '')
  return [`Node.js ${process.versions.node}`, ...text.trim().replaceAll('\t', ' ').split('\n')].join(', ')
}

async function hostText(): Promise<string> {
  const host = `${availableParallelism()} x ${cpus()[0]?.model ?? 'an unknown processor'}, ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}`
  return `${host}; ${await versions()}`
}

/** Rows that were not measured keep what they had. */
function writeResults(host: string, table: string): void {
  const former = existsSync(RESULTS) ? readFileSync(RESULTS, 'utf8') : ''
  writeFileSync(
    RESULTS,
    '# Side by side with nbdkit, qemu-nbd and nbd-server\n\n' +
      `Measured by \`npm run bench\` on ${host}.\n\n` +
      "Each cell: median (least–most) of the rounds, then the server's CPU time a request. Where the client uses " +
      "90 % of a core or more, the rate is the client's. The last column has the ratios of the run before.\n\n" +
      mergedTable(
        former,
        table,
        ROWS.map(({ name }) => name),
      ),
  )
}

const { values } = parseArgs({
  options: {
    row: { type: 'string', multiple: true, default: [] },
    server: { type: 'string', multiple: true, default: [] },
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '1' },
    directory: { type: 'string', default: join(tmpdir(), 'ondemand-disk-bench') },
    list: { type: 'boolean', default: false },
    save: { type: 'boolean', default: false },
    before: { type: 'string' },
  },
})
const chosen = ROWS.filter(
  ({ name }) => values.row.length === 0 || values.row.some(part => name.includes(part)),
)
if (chosen.length === 0)
  throw new RangeError(`No row has ${values.row.join(' or ')} in its name; --list names them.`)
const [rounds, seconds] = [Number(values.rounds), Number(values.seconds)]
if (!Number.isInteger(rounds) || rounds < 1) throw new RangeError('--rounds is a whole number of at least 1.')
if (!(seconds > 0)) throw new RangeError('--seconds is a number above 0.')

// Without all the servers there is no ratio.
const saves =
  values.server.length === 0 && values.before === undefined && (values.save || values.row.length === 0)

if (values.list) {
  for (const { name, how } of chosen) process.stdout.write(`${name.padEnd(24)} ${how}\n`)
} else {
  endWithChildren()
  const scratch = scratchFolder()
  const certificates = join(scratch, 'server')
  makeAuthority(join(scratch, 'authority'), 'bench').issue(certificates, 'server', 'DNS:localhost')
  const terms = { rounds, seconds, directory: values.directory, scratch, certificates, before: values.before }
  const how = `${rounds} x ${seconds} s`
  const results: { row: Row; rounds: Rounds }[] = []
  try {
    const host = await hostText()
    process.stdout.write(`${host}; ${how}\n\n`)
    for (const row of chosen) {
      const measured = await runRow(row, values.server, terms)
      results.push({ row, rounds: measured })
      process.stdout.write(`${rowText(row, measured)}\n`)
      // After each row: a run that is cut short has measured something all the same.
      if (saves) writeResults(host, tableText([{ row, rounds: measured }], how))
    }
    const missed = results.filter(({ row, rounds: measured }) => {
      const { value, cpu } = verdictsOf(row, measured)
      return value?.isReached === false || cpu?.isReached === false
    })
    process.stdout.write(
      `${results.length - missed.length} of ${results.length} rows are at their goal.` +
        `${missed.length > 0 ? ` Not: ${missed.map(({ row }) => row.name).join(', ')}.` : ''}\n`,
    )
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}
