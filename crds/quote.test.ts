import fc from 'fast-check'
import { expect, test } from 'vitest'
import { quote } from './quote.ts'

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
