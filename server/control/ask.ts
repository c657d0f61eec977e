/**
 * Asking another program to declare a disk that a client wants: it sits at a unix socket and decides. A question
 * is short. As long as the disk is being made it is asked again, so that an answerer that dies, hangs or starts
 * anew is noticed within seconds, and no client waits for an answer that will not come.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Peer } from '../../crds/access-rules.ts'
import { Slots } from '../backends/disks/slots.ts'
import { ExportRefusal, type RefusalKind } from '../exports/export.ts'
import { askJson, RequestError } from './unix-http.ts'

/** What a client wants. */
export interface DiskQuestion {
  readonly name: string
  /** Bytes, where the client asked for a size. */
  readonly size: number | undefined
  readonly peer: Peer
}

/** A question as it goes over the socket, by `POST /disks`. */
export interface AskedDisk {
  readonly name: string
  readonly size?: number
  /** Which client wants it: its address, or `unix`. */
  readonly client: string
  /** False: only what would be made is asked, and nothing is made. */
  readonly create: boolean
}

/**
 * What the answerer says. `waiting`: it is being made; ask again. `declared`: a manifest of this name in the
 * directory of manifests declares it now. `size`: what would be made.
 */
export type AskAnswer =
  | { readonly result: 'declared'; readonly manifest: string }
  | { readonly result: 'waiting' }
  | { readonly result: 'size'; readonly size: number }
  | { readonly result: 'refused'; readonly kind: AskRefusalKind; readonly message: string }

const ASK_REFUSAL_KINDS = ['unknown', 'policy', 'limit', 'failed'] as const
export type AskRefusalKind = (typeof ASK_REFUSAL_KINDS)[number]

/** Asks on behalf of clients. */
export interface Asker {
  /**
   * Has the disk declared and waits until it can be opened, together with all who want the same one. Returns the name of its
   * manifest.
   * @throws ExportRefusal, or the signal's reason
   */
  declare(question: DiskQuestion, signal: AbortSignal): Promise<string>
  /** Bytes that the disk would have. @throws ExportRefusal, or the signal's reason */
  sizeOf(question: DiskQuestion, signal: AbortSignal): Promise<number>
}

export interface AskerOptions {
  /** Of the unix socket. */
  readonly path: string
  /** How long a client may wait for its disk in all, in ms. */
  readonly timeoutMs: number
  /** How long the answerer may be away, in ms. Default: 5000. */
  readonly patienceMs?: number
  /** Reads the manifest that declares the disk now, and waits until the disk can be opened. */
  readonly take: (manifest: string, exportName: string) => Promise<void>
  /** Told once when the answerer goes away, and once when it is back. */
  readonly onAway: (error: Error) => void
  readonly onBack: () => void
}

/** Questions that are open at once; further ones wait in line. */
const MAX_QUESTIONS = 128
/** How long one answer may take, in ms. The answerer says `waiting` well before that. */
export const ANSWER_MS = 10_000
const RETRY_MS = 100
const PATIENCE_MS = 5000

interface Flight {
  readonly done: Promise<string>
  readonly abort: AbortController
  waiting: number
}

const AWAY = 'No new disk can be made now, because the program that decides on it does not answer. Try again.'

const WIRE_KINDS: Readonly<Record<AskRefusalKind, RefusalKind>> = {
  unknown: 'unknown',
  policy: 'policy',
  limit: 'limit',
  failed: 'unavailable',
}

