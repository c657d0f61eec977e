import fc from 'fast-check'
import { expect, test } from 'vitest'
import { MAX_QUOTED_MESSAGE, quote } from './quote.ts'

test.each([
  ['alice', '"alice"'],
  ['', '""'],
  ['a"b\\c', '"a\\"b\\\\c"'],
  ['a\nb\u001b[2Jc\u007f\u0085', '"a\\nb\\u001b[2Jc\\u{7f}\\u{85}"'],
  ['\u202egpj.exe\u2028', '"\\u{202e}gpj.exe\\u{2028}"'],
  ['\ud800', '"\\ud800"'],
  ['grüße', '"grüße"'],
])('%j is shown as %s', (text, shown) => {
  expect(quote(text)).toBe(shown)
})

test('whatever the text, the quoted form is one short line without control characters', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 300 }), text => {
      expect(quote(text)).toMatch(/^"[^\p{Cc}\p{Cf}\p{Zl}\p{Zp}]*"$/u)
      expect(quote(text).length).toBeLessThanOrEqual(2 + 81 * 10)
    }),
  )
})

test('a message that is quoted to its end is whole, up to its own limit', () => {
  const message = `${'a word '.repeat(100)}and what helps.`
  expect(quote(message, MAX_QUOTED_MESSAGE)).toBe(JSON.stringify(message))
  expect(quote('a'.repeat(2000), MAX_QUOTED_MESSAGE)).toBe(`"${'a'.repeat(MAX_QUOTED_MESSAGE)}…"`)
})
