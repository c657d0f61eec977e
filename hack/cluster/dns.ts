/**
 * The cluster's DNS, for tests: A records of Services over UDP. Debian does not package CoreDNS.
 * usage: node dns.ts KUBECONFIG ADDRESS
 *
 * Nothing is watched: each question is one request to the API server, so an answer is never stale. While the API
 * server is away, what it said last is told.
 */
import { createSocket } from 'node:dgram'
import { readFileSync } from 'node:fs'
import { Agent, get } from 'node:https'
import { parse } from 'yaml'

interface Kubeconfig {
  clusters: [{ cluster: { server: string; 'certificate-authority-data': string } }]
  users: [{ user: { 'client-certificate-data': string; 'client-key-data': string } }]
}
interface Service {
  spec: { clusterIP?: string }
}
interface Endpoints {
  subsets?: { addresses?: { ip: string; hostname?: string }[] }[]
}

/** The header of a message, and where its numbers stand (RFC 1035, 4.1.1). */
const HEADER = 12
const QUESTIONS_AT = 4
const NO_SUCH_NAME = 3
const TYPE_A = 1
/** As many as fit a message of 512 bytes. */
const MOST_ANSWERS = 25
const TTL_SECONDS = 1

const [file = '', address = ''] = process.argv.slice(2)
const { clusters, users }: Kubeconfig = parse(readFileSync(file, 'utf8'))
const { cluster } = clusters[0]
const decoded = (text: string) => Buffer.from(text, 'base64')
const agent = new Agent({
  keepAlive: true,
  ca: decoded(cluster['certificate-authority-data']),
  cert: decoded(users[0].user['client-certificate-data']),
  key: decoded(users[0].user['client-key-data']),
})

/** The object at this path of the API; undefined where there is none. */
const read = <T>(path: string): Promise<T | undefined> =>
  new Promise((resolve, reject) => {
    get(`${cluster.server}${path}`, { agent, timeout: 2000 }, response => {
      let text = ''
      response.setEncoding('utf8').on('data', chunk => {
        text += chunk
      })
      response.on('end', () => {
        if (response.statusCode === 200) resolve(JSON.parse(text))
        else if (response.statusCode === 404) resolve(undefined)
        else reject(new Error(`The API server answers ${response.statusCode}`))
      })
    })
      .on('error', reject)
      .on('timeout', function (this: ReturnType<typeof get>) {
        this.destroy(new Error('The API server does not answer'))
      })
  })

/** The addresses of a name such as `service.namespace.svc.cluster.local`; undefined: there is no such name. */
async function lookUp(name: string): Promise<string[] | undefined> {
  const [, host, service, namespace] =
    /^(?:([a-z0-9-]+)\.)?([a-z0-9-]+)\.([a-z0-9-]+)\.svc\.cluster\.local$/.exec(name) ?? []
  if (service === undefined) return undefined
  const path = `/api/v1/namespaces/${namespace}`
  const ip = (await read<Service>(`${path}/services/${service}`))?.spec.clusterIP
  if (ip === undefined) return undefined
  if (ip !== 'None') return host === undefined ? [ip] : undefined
  const endpoints = await read<Endpoints>(`${path}/endpoints/${service}`)
  const addresses = (endpoints?.subsets ?? []).flatMap(subset => subset.addresses ?? [])
  return addresses.filter(entry => host === undefined || entry.hostname === host).map(entry => entry.ip)
}

/** Reads the first question: its name, its type, and where it ends. */
function question(message: Buffer): { name: string; type: number; end: number } | undefined {
  if (message.length < HEADER || message.readUInt16BE(QUESTIONS_AT) !== 1) return undefined
  const labels: string[] = []
  let at = HEADER
  for (let length = message[at]; length; length = message[at]) {
    labels.push(message.toString('latin1', at + 1, at + 1 + length))
    at += 1 + length
  }
  const end = at + 5
  if (end > message.length) return undefined
  return { name: labels.join('.').toLowerCase(), type: message.readUInt16BE(at + 1), end }
}

/** The answer to a question: authoritative, recursion not available. */
function answer(
  message: Buffer,
  end: number,
  addresses: readonly string[] | undefined,
  type: number,
): Buffer {
  const records = type === TYPE_A ? (addresses ?? []).slice(0, MOST_ANSWERS) : []
  const header = Buffer.alloc(HEADER)
  header.writeUInt16BE(message.readUInt16BE(0), 0)
  const recursionDesired = ((message[2] ?? 0) & 1) << 8
  header.writeUInt16BE(0x8400 | recursionDesired | (addresses === undefined ? NO_SUCH_NAME : 0), 2)
  header.writeUInt16BE(1, QUESTIONS_AT)
  header.writeUInt16BE(records.length, QUESTIONS_AT + 2)
  const name = [0xc0, HEADER]
  const fixed = [...name, 0, TYPE_A, 0, 1, 0, 0, 0, TTL_SECONDS, 0, 4]
  return Buffer.concat([
    header,
    message.subarray(HEADER, end),
    ...records.map(ip => Buffer.from([...fixed, ...ip.split('.').map(Number)])),
  ])
}

const remembered = new Map<string, string[] | undefined>()
const socket = createSocket('udp4')
socket.on('message', async (message, client) => {
  const asked = question(message)
  if (asked === undefined) return
  const addresses = await lookUp(asked.name).catch(() => remembered.get(asked.name))
  remembered.set(asked.name, addresses)
  socket.send(answer(message, asked.end, addresses, asked.type), client.port, client.address)
})
socket.bind(53, address)