/** Asks at a socket for disks. Those who want the same name wait for one question. */
export function createAsker(options: AskerOptions): Asker {
  const { path, timeoutMs, patienceMs = PATIENCE_MS, take, onAway, onBack } = options
  const flights = new Map<string, Flight>()
  const slots = new Slots(MAX_QUESTIONS)
  let isAway = false

  /** One answer, for which an answerer that is away is waited for a while. */
  async function ask(body: AskedDisk, signal: AbortSignal): Promise<AskAnswer> {
    const deadline = performance.now() + patienceMs
    for (;;) {
      try {
        const answer = await askJson(path, {
          method: 'POST',
          path: '/disks',
          body,
          signal,
          timeoutMs: ANSWER_MS,
        })
        if (isAway) onBack()
        isAway = false
        return checkAnswer(answer)
      } catch (error) {
        signal.throwIfAborted()
        if (!isAway) onAway(error as Error)
        isAway = true
        const isFinal = error instanceof RequestError || performance.now() + RETRY_MS > deadline
        if (isFinal) throw new ExportRefusal('unavailable', AWAY, { cause: error })
        await sleep(RETRY_MS, undefined, { signal })
      }
    }
  }

  async function fly(question: DiskQuestion, signal: AbortSignal): Promise<string> {
    const release = await slots.acquire(signal)
    try {
      const body = { ...wireQuestion(question), create: true }
      const deadline = performance.now() + timeoutMs
      for (;;) {
        const answer = await ask(body, signal)
        if (answer.result === 'declared') return answer.manifest
        if (answer.result === 'refused') throw new ExportRefusal(WIRE_KINDS[answer.kind], answer.message)
        if (performance.now() > deadline) {
          const seconds = Math.round(timeoutMs / 1000)
          throw new ExportRefusal('unavailable', `The disk was not made within ${seconds} s. Try again.`)
        }
        // An answerer that says so at once must not be asked as fast as it can say it.
        await sleep(RETRY_MS, undefined, { signal })
      }
    } finally {
      release()
    }
  }

  /** Until the disk can be opened: who came between the answer and that would ask anew. */
  async function made(question: DiskQuestion, signal: AbortSignal): Promise<string> {
    const manifest = await fly(question, signal)
    await take(manifest, question.name)
    return manifest
  }

  function begin(question: DiskQuestion): Flight {
    const abort = new AbortController()
    const flight: Flight = {
      done: made(question, abort.signal).finally(() => forget(question.name, flight)),
      abort,
      waiting: 0,
    }
    flight.done.catch(() => {})
    flights.set(question.name, flight)
    return flight
  }

  function forget(name: string, flight: Flight): void {
    if (flights.get(name) === flight) flights.delete(name)
  }

  return {
    async declare(question, signal) {
      signal.throwIfAborted()
      const { name } = question
      const flight = flights.get(name) ?? begin(question)
      flight.waiting++
      let leave = () => {}
      const left = new Promise<never>((_, reject) => {
        leave = () => reject(signal.reason)
      })
      signal.addEventListener('abort', leave)
      try {
        return await Promise.race([flight.done, left])
      } finally {
        signal.removeEventListener('abort', leave)
        if (--flight.waiting === 0) {
          forget(name, flight)
          flight.abort.abort()
        }
      }
    },

    async sizeOf(question, signal) {
      const release = await slots.acquire(signal)
      try {
        const answer = await ask({ ...wireQuestion(question), create: false }, signal)
        if (answer.result === 'size') return answer.size
        if (answer.result === 'refused') throw new ExportRefusal(WIRE_KINDS[answer.kind], answer.message)
        throw new ExportRefusal('unavailable', 'The disk is being made. Try again.')
      } finally {
        release()
      }
    },
  }
}

function wireQuestion({ name, size, peer }: DiskQuestion): Omit<AskedDisk, 'create'> {
  const client = peer.kind === 'unix' ? 'unix' : peer.address
  return { name, ...(size !== undefined && { size }), client }
}

/** What came over the socket, if it is an answer. */
function checkAnswer(value: unknown): AskAnswer {
  const answer = value as Partial<Record<string, unknown>> | null
  const { result } = answer ?? {}
  if (result === 'waiting') return { result }
  if (result === 'declared' && typeof answer?.manifest === 'string') {
    return { result, manifest: answer.manifest }
  }
  if (result === 'size' && Number.isSafeInteger(answer?.size)) return { result, size: answer?.size as number }
  const kind = ASK_REFUSAL_KINDS.find(known => known === answer?.kind)
  if (result === 'refused' && kind !== undefined && typeof answer?.message === 'string') {
    return { result, kind, message: answer.message }
  }
  throw new RequestError(502, 'The answer about a new disk is not one.')
}
