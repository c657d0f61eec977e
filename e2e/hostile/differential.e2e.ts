/**
 * The same hostile options and requests for us, nbdkit and qemu-nbd. Where we do otherwise than one of them is listed
 * in differences.ts and in docs/protocol.md, with the reason; a difference that is not listed is a failure, and so is
 * one that is listed and is none any more.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { checkout, needPrograms } from '../harness.ts'
import { OPTIONS, REQUESTS } from './attempts.ts'
import { DIFFERENCES, type Difference } from './differences.ts'
import { tryOptions, tryRequest } from './raw-client.ts'
import { DISK, type Outcomes, SERVERS, startThreeServers, type ThreeServers } from './three-servers.ts'

let servers: ThreeServers

beforeAll(async () => {
  servers = await startThreeServers()
})

afterAll(async () => {
  expect(await servers?.stopOurs()).toEqual([0, 0])
  await servers?.[Symbol.asyncDispose]()
})

function judge(what: string, outcomes: Outcomes): void {
  const isSame = outcomes.nbdkit === outcomes.ours && outcomes['qemu-nbd'] === outcomes.ours
  const listed = DIFFERENCES[what]
  if (listed === undefined) {
    expect(isSame, `not listed: ${JSON.stringify(outcomes)}`).toBe(true)
    return
  }
  expect(outcomes).toEqual(listed.outcomes)
  expect(isSame, 'listed, and no difference').toBe(false)
}

test.for(Object.entries(OPTIONS))('Option: %s', async ([what, { sent, flags }], context) => {
  await needPrograms(context, 'nbdkit', 'qemu-nbd')
  judge(what, await servers.onEach(({ writable }) => tryOptions(writable, sent, flags)))
})

test.for(Object.entries(REQUESTS))('Request: %s', async ([what, attempt], context) => {
  await needPrograms(context, 'nbdkit', 'qemu-nbd')
  const { request, readOnly = false, ...agreed } = attempt
  const kind = readOnly ? 'readOnly' : 'writable'
  judge(what, await servers.onEach(sockets => tryRequest(sockets[kind], DISK, agreed, request)))
})

/** The rows that docs/protocol.md has to have. */
const rowOf = (what: string, { outcomes, why }: Difference): string =>
  `| ${what} | ${SERVERS.map(server => outcomes[server]).join(' | ')} | ${why} |`

test('Every difference stands in docs/protocol.md, and every one there exists', async () => {
  const page = await readFile(join(checkout, 'docs/protocol.md'), 'utf8')
  const [, table = ''] = /\n\| sent \|[^\n]*\n\|---[^\n]*\n((?:\|[^\n]*\n)*)/.exec(page) ?? []
  expect(table.trimEnd().split('\n')).toEqual(
    Object.entries(DIFFERENCES).map(([what, difference]) => rowOf(what, difference)),
  )
})

test('Nothing is listed that is not tried', () => {
  expect(Object.keys(DIFFERENCES).filter(what => !(what in OPTIONS || what in REQUESTS))).toEqual([])
})
