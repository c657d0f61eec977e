import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { AccessRuleError, admissionRefusal, admits, compileAccessRules, type Peer } from './access-rules.ts'

const ip = (address: string): Peer => ({ kind: 'ip', address })
const unix: Peer = { kind: 'unix' }
const dn = (distinguishedName: string): Peer => ({ kind: 'ip', address: '10.0.0.7', distinguishedName })

describe('one allow rule', () => {
  test.each<[string, Peer[], Peer[]]>([
    ['any', [ip('10.0.0.7'), ip('::1'), unix, dn('CN=a')], []],
    [
      'anyipv4',
      [ip('10.0.0.7'), ip('::ffff:10.0.0.7'), ip('::ffff:a00:7')],
      [ip('::1'), ip('::10.0.0.7'), unix],
    ],
    ['anyipv6', [ip('::1'), ip('fe80::1%eth0')], [ip('10.0.0.7'), ip('::ffff:10.0.0.7'), unix]],
    ['unix', [unix], [ip('127.0.0.1'), ip('::1')]],
    ['10.0.0.7', [ip('10.0.0.7'), ip('::ffff:10.0.0.7')], [ip('10.0.0.8'), unix]],
    ['::ffff:10.0.0.7', [ip('10.0.0.7'), ip('::ffff:10.0.0.7')], [ip('10.0.0.8')]],
    [
      '10.0.0.0/8',
      [ip('10.0.0.0'), ip('10.255.255.255')],
      [ip('9.255.255.255'), ip('11.0.0.0'), ip('a00::'), unix],
    ],
    ['10.1.2.3/8', [ip('10.255.255.255')], [ip('11.0.0.0')]],
    ['::ffff:10.0.0.0/104', [ip('10.1.2.3'), ip('::ffff:10.1.2.3')], [ip('11.0.0.0')]],
    ['0.0.0.0/0', [ip('1.2.3.4')], [ip('::1'), unix]],
    ['::/0', [ip('::1'), ip('fd00::1')], [ip('1.2.3.4'), ip('::ffff:1.2.3.4'), unix]],
    ['fd00::/9', [ip('fd7f::1')], [ip('fd80::'), ip('fcff::')]],
    ['fe80::1', [ip('fe80::1'), ip('fe80::1%eth0')], [ip('fe80::2%eth0')]],
    ['dn:CN=alice,*', [dn('CN=alice,O=x')], [dn('CN=alice2,O=x'), dn('CN=alice'), ip('10.0.0.7'), unix]],
    ['dn:CN=thin-??', [dn('CN=thin-07')], [dn('CN=thin-7'), dn('CN=thin-007')]],
    ['dn:*', [dn('CN=a'), dn('')], [ip('10.0.0.7')]],
    ['dn:a.c', [dn('a.c')], [dn('abc')]],
  ])('%s', (rule, admitted, refused) => {
    const rules = compileAccessRules({ allow: [rule] })
    for (const peer of admitted) expect(admits(rules, peer), JSON.stringify(peer)).toBe(true)
    for (const peer of refused) expect(admits(rules, peer), JSON.stringify(peer)).toBe(false)
    const inverse = compileAccessRules({ deny: [rule] })
    for (const peer of admitted) expect(admits(inverse, peer), JSON.stringify(peer)).toBe(false)
    for (const peer of refused) expect(admits(inverse, peer), JSON.stringify(peer)).toBe(true)
  })
})

test('without rules everyone is admitted who can be identified', () => {
  for (const rules of [compileAccessRules({}), compileAccessRules({ allow: [], deny: [] })]) {
    expect(admits(rules, ip('10.0.0.7'))).toBe(true)
    expect(admits(rules, unix)).toBe(true)
  }
})

test('deny wins, and says by which rule', () => {
  const rules = compileAccessRules({ allow: ['10.0.0.0/8', 'unix'], deny: ['10.9.0.0/16', '10.0.0.7'] })
  expect(admissionRefusal(rules, ip('10.0.0.8'))).toBeUndefined()
  expect(admissionRefusal(rules, unix)).toBeUndefined()
  expect(admissionRefusal(rules, ip('10.0.0.7'))).toBe('Client 10.0.0.7 is refused by deny rule "10.0.0.7".')
  expect(admissionRefusal(rules, ip('::ffff:10.9.1.1'))).toMatch(/deny rule "10\.9\.0\.0\/16"/)
  expect(admissionRefusal(rules, ip('192.168.0.1'))).toBe(
    'Client 192.168.0.1 is refused: no allow rule matches it.',
  )
})

