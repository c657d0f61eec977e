import { once } from 'node:events'
import { type AddressInfo, connect, createServer } from 'node:net'
import { networkInterfaces } from 'node:os'
import { expect, test } from 'vitest'
import { describeTcpAddress, tcpListenOptions } from './listen-address.ts'

const hasIpv6 = Object.values(networkInterfaces()).some(list =>
  list?.some(({ address }) => address === '::1'),
)

/** Addresses of this machine at which a server that listens on `host` can be reached. */
async function reachable(host: string): Promise<string[]> {
  const server = createServer(socket => socket.destroy())
  server.listen(tcpListenOptions({ host, port: 0 }))
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const reached = []
  for (const address of ['127.0.0.1', '::1']) {
    const socket = connect(port, address)
    const answer = await Promise.race([
      once(socket, 'connect').then(() => true),
      once(socket, 'error').then(() => false),
    ]).catch(() => false)
    if (answer) reached.push(address)
    socket.destroy()
  }
  server.close()
  return reached
}

test('an address of IPv4 takes clients of IPv4', async () => {
  expect(await reachable('0.0.0.0')).toEqual(['127.0.0.1'])
})

test('all addresses are those of IPv4, and those of IPv6 where the machine has it', async () => {
  expect(await reachable('*')).toEqual(['127.0.0.1', ...(hasIpv6 ? ['::1'] : [])])
  if (hasIpv6) expect(await reachable('::')).toEqual(['::1'])
})

test.each([
  ['10.0.0.1', '10.0.0.1:10809'],
  ['::1', '[::1]:10809'],
  ['disks.example.org', 'disks.example.org:10809'],
  ['*', '*:10809'],
])('the address of %s is %s', (host, text) => {
  expect(describeTcpAddress({ host, port: 10_809 })).toBe(text)
})
