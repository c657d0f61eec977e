import fc from 'fast-check'
import { expect, test } from 'vitest'
import { formatNbdUri, withAbsolutePaths } from './canonical-uri.ts'
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

test.each([
  ['nbd+unix:///x?socket=run/s', `nbd+unix:///x?socket=${encodeURIComponent(process.cwd())}%2Frun%2Fs`],
  ['nbd+unix:///x?socket=/run/./s', 'nbd+unix:///x?socket=%2Frun%2Fs'],
  ['nbd+unix:///x?socket=%00s', 'nbd+unix:///x?socket=%00s'],
  ['nbds://h/x?tls-psk-file=k', `nbds://h/x?tls-psk-file=${encodeURIComponent(process.cwd())}%2Fk`],
  ['nbds://h/x?tls-certificates=c', `nbds://h/x?tls-certificates=${encodeURIComponent(process.cwd())}%2Fc`],
  ['nbd://h/x', 'nbd://h/x'],
])('with absolute paths %s is %s', (given, absolute) => {
  expect(formatNbdUri(withAbsolutePaths(parseNbdUri(given)))).toBe(absolute)
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
