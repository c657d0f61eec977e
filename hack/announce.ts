/**
 * Loaded by `hack/run` in front of the server: prints the address once the server listens, and what to
 * try next. It hears of that from Node itself, so it knows the port that `--listen HOST:0` chose.
 */
import { subscribe } from 'node:diagnostics_channel'
import { Server as HttpServer } from 'node:http'
import type { AddressInfo, Server } from 'node:net'

/** Milliseconds in which a second listener may still fail and end the server: no promise before that. */
const SETTLED = 50

/** The URI of a disk on a server that listens at `address`, as libnbd and qemu read it. */
function diskUri(address: AddressInfo | string, disk: string): string {
  if (typeof address === 'string') return `nbd+unix:///${disk}?socket=${address}`
  return `nbd://${reachableHost(address)}${address.port === 10809 ? '' : `:${address.port}`}/${disk}`
}

/** Whether any name gets a disk, or only those that the server has. */
function makesDisks(argv: readonly string[]): boolean {
  const isGiven = (option: string) => argv.some(word => word === option || word.startsWith(`${option}=`))
  if (isGiven('--upstream') || isGiven('--backend') || isGiven('--no-create')) return false
  return isGiven('--size') || !isGiven('--disks')
}

/** The commands to try next, for people. */
function advice(address: AddressInfo | string): string {
  const server = diskUri(address, '')
  const next = makesDisks(process.argv)
    ? tryAnyName(address)
    : `See what there is:\n  nbdinfo --list ${server}`
  return `
Ready: ${server.replace(/\/$/, '')}

${next}
These clients come with: sudo apt-get install libnbd-bin qemu-utils nbd-client
Ctrl-C stops the server.

`
}

function tryAnyName(address: AddressInfo | string): string {
  const uri = diskUri(address, 'alice')
  const attach =
    typeof address === 'string'
      ? `nbd-client -N alice -unix ${address} /dev/nbd0`
      : `nbd-client -N alice ${reachableHost(address).replace(/[[\]]/g, '')} ${address.port} /dev/nbd0`
  return `Every name is a disk, made when it is first asked for. Try in another terminal:
  nbdinfo ${uri}
  nbdcopy ${uri} alice.img
  qemu-img info ${uri}
  sudo modprobe nbd && sudo ${attach} && sudo mount /dev/nbd0 /mnt`
}

function reachableHost({ address, family }: AddressInfo): string {
  if (family === 'IPv6') return address === '::' ? '[::1]' : `[${address}]`
  return address === '0.0.0.0' ? '127.0.0.1' : address
}

let first: Server | undefined
subscribe('tracing:net.server.listen:asyncEnd', message => {
  const { server } = message as { server: Server }
  // The metrics are served over HTTP and are not what people wait for.
  if (first || server instanceof HttpServer) return
  first = server
  setTimeout(() => {
    const address = server.address()
    if (address) process.stdout.write(advice(address))
  }, SETTLED).unref()
})
