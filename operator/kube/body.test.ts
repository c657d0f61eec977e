import fc from 'fast-check'
import { expect, test } from 'vitest'
import { jsonLines, textOf } from './body.ts'
import { KubeError } from './kube-error.ts'

async function* chunks(bytes: Uint8Array, ...cuts: readonly number[]): AsyncGenerator<Uint8Array> {
  let start = 0
  for (const cut of [...cuts, bytes.length]) {
    yield bytes.subarray(start, cut)
    start = cut
  }
}

async function linesOf(body: AsyncIterable<Uint8Array>): Promise<object[]> {
  const all: object[] = []
  for await (const lines of jsonLines('Watching', body)) all.push(...lines)
  return all
}

const events = [{ type: 'ADDED', object: { name: 'Büro ✓' } }, { type: 'BOOKMARK', object: {} }, { a: '\n' }]
const text = Buffer.from(events.map(event => `${JSON.stringify(event)}\n`).join(''))

test('lines are the same at whichever byte their body is split', async () => {
  for (let cut = 0; cut <= text.length; cut++) expect(await linesOf(chunks(text, cut))).toEqual(events)
})

test('lines are the same in whatever pieces they come', async () => {
  const cuts = fc.uniqueArray(fc.integer({ min: 0, max: text.length }), { maxLength: 20 })
  await fc.assert(
    fc.asyncProperty(cuts, async at => {
      expect(await linesOf(chunks(text, ...at.toSorted((a, b) => a - b)))).toEqual(events)
    }),
  )
})

test('a line that was cut off is none', async () => {
  for (let end = 0; end < text.length; end++) {
    const whole = text.subarray(0, end).toString().split('\n').length - 1
    expect(await linesOf(chunks(text.subarray(0, end)))).toEqual(events.slice(0, whole))
  }
})

test.each([['{"type":\n'], ['12\n'], ['null\n'], ['<html>\n'], [`${'x'.repeat(17 * 2 ** 20)}`]])(
  'what is no JSON object is refused (%#)',
  async garbage => {
    const error = await linesOf(chunks(Buffer.from(garbage), 3)).catch(thrown => thrown)
    expect(error).toBeInstanceOf(KubeError)
    expect(error.code).toBe('InvalidResponse')
  },
)

test('a whole body is text, with characters that were split', async () => {
  expect(await textOf('GET', chunks(Buffer.from('Büro ✓'), 2, 7))).toBe('Büro ✓')
})
