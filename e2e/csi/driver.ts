/** The CSI driver as a process, with a client of its socket. */
import { type ChildProcess, spawn } from 'node:child_process'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { checkout } from '../harness.ts'
import { type CsiClient, connectDriver } from './client.ts'

export interface Driver extends AsyncDisposable, Pick<CsiClient, 'call' | 'raw'> {
  readonly path: string
  /** Of the program that was started. */
  readonly pid: number
  /** SIGKILL. */
  kill(): Promise<void>
  start(): Promise<void>
  log(): string
}

const START_MS = 60_000
let count = 0

/** `within`: a program, with its arguments, that runs the driver. */
export async function startDriver(args: readonly string[], within: readonly string[] = []): Promise<Driver> {
  const path = join(tmpdir(), `ondemand-disk-csi-${process.pid}-${count++}.sock`)
  let child: ChildProcess | undefined
  let text = ''
  let client: CsiClient | undefined
  const connected = () => {
    if (client === undefined) throw new Error('The driver does not run.')
    return client
  }

  const driver: Driver = {
    path,
    get pid() {
      return child?.pid ?? -1
    },
    log: () => text,
    call: (method, request, deadlineMs) => connected().call(method, request, deadlineMs),
    raw: (method, request) => connected().raw(method, request),
    async kill() {
      client?.close()
      client = undefined
      const ended = new Promise(resolve => child?.once('close', resolve))
      child?.kill('SIGKILL')
      if (child) await ended
      child = undefined
    },
    async start() {
      const own = ['csi', '--endpoint', `unix://${path}`, '--log-level', 'debug', ...args]
      const [program = '', ...rest] = [...within, join(checkout, 'hack/ondemand-disk-operator'), ...own]
      const running = spawn(program, rest, { stdio: ['ignore', 'ignore', 'pipe'] })
      child = running
      let said = ''
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`The driver does not start:\n${said}`)), START_MS)
        running.stderr.setEncoding('utf8').on('data', (chunk: string) => {
          said += chunk
          text += chunk
          if (said.includes('Ready')) {
            clearTimeout(timer)
            resolve()
          }
        })
        running.once('close', () => {
          clearTimeout(timer)
          reject(new Error(`The driver ended:\n${said}`))
        })
      })
      client = connectDriver(path)
    },
    async [Symbol.asyncDispose]() {
      await driver.kill()
      await rm(path, { force: true })
    },
  }
  await driver.start()
  return driver
}
