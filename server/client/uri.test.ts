import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { UriError } from './errors.ts'
import { describeAddress, type NbdUri, parseNbdUri } from './uri.ts'

const tcp = (host: string, port = 10_809) => ({ kind: 'tcp', host, port }) as const
const unix = (path: string) => ({ kind: 'unix', path }) as const

describe('A URI names an export', () => {
  test.for<[string, NbdUri]>([
    ['nbd://example.com', { address: tcp('example.com'), exportName: '' }],
    ['nbd://example.com/', { address: tcp('example.com'), exportName: '' }],
    ['NBD://Example.com:1234/Disk', { address: tcp('Example.com', 1234), exportName: 'Disk' }],
    ['nbd://example.com:/disk', { address: tcp('example.com'), exportName: 'disk' }],
    ['nbd://example.com//disk', { address: tcp('example.com'), exportName: '/disk' }],
    ['nbd://example.com/hello%20world', { address: tcp('example.com'), exportName: 'hello world' }],
    ['nbd://h/../a/./b', { address: tcp('h'), exportName: '../a/./b' }],
    ['nbd://h/a:b@c+d', { address: tcp('h'), exportName: 'a:b@c+d' }],
    ['nbd://h/%C3%A9%3F%23%25', { address: tcp('h'), exportName: 'é?#%' }],
    ['nbd://192.0.2.7/x', { address: tcp('192.0.2.7'), exportName: 'x' }],
    ['nbd://[::1]/x', { address: tcp('::1'), exportName: 'x' }],
    ['nbd://[2001:db8::7]:99/x', { address: tcp('2001:db8::7', 99), exportName: 'x' }],
    ['nbd://[fe80::1%25eth0]/x', { address: tcp('fe80::1%eth0'), exportName: 'x' }],
    ['nbd+unix:///?socket=/run/nbd.sock', { address: unix('/run/nbd.sock'), exportName: '' }],
    ['nbd+unix:///disk?socket=nbd.sock', { address: unix('nbd.sock'), exportName: 'disk' }],
    ['nbd+unix://?socket=/a%26b%3dc+d', { address: unix('/a&b=c+d'), exportName: '' }],
    ['nbd+unix:///?socket=%00/abstract', { address: unix('\0/abstract'), exportName: '' }],
    ['nbds://h', { address: tcp('h'), exportName: '', tls: {} }],
    ['nbds://alice@h/x', { address: tcp('h'), exportName: 'x', tls: { username: 'alice' } }],
    [
      'nbds://h/x?tls-certificates=/etc/pki&tls-hostname=server.example&tls-verify-peer=0',
      {
        address: tcp('h'),
        exportName: 'x',
        tls: { certificates: '/etc/pki', hostname: 'server.example', verifyPeer: false },
      },
    ],
    [
      'nbds+unix:///x?tls-psk-file=/keys%20of.psk&tls-username=al%40ice&socket=/s&tls-verify-peer=1',
      {
        address: unix('/s'),
        exportName: 'x',
        tls: { pskFile: '/keys of.psk', username: 'al@ice', verifyPeer: true },
      },
    ],
  ])('%s', ([text, uri]) => {
    expect(parseNbdUri(text)).toEqual(uri)
  })
})

