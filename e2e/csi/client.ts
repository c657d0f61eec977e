/** A client of a CSI driver's socket. */
import { type Client, credentials, makeClientConstructor, type ServiceError, status } from '@grpc/grpc-js'
import { loadServices } from '../../operator/csi/protocol/definition.ts'
import type { ControllerMethods, IdentityMethods, NodeMethods } from '../../operator/csi/protocol/messages.ts'

type AllMethods = ControllerMethods & IdentityMethods & NodeMethods

/** A request as a client writes it: what is left out is not sent. */
type Sent<T> = T extends string | boolean
  ? T
  : T extends number
    ? number
    : T extends readonly (infer Item)[]
      ? readonly Sent<Item>[]
      : { readonly [Key in keyof T]?: Sent<NonNullable<T[Key]>> | null }

export interface CsiClient {
  /** Rejects with Refused. The deadline is in ms from now. */
  call<Name extends keyof AllMethods>(
    method: Name,
    request?: Sent<AllMethods[Name][0]>,
    deadlineMs?: number,
  ): Promise<AllMethods[Name][1]>
  /** A call of a method that the driver may not have. */
  raw(method: string, request: object, deadlineMs?: number): Promise<unknown>
  close(): void
}

/** What the driver refuses. */
export class Refused extends Error {
  readonly code: string

  constructor(code: string, message: string) {
    super(message)
    this.code = code
  }
}

const CALL_MS = 60_000
const services = loadServices()

type Callback = (error: ServiceError | null, value: unknown) => void
type Methods = Readonly<Record<string, (request: object, options: object, callback: Callback) => void>>

/** Of the driver that listens at a path. */
export function connectDriver(path: string): CsiClient {
  const open = (name: keyof typeof services) => {
    const Constructor = makeClientConstructor(services[name], name)
    return new Constructor(`unix:${path}`, credentials.createInsecure())
  }
  const clients: readonly Client[] = [open('identity'), open('controller'), open('node')]
  const raw = (method: string, request: object, deadlineMs = CALL_MS) =>
    new Promise<unknown>((resolve, reject) => {
      const client = clients.find(candidate => method in candidate) as unknown as Methods
      client[method]?.(request, { deadline: Date.now() + deadlineMs }, (error, value) => {
        if (error) reject(new Refused(status[error.code] ?? String(error.code), error.details))
        else resolve(value)
      })
    })
  return {
    raw,
    call: (method, request, deadlineMs) => raw(method, request ?? {}, deadlineMs) as never,
    close() {
      for (const client of clients) client.close()
    },
  }
}
