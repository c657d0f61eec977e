import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { makeDirectory } from '../backends/disks/test-directory.ts'
import { type AskAnswer, type AskedDisk, createAsker } from './ask.ts'
import { serveJson } from './unix-http.ts'

const never = new AbortController().signal
const wish = (name: string) => ({ name, size: undefined, peer: { kind: 'ip', address: '10.0.0.1' } as const })

/** Something that answers, and an asker of it. */
async function setUp(
  answer: (asked: AskedDisk, signal: AbortSignal) => AskAnswer | Promise<AskAnswer>,
  options: { timeoutMs?: number; patienceMs?: number; take?: () => Promise<void> } = {},
) {
  const path = join(makeDirectory(), 'ask.sock')
  const asked: AskedDisk[] = []
  const states: string[] = []
  const start = async () => {
    const server = await serveJson(
      path,
      {
        'POST /disks': ({ body, signal }) => {
          asked.push(body as AskedDisk)
          return answer(body as AskedDisk, signal)
        },
      },
      () => undefined,
    )
    onTestFinished(() => server.close())
    return server
  }
  const server = await start()
  const asker = createAsker({
    path,
    timeoutMs: 60_000,
    patienceMs: 300,
    take: async () => undefined,
    onAway: () => states.push('away'),
    onBack: () => states.push('back'),
    ...options,
  })
  return { asker, asked, states, server, start, path }
}

describe('A disk is declared', () => {
  test('after as many questions as its making takes', async () => {
    const answers: AskAnswer[] = [{ result: 'waiting' }, { result: 'declared', manifest: 'a.json' }]
    const { asker, asked } = await setUp(() => answers.shift() as AskAnswer)
    expect(await asker.declare({ ...wish('a'), size: 4096 }, never)).toBe('a.json')
    const question = { name: 'a', size: 4096, client: '10.0.0.1', create: true }
    expect(asked).toEqual([question, question])
  })

  test('by one question for all who want it', async () => {
    const { asker, asked } = await setUp(({ name }) => ({ result: 'declared', manifest: `${name}.json` }))
    const all = ['a', 'b', 'a', 'a', 'b'].map(name => asker.declare(wish(name), never))
    expect(await Promise.all(all)).toEqual(['a', 'b', 'a', 'a', 'b'].map(name => `${name}.json`))
    expect(asked.map(({ name }) => name).sort()).toEqual(['a', 'b'])
  })

  test('by one question also for who comes between the answer and the disk', async () => {
    let open: () => void = () => undefined
    let takings = 0
    const take = () => {
      takings++
      return new Promise<void>(resolve => {
        open = resolve
      })
    }
    const { asker, asked } = await setUp(() => ({ result: 'declared', manifest: 'a.json' }), { take })
    const first = asker.declare(wish('a'), never)
    await expect.poll(() => takings).toBe(1)
    const second = asker.declare(wish('a'), never)
    // Time for a question that is not to come.
    await new Promise(resolve => setTimeout(resolve, 100))
    open()
    expect(await Promise.all([first, second])).toEqual(['a.json', 'a.json'])
    expect([asked.length, takings]).toEqual([1, 1])
  })

  test('also if the answerer starts anew meanwhile', async () => {
    let isSecond = false
    const { asker, server, start, states } = await setUp(
      () => (isSecond ? { result: 'declared', manifest: 'a.json' } : { result: 'waiting' }),
      { patienceMs: 5000 },
    )
    const declared = asker.declare(wish('a'), never)
    await server.close()
    await expect.poll(() => states).toEqual(['away'])
    isSecond = true
    await start()
    expect(await declared).toBe('a.json')
    expect(states).toEqual(['away', 'back'])
  })
})

describe('A disk is refused', () => {
  test.for([
    ['limit', 'limit', 'EDQUOT'],
    ['policy', 'policy', 'EACCES'],
    ['unknown', 'unknown', 'ENOENT'],
    ['failed', 'unavailable', 'EAGAIN'],
  ] as const)('with the answerer’s words: %s', async ([kind, refusal, code]) => {
    const { asker } = await setUp(() => ({ result: 'refused', kind, message: 'maxDisks is 3.' }))
    const told = { kind: refusal, code, message: 'maxDisks is 3.' }
    await expect(asker.declare(wish('a'), never)).rejects.toMatchObject(told)
    await expect(asker.sizeOf(wish('a'), never)).rejects.toMatchObject(told)
  })

  test.for([
    ['away', undefined],
    ['failing', () => Promise.reject(new Error('broken'))],
    ['talking nonsense', () => ({ result: 'yes' }) as unknown as AskAnswer],
    ['answering something else', () => ({ result: 'declared' }) as AskAnswer],
  ] as const)('while the answerer is %s', async ([, answer]) => {
    const { asker, server, path, states } = await setUp(answer ?? (() => ({ result: 'waiting' })))
    if (answer === undefined) {
      await server.close()
      rmSync(path, { force: true })
    }
    await expect(asker.declare(wish('a'), never)).rejects.toMatchObject({ kind: 'unavailable' })
    expect(states).toEqual(['away'])
  })

  test('when it is not made in time', async () => {
    const { asker } = await setUp(() => ({ result: 'waiting' }), { timeoutMs: 250 })
    await expect(asker.declare(wish('a'), never)).rejects.toMatchObject({ kind: 'unavailable' })
  })
})

describe('A client that leaves', () => {
  test('does not take the others with it', async () => {
    let answer: (answer: AskAnswer) => void = () => undefined
    const { asker, asked } = await setUp(
      () =>
        new Promise<AskAnswer>(resolve => {
          answer = resolve
        }),
    )
    const leaving = new AbortController()
    const first = asker.declare(wish('a'), leaving.signal)
    const second = asker.declare(wish('a'), never)
    await expect.poll(() => asked.length).toBe(1)
    leaving.abort(new Error('gone'))
    await expect(first).rejects.toThrow('gone')
    answer({ result: 'declared', manifest: 'a.json' })
    expect(await second).toBe('a.json')
    expect(asked.length).toBe(1)
  })

  test('ends the question if it was the only one', async () => {
    let aborted = false
    const { asker, asked } = await setUp(
      (_, signal) =>
        new Promise<AskAnswer>(() => {
          signal.addEventListener('abort', () => {
            aborted = true
          })
        }),
    )
    const leaving = new AbortController()
    const only = asker.declare(wish('a'), leaving.signal)
    await expect.poll(() => asked.length).toBe(1)
    leaving.abort(new Error('gone'))
    await expect(only).rejects.toThrow('gone')
    await expect.poll(() => aborted).toBe(true)
  })
})

test('The size of a disk that is not made is asked without making it', async () => {
  const { asker, asked } = await setUp(() => ({ result: 'size', size: 4096 }))
  expect(await asker.sizeOf(wish('a'), never)).toBe(4096)
  expect(asked).toEqual([{ name: 'a', client: '10.0.0.1', create: false }])
})