test('a peer of unknown kind or without a readable address is never admitted', () => {
  const strangers = [
    { kind: 'vsock', cid: 3 } as unknown as Peer,
    { kind: 'vsock', address: '10.0.0.7' } as unknown as Peer,
    ip(''),
    ip('10.0.0.7 '),
    ip('localhost'),
    dn('x'.repeat(4097)),
  ]
  const ruleSets = [{}, { allow: ['any'] }, { allow: ['0.0.0.0/0', '::/0'] }, { deny: ['10.0.0.8'] }]
  for (const texts of ruleSets) {
    for (const peer of strangers) expect(admits(compileAccessRules(texts), peer)).toBe(false)
  }
})

test.each([
  '',
  ' ',
  'ANY',
  'all',
  'any ',
  ' any',
  'anyipv5',
  'unix:',
  'dn:',
  'DN:CN=a',
  '10.0.0/8',
  '10.0.0.1/33',
  '010.0.0.1',
  '10.0.0.0/',
  '10.0.0.0/ 8',
  '10.0.0.0 - 10.0.0.9',
  'fe80::1%eth0',
  '::/129',
  '::ffff:10.0.0.0/95',
  'localhost',
  '*',
  '!10.0.0.7',
  `dn:${'x'.repeat(300)}`,
])('%j refuses to compile', text => {
  expect(() => compileAccessRules({ allow: ['any', text] })).toThrow(AccessRuleError)
  try {
    compileAccessRules({ allow: ['any'], deny: ['unix', '::1', text] })
  } catch (error) {
    const { code, field, message, reason } = error as AccessRuleError
    expect(code).toBe('InvalidAccessRule')
    expect(field).toBe('deny[2]')
    expect(message).toBe(`deny[2]: ${reason}`)
    expect(reason).toContain('access rule')
    return
  }
  expect.unreachable()
})

test('only dn rules need TLS', () => {
  const { allow } = compileAccessRules({ allow: ['any', 'unix', '10.0.0.0/8', 'dn:CN=*'] })
  expect(allow.filter(rule => rule.needsTls).map(rule => rule.field)).toEqual(['allow[3]'])
})

test('a pattern matches as the same regular expression does', () => {
  const piece = fc.string({ unit: fc.constantFrom('a', 'b', '*', '?', '.'), minLength: 1, maxLength: 8 })
  const text = fc.string({ unit: fc.constantFrom('a', 'b', '.'), maxLength: 10 })
  fc.assert(
    fc.property(piece, text, (pattern, name) => {
      const source = pattern.replaceAll('.', '\\.').replaceAll('*', '.*').replaceAll('?', '.')
      const rules = compileAccessRules({ allow: [`dn:${pattern}`] })
      expect(admits(rules, dn(name))).toBe(new RegExp(`^${source}$`, 's').test(name))
    }),
    { numRuns: 2000 },
  )
})

test('a hostile pattern costs little time', () => {
  const rules = compileAccessRules({ allow: [`dn:${'*a'.repeat(120)}b`] })
  const start = process.cpuUsage()
  expect(admits(rules, dn('a'.repeat(4096)))).toBe(false)
  expect(process.cpuUsage(start).user / 1000).toBeLessThan(500)
})

test('any text compiles or is an AccessRuleError; deny always wins over allow', () => {
  const rule = fc.oneof(
    fc.string(),
    fc.stringMatching(/^[0-9a-f:.]{0,10}(\/[0-9]{0,3})?$/),
    fc.constantFrom('any', 'anyipv4', 'anyipv6', 'unix', '10.0.0.0/8', '::/0', 'dn:*'),
  )
  const peer = fc.oneof(
    fc.ipV4().map(ip),
    fc.ipV6().map(ip),
    fc.constant(unix),
    fc.string().map(name => dn(name)),
  )
  fc.assert(
    fc.property(fc.array(rule), fc.array(rule), peer, (allow, deny, peer) => {
      try {
        const admitted = admits(compileAccessRules({ allow, deny }), peer)
        const denied = deny.some(text => !admits(compileAccessRules({ deny: [text] }), peer))
        const allowed =
          allow.length === 0 || allow.some(text => admits(compileAccessRules({ allow: [text] }), peer))
        expect(admitted).toBe(!denied && allowed)
      } catch (error) {
        expect(error).toBeInstanceOf(AccessRuleError)
      }
    }),
  )
})
