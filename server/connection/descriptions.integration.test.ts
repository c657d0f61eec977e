/** What people are told of a disk: sentences of its backend. */
import { expect, test } from 'vitest'
import { memoryBackend } from './test-backend.ts'
import { ACK, ask, ERR, GO, goPayload, INFO, outcome } from './test-client.ts'
import { serve } from './test-server.ts'

const LIST = 3
const DESCRIPTION = 2
const SENTENCE = 'Die Platte von Ünal.'

const described = (description: string) =>
  memoryBackend(Buffer.alloc(4096), {
    probe: () => ({ size: 4096, description }),
    exportDescription: () => description,
    listExports: () => ['b', { name: 'a', description }],
  })

/** The descriptions among the replies to INFO or GO. */
async function told(backend: ReturnType<typeof memoryBackend>, type: number, ...infos: number[]) {
  const client = await (await serve({ backend })).greeted()
  const replies = await ask(client, type, goPayload('disk', ...infos))
  expect(replies.at(-1)).toMatchObject({ type: ACK })
  return replies
    .slice(0, -1)
    .filter(({ payload }) => payload.readUInt16BE(0) === DESCRIPTION)
    .map(({ payload }) => payload.subarray(2).toString())
}

test.each([
  ['INFO', INFO],
  ['GO', GO],
])('%s tells the description to a client that asks for it', async (_, type) => {
  expect(await told(described(SENTENCE), type, DESCRIPTION)).toEqual([SENTENCE])
  expect(await told(described(SENTENCE), type)).toEqual([])
  expect(await told(memoryBackend(Buffer.alloc(4096)), type, DESCRIPTION)).toEqual([])
})

test('A description that is too long for the protocol is cut between characters', async () => {
  const [cut = ''] = await told(described(`a${'ü'.repeat(4096)}`), GO, DESCRIPTION)
  expect(cut).toBe(`a${'ü'.repeat(2047)}`)
})

test('LIST tells descriptions beside names', async () => {
  const client = await (await serve({ backend: described(SENTENCE) })).greeted()
  const listed = (await ask(client, LIST)).slice(0, -1).map(({ payload }) => {
    const end = 4 + payload.readUInt32BE(0)
    return [payload.subarray(4, end).toString(), payload.subarray(end).toString()]
  })
  expect(listed).toEqual([
    ['a', SENTENCE],
    ['b', ''],
  ])
})

test('A description that is none costs its own client the disk, and nobody else', async () => {
  const client = await (
    await serve({ backend: memoryBackend(Buffer.alloc(4096), { exportDescription: () => 5 as never }) })
  ).greeted()
  expect(await outcome(client, GO, goPayload('disk'))).toMatchObject({
    error: ERR.UNKNOWN,
    text: expect.stringContaining('exportDescription gave 5 for a description, which is no text'),
  })
  expect(await outcome(client, INFO, goPayload('disk'))).toMatchObject({ type: ACK })
})