describe('What is no such URI is refused with a reason', () => {
  test.for<[string, RegExp]>([
    ['', /not the URI/],
    ['localhost', /not the URI/],
    ['nbd:', /not the URI/],
    ['nbd:localhost:10809', /not the URI/],
    ['nbd:unix:/run/s:exportname=x', /not the URI/],
    ['http://localhost/', /not the URI/],
    ['nbd+ssh://host/', /not the URI/],
    ['nbd+vsock:///', /not the URI/],
    ['nbd+unix:relative', /not the URI/],
    ['nbd://', /names no host/],
    ['nbd:///x', /names no host/],
    ['nbd://:10809/x', /names no host/],
    ['nbd://-oProxyCommand=x/', /no host name/],
    ['nbd://a b/', /percent-encode/],
    ['nbd://h/a b', /percent-encode/],
    ['nbd://h/é', /percent-encode/],
    ['nbd://h/a\n', /percent-encode/],
    ['nbd://h/a"b', /percent-encode/],
    ['nbd://h%20x/', /no host name/],
    ['nbd://h%00/', /no host name/],
    ['nbd://::1/', /not a number|no host/],
    ['nbd://[::1', /no host|HOST/],
    ['nbd://[::1]x/', /HOST/],
    ['nbd://[1.2.3.4]/', /IPv6/],
    ['nbd://[::g]/', /IPv6/],
    ['nbd://h:0/', /port/],
    ['nbd://h:65536/', /port/],
    ['nbd://h:80x/', /port/],
    ['nbd://h:-1/', /port/],
    ['nbd://h/%', /percent-encoded/],
    ['nbd://h/%zz', /percent-encoded/],
    ['nbd://h/%ff', /percent-encoded/],
    ['nbd://h/a%00b', /NUL/],
    [`nbd://h/${'a'.repeat(4097)}`, /4096/],
    ['nbd://h/x#fragment', /not the URI/],
    ['nbd://h/x?socket=/s', /nbd\+unix/],
    ['nbd://h/x?tls-certificates=/c', /nbds/],
    ['nbd://h/x?other=1', /not known/],
    ['nbds://h/x?tls-priority=NONE', /not known/],
    ['nbds://h/x?tls-hostname=', /no value/],
    ['nbds://h/x?tls-hostname', /no value/],
    ['nbds://h/x?tls-hostname=a%20b', /no host name/],
    ['nbds://h/x?tls-verify-peer=maybe', /0 or 1/],
    ['nbds://h/x?tls-verify-peer=0&tls-verify-peer=1', /twice/],
    ['nbds://h/x?tls-certificates=/c&tls-psk-file=/p', /exclude/],
    ['nbds://h/x?tls-certificates=/c%00d', /NUL/],
    ['nbds://alice@h/?tls-username=bob', /twice/],
    ['nbds://alice:secret@h/', /password/],
    ['nbd://alice@h/', /nbds/],
    ['nbd+unix:///x', /socket/],
    ['nbd+unix://host/x?socket=/s', /beside its socket/],
    ['nbd+unix:///x?socket=', /no value/],
    ['nbd+unix:///x?socket=/a%00b', /NUL/],
    [`nbd+unix:///x?socket=/${'a'.repeat(107)}`, /107/],
  ])('%s', ([text, reason]) => {
    expect(() => parseNbdUri(text)).toThrow(UriError)
    expect(() => parseNbdUri(text)).toThrow(reason)
  })

  test('and nothing else is thrown, whatever it is', () => {
    const part = fc.constantFrom(
      ...[
        'nbd',
        'nbds',
        'nbd+unix',
        '://',
        '/',
        '?',
        '&',
        '=',
        '@',
        ':',
        '[',
        ']',
        '%',
        '%00',
        '#',
        'h',
        '10809',
      ],
      ...['socket', 'tls-psk-file', '\0', 'é', ' '],
    )
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.array(part, { maxLength: 14 }).map(parts => parts.join('')),
        ),
        text => {
          try {
            parseNbdUri(text)
          } catch (error) {
            expect(error).toBeInstanceOf(UriError)
          }
        },
      ),
      { numRuns: 3000 },
    )
  })
})

test('Any export name and socket path come out as they were encoded', () => {
  const text = fc
    .string({ unit: 'binary', minLength: 1, maxLength: 30 })
    .filter(value => !value.includes('\0'))
  fc.assert(
    fc.property(text, text, (name, path) => {
      const uri = parseNbdUri(`nbd+unix:///${encodeURIComponent(name)}?socket=${encodeURIComponent(path)}`)
      expect(uri).toEqual({ address: unix(path), exportName: name })
    }),
  )
})

test('An address is shown as people write it', () => {
  expect(describeAddress(tcp('h', 1))).toBe('h:1')
  expect(describeAddress(tcp('::1', 1))).toBe('[::1]:1')
  expect(describeAddress(unix('/run/s'))).toBe('"unix:/run/s"')
})
