import fc from 'fast-check'
import { expect, test } from 'vitest'
import { formatNbdUri } from './canonical-uri.ts'
import { parseNbdUri } from './uri.ts'

test.each([
  ['nbd://HOST:10809/alice', 'nbd://host/alice'],
  ['NBD://host', 'nbd://host/'],
  ['nbd://[::1]:1234/a%2fb', 'nbd://[::1]:1234/a%2Fb'],
  ['nbd+unix:///x?socket=/run/a%20b', 'nbd+unix:///x?socket=%2Frun%2Fa%20b'],
  ['nbds://bob@host/x?tls-psk-file=/k', 'nbds://host/x?tls-psk-file=%2Fk&tls-username=bob'],
])('%s is %s', (given, canonical) => {
  expect(formatNbdUri(parseNbdUri(given))).toBe(canonical)
})

test('what it writes is read as the same', () => {
  const name = fc.string({ unit: 'grapheme' }).filter(text => !text.includes('\0') && text.isWellFormed())
  fc.assert(
    fc.property(name, fc.integer({ min: 1, max: 65_535 }), (exportName, port) => {
      const uri = { address: { kind: 'tcp', host: 'a.example', port }, exportName } as const
      expect(parseNbdUri(formatNbdUri(uri))).toEqual(uri)
    }),
    { numRuns: 200 },
  )
})
