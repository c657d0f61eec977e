import { fstatSync } from 'node:fs'
import { quote } from '../../crds/quote.ts'

/** A listening socket that the service manager opened. */
export interface ActivatedSocket {
  readonly descriptor: number
  /** From LISTEN_FDNAMES; `unknown` where it is not set, as sd_listen_fds_with_names(3) has it. */
  readonly name: string
}

/** The service manager's variables contradict what the process was given. */
export class ActivationError extends Error {
  override readonly name = 'ActivationError'
  readonly code = 'EACTIVATION'
}

// sd_listen_fds(3): SD_LISTEN_FDS_START.
const FIRST_DESCRIPTOR = 3
const MAX_SOCKETS = 1024

/**
 * Takes over the sockets of systemd's socket activation: LISTEN_FDS descriptors from 3 on, if LISTEN_PID is
 * this process; none without these variables, or when they are meant for another process.
 *
 * The variables are removed from `environment`, so that children do not take them for theirs. The
 * descriptors themselves are closed on exec: Node marks what it inherited when it starts.
 * @throws ActivationError naming the variable
 */
export function takeActivatedSockets(
  environment: NodeJS.ProcessEnv = process.env,
  pid: number = process.pid,
): readonly ActivatedSocket[] {
  const { LISTEN_FDS: fds, LISTEN_PID: forPid, LISTEN_FDNAMES: names } = environment
  delete environment.LISTEN_FDS
  delete environment.LISTEN_PID
  delete environment.LISTEN_FDNAMES
  delete environment.LISTEN_PIDFDID
  if (fds === undefined || forPid === undefined) return []

  if (!/^[1-9]\d{0,9}$/.test(forPid)) {
    throw new ActivationError(`LISTEN_PID is ${quote(forPid)}, which is not a process id.`)
  }
  if (Number(forPid) !== pid) return []
  if (!/^\d{1,4}$/.test(fds) || Number(fds) > MAX_SOCKETS) {
    throw new ActivationError(`LISTEN_FDS is ${quote(fds)}, which is not a number from 0 to ${MAX_SOCKETS}.`)
  }
  const count = Number(fds)
  if (count === 0) return []
  const nameList = names?.split(':')
  if (nameList !== undefined && nameList.length !== count) {
    throw new ActivationError(`LISTEN_FDNAMES has ${nameList.length} names, but LISTEN_FDS is ${count}.`)
  }
  return Array.from({ length: count }, (_, index) => {
    const descriptor = FIRST_DESCRIPTOR + index
    requireSocket(descriptor, count)
    return { descriptor, name: nameList?.[index] ?? 'unknown' }
  })
}

function requireSocket(descriptor: number, count: number): void {
  let isSocket: boolean
  try {
    isSocket = fstatSync(descriptor).isSocket()
  } catch (cause) {
    throw new ActivationError(`LISTEN_FDS is ${count}, but descriptor ${descriptor} is not open.`, { cause })
  }
  if (!isSocket)
    throw new ActivationError(`LISTEN_FDS is ${count}, but descriptor ${descriptor} is not a socket.`)
}
