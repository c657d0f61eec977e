/** The CSI driver as a process, and a client of its socket. */
import { type ChildProcess, spawn } from 'node:child_process'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Client, credentials, makeClientConstructor, type ServiceError, status } from '@grpc/grpc-js'
import { loadServices } from '../../operator/csi/protocol/definition.ts'
import type { ControllerMethods, IdentityMethods, NodeMethods } from '../../operator/csi/protocol/messages.ts'
import { checkout } from '../harness.ts'

type AllMethods = ControllerMethods & IdentityMethods & NodeMethods

/** A request as a client writes it: what is left out is not sent. */
type Sent<T> = T extends string | boolean
  ? T
  : T extends number
    ? number
    : T extends readonly (infer Item)[]
      ? readonly Sent<Item>[]
      : { readonly [Key in keyof T]?: Sent<NonNullable<T[Key]>> | null }

export interface Driver extends AsyncDisposable {
  readonly path: string
  /** Of the program that was started. */
  readonly pid: number
  /** Rejects with Refused. The deadline is in ms from now. */
  call<Name extends keyof AllMethods>(
    method: Name,
    request?: Sent<AllMethods[Name][0]>,
    deadlineMs?: number,
  ): Promise<AllMethods[Name][1]>
  /** A call of a method that the driver may not have. */
  raw(method: string, request: object): Promise<unknown>
  /** SIGKILL. */
  kill(): Promise<void>
  start(): Promise<void>
  log(): string
}

/** What the driver refuses. */
export class Refused extends Error {
  readonly code: string

  constructor(code: string, message: string) {
    super(message)
    this.code = code
  }
}

const START_MS = 60_000
const CALL_MS = 60_000
const services = loadServices()
let count = 0

type Callback = (error: ServiceError | null, value: unknown) => void
type Methods = Readonly<Record<string, (request: object, options: object, callback: Callback) => void>>

/** `within`: a program, with its arguments, that runs the driver. */
export async function startDriver(args: readonly string[], within: readonly string[] = []): Promise<Driver> {
  const path = join(tmpdir(), `ondemand-disk-csi-${process.pid}-${count++}.sock`)
  let child: ChildProcess | undefined
  let text = ''
  const open = (name: keyof typeof services) => {
    const Constructor = makeClientConstructor(services[name], name)
    return new Constructor(`unix:${path}`, credentials.createInsecure())
  }
  let clients: readonly Client[] = []

  const raw = (method: string, request: object, deadlineMs = CALL_MS) =>
    new Promise<unknown>((resolve, reject) => {
      const client = clients.find(candidate => method in candidate) as unknown as Methods
      client[method]?.(request, { deadline: Date.now() + deadlineMs }, (error, value) => {
        if (error) reject(new Refused(status[error.code] ?? String(error.code), error.details))
        else resolve(value)
      })
    })

  const driver: Driver = {
    path,
    get pid() {
      return child?.pid ?? -1
    },
    log: () => text,
    call: (method, request, deadlineMs) => raw(method, request ?? {}, deadlineMs) as never,
    raw,
    async kill() {
      for (const client of clients) client.close()
      clients = []
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
      clients = [open('identity'), open('controller'), open('node')]
    },
    async [Symbol.asyncDispose]() {
      await driver.kill()
      await rm(path, { force: true })
    },
  }
  await driver.start()
  return driver
}
