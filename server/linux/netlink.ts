/** Generic netlink sockets: requests to a family of the kernel's, and what it tells by itself. */
import { closeSync } from 'node:fs'
import { ERRNO, SystemCallError } from './errno.ts'
import {
  decodeAttributes,
  decodeMessages,
  encodeRequest,
  type GenericRequest,
  NLMSG_ERROR,
  type Received,
  text,
} from './netlink-message.ts'
import { addressOf, declare, lastErrno } from './syscalls.ts'

const socketCall = declare<[domain: number, type: number, protocol: number]>(
  'int socket(int domain, int type, int protocol)',
)
const bindCall = declare<[fd: number, address: number, length: number]>(
  'int bind(int fd, int64_t address, uint32_t length)',
)
const sendCall = declare<[fd: number, address: number, length: number, flags: number]>(
  'int64_t send(int fd, int64_t address, uint64_t length, int flags)',
)
const recvCall = declare<[fd: number, address: number, length: number, flags: number]>(
  'int64_t recv(int fd, int64_t address, uint64_t length, int flags)',
)
const setsockopt = declare<[fd: number, level: number, name: number, value: number, length: number]>(
  'int setsockopt(int fd, int level, int name, int64_t value, uint32_t length)',
)
const poll = declare<[descriptors: number, count: number, timeout: number]>(
  'int poll(int64_t descriptors, uint64_t count, int timeout)',
)

const AF_NETLINK = 16
const SOCK_RAW_CLOEXEC = 0x80003
const NETLINK_GENERIC = 16
const SOL_NETLINK = 270
const NETLINK_ADD_MEMBERSHIP = 1
const SOL_SOCKET = 1
const SO_RCVTIMEO = 20
const POLLIN = 1
/** How long the kernel may take for an answer, in seconds. */
const ANSWER_LIMIT = 30

const GENL_ID_CTRL = 16
const CTRL_CMD_GETFAMILY = 3
const CTRL_ATTR_FAMILY_ID = 1
const CTRL_ATTR_FAMILY_NAME = 2
const CTRL_ATTR_MCAST_GROUPS = 7
const CTRL_ATTR_MCAST_GRP_NAME = 1
const CTRL_ATTR_MCAST_GRP_ID = 2

/** A family of requests that the kernel has. */
export interface Family {
  readonly id: number
  /** Numbers of the groups that can be listened to. */
  readonly groups: ReadonlyMap<string, number>
}

/** A socket. Its calls are short, and made at once. */
export class GenericNetlink implements Disposable {
  readonly #fd: number
  // Both live as long as the socket: what the kernel is given the address of must not be collected.
  readonly #buffer = Buffer.allocUnsafeSlow(65_536)
  readonly #address = addressOf(this.#buffer)
  readonly #descriptor = Buffer.alloc(8)
  readonly #descriptorAddress = addressOf(this.#descriptor)
  #sequence = 0

  constructor() {
    this.#fd = socketCall(AF_NETLINK, SOCK_RAW_CLOEXEC, NETLINK_GENERIC)
    if (this.#fd < 0) throw new SystemCallError('socket(AF_NETLINK)', lastErrno())
    this.#buffer.fill(0, 0, 16).writeUInt32LE(ANSWER_LIMIT, 0)
    setsockopt(this.#fd, SOL_SOCKET, SO_RCVTIMEO, this.#address, 16)
    this.#buffer.fill(0, 0, 12).writeUInt16LE(AF_NETLINK, 0)
    if (bindCall(this.#fd, this.#address, 12) !== 0) {
      const errno = lastErrno()
      closeSync(this.#fd)
      throw new SystemCallError('bind(AF_NETLINK)', errno)
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd)
  }

  #receive(): Received[] {
    for (;;) {
      const length = recvCall(this.#fd, this.#address, this.#buffer.length, 0)
      // What is told of by itself may have been more than the socket holds.
      if (length < 0 && (lastErrno() === ERRNO.EINTR || lastErrno() === ERRNO.ENOBUFS)) continue
      if (length < 0) throw new SystemCallError('recv(AF_NETLINK)', lastErrno())
      return decodeMessages(Buffer.from(this.#buffer.subarray(0, length)))
    }
  }

  /**
   * Asks, and waits for the acknowledgement. Returns the attributes of the answer before it, if there was one.
   * @throws SystemCallError with the kernel's error, and `what` as the call
   */
  request(what: string, request: GenericRequest): ReadonlyMap<number, Buffer> {
    const sequence = ++this.#sequence
    const length = encodeRequest(request, sequence).copy(this.#buffer)
    if (sendCall(this.#fd, this.#address, length, 0) < 0) {
      throw new SystemCallError(what, lastErrno())
    }
    let answer: ReadonlyMap<number, Buffer> = new Map()
    for (;;) {
      for (const received of this.#receive()) {
        if (received.sequence !== sequence) continue
        if (received.type !== NLMSG_ERROR) answer = received.attributes
        else if (received.errno === 0) return answer
        else throw new SystemCallError(what, received.errno)
      }
    }
  }

  /** A family by its name; undefined: the kernel, as it is now, has none. */
  family(name: string): Family | undefined {
    let attributes: ReadonlyMap<number, Buffer>
    try {
      attributes = this.request(`netlink family ${name}`, {
        family: GENL_ID_CTRL,
        command: CTRL_CMD_GETFAMILY,
        version: 1,
        attributes: [text(CTRL_ATTR_FAMILY_NAME, name)],
      })
    } catch (error) {
      if (error instanceof SystemCallError && error.errno === ERRNO.ENOENT) return undefined
      throw error
    }
    const groups = new Map<string, number>()
    for (const group of decodeAttributes(
      attributes.get(CTRL_ATTR_MCAST_GROUPS) ?? Buffer.alloc(0),
    ).values()) {
      const fields = decodeAttributes(group)
      const label = fields.get(CTRL_ATTR_MCAST_GRP_NAME)?.toString('latin1').replace(/\0.*$/, '') ?? ''
      groups.set(label, fields.get(CTRL_ATTR_MCAST_GRP_ID)?.readUInt32LE(0) ?? 0)
    }
    return { id: attributes.get(CTRL_ATTR_FAMILY_ID)?.readUInt16LE(0) ?? 0, groups }
  }

  /** From now on `events` returns what this group is told. */
  join(group: number): void {
    this.#buffer.writeUInt32LE(group, 0)
    if (setsockopt(this.#fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, this.#address, 4) !== 0) {
      throw new SystemCallError('setsockopt(NETLINK_ADD_MEMBERSHIP)', lastErrno())
    }
  }

  /** Waits in the thread pool until there is something to read, or for so many ms; returns what there is. */
  async events(waitMs: number): Promise<Received[]> {
    this.#descriptor.fill(0).writeInt32LE(this.#fd, 0)
    this.#descriptor.writeInt16LE(POLLIN, 4)
    const ready = await new Promise<number>((resolve, reject) => {
      poll.async(this.#descriptorAddress, 1, waitMs, (error, result) => {
        if (error === null) resolve(result)
        else reject(error)
      })
    })
    return ready > 0 ? this.#receive() : []
  }
}
