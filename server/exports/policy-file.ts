/** A policy in a file, followed while it changes. */
import { open, stat } from 'node:fs/promises'
import { codeOf, toError } from '../linux/errno.ts'
import { NOBODY, type Policy, PolicyError, parsePolicy } from './policy.ts'

export interface PolicyFileOptions {
  /** Clients can show certificates, so that rules may ask for them. */
  readonly tls: boolean
  /** A policy holds from now on. */
  onChange(policy: Policy): void
  /** There is no file yet, so that nobody is admitted; told once, at the start. */
  onMissing(): void
  /** The file is wrong, or gone, told once each time; the last good policy stays, or nobody is admitted if there was none. */
  onProblem(error: PolicyError): void
}

/** A policy that is followed. */
export interface PolicyFile {
  readonly policy: Policy
  /** Reads the file now, if it has changed. */
  refresh(): Promise<void>
  close(): Promise<void>
}

/** How often the file is looked at, in ms. A look is one system call, so no events are needed, nor their gaps to be feared. */
const LOOK_MS = 250
const MAX_BYTES = 256 * 2 ** 10

/** Follows the policy in a file, which need not be there yet: until it is, nobody is admitted. */
export async function followPolicy(path: string, options: PolicyFileOptions): Promise<PolicyFile> {
  const { tls, onChange, onMissing, onProblem } = options
  let policy = NOBODY
  let signature = ''
  let reported = ''
  let looking: Promise<void> | undefined

  async function look(): Promise<void> {
    try {
      const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true })
      const found = `${dev} ${ino} ${size} ${mtimeNs} ${ctimeNs}`
      if (found === signature) return
      policy = parsePolicy(await readBounded(path), tls)
      // Not before it is known to be good: one that is read half is read again.
      signature = found
      reported = ''
      onChange(policy)
    } catch (error) {
      const isMissing = codeOf(error) === 'ENOENT'
      const reason = isMissing ? 'The file is gone.' : toError(error).message
      if (reason === reported) return
      const isFirst = reported === '' && signature === ''
      reported = reason
      if (isFirst && isMissing) return onMissing()
      onProblem(new PolicyError(`${path}: ${reason}`, { cause: error }))
    }
  }

  function refresh(): Promise<void> {
    looking ??= look().finally(() => {
      looking = undefined
    })
    return looking
  }

  await refresh()
  const timer = setInterval(() => void refresh(), LOOK_MS).unref()
  return {
    get policy() {
      return policy
    },
    async refresh() {
      // A look that is under way may have passed the change.
      await looking
      await refresh()
    },
    async close() {
      clearInterval(timer)
      await looking
    },
  }
}

async function readBounded(path: string): Promise<string> {
  const handle = await open(path)
  try {
    const { size } = await handle.stat()
    if (size > MAX_BYTES) throw new PolicyError(`It has more than ${MAX_BYTES} bytes.`)
    return await handle.readFile('utf8')
  } finally {
    await handle.close()
  }
}
