/** What the value of an option may look like: each parser returns the value or throws a `UsageError` with the reason. */
import { isIPv4, isIPv6 } from 'node:net'
import { quote } from '../../crds/quote.ts'
import type { TcpAddress } from '../linux/listen-address.ts'
import { UsageError } from './options.ts'

/** The text itself, which must not be empty. */
export function parseText(text: string): string {
  if (text === '') throw new UsageError('The value is empty.')
  return text
}

/** Makes a parser of one of these words. */
export function parseChoice<const Word extends string>(words: readonly Word[]): (text: string) => Word {
  return text => {
    const word = words.find(candidate => candidate === text)
    if (word === undefined) throw new UsageError(`${quote(text)} is none of ${words.join(', ')}.`)
    return word
  }
}

/** Makes a parser of a whole decimal number from `least` to `most`. */
export function parseCount(least: number, most: number): (text: string) => number {
  return text => {
    const count = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN
    if (count >= least && count <= most) return count
    throw new UsageError(`${quote(text)} is not a whole number from ${least} to ${most}.`)
  }
}

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, '': 1000, m: 60_000, h: 3_600_000 }

/** Longest duration in ms: a timer counts to 2^31-1, and one set for longer fires at once. */
export const MAX_DURATION_MS = 2_147_483_647

/** A duration above zero, in ms: `500ms`, `10s`, `1.5m`, `2h`; a plain number is seconds. */
export function parseDuration(text: string): number {
  const match = /^(\d{1,15}(?:\.\d{1,15})?)(ms|s|m|h|)$/.exec(text)
  if (match === null) {
    throw new UsageError(
      `${quote(text)} is not a duration. Give seconds, or a number with ms, s, m or h, such as 10m.`,
    )
  }
  const [, number = '', unit = ''] = match
  const ms = Math.round(Number(number) * (UNIT_MS[unit] ?? 0))
  if (ms < 1) throw new UsageError(`${quote(text)} is too short. Give at least 1ms.`)
  if (ms > MAX_DURATION_MS) throw new UsageError(`${quote(text)} is too long. Give at most 596h.`)
  return ms
}

// RFC 1123, section 2.1: letters, digits and hyphens; the last label is not all digits.
const HOST_NAME =
  /^(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*(?!\d+$)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/i

/** `HOST:PORT`, an IPv6 address in brackets; `*:PORT` for all addresses. */
export function parseListenAddress(text: string): TcpAddress {
  const match = /^(?:\[([^[\]]*)\]|([^[\]:]*)):(\d{1,5})$/.exec(text)
  if (match === null) {
    throw new UsageError(
      `${quote(text)} is not HOST:PORT. Give an address and a port, such as 192.168.7.1:10809 or [::1]:10809, or *:10809 for all addresses.`,
    )
  }
  const [, bracketed, plain = '', digits] = match
  const host = bracketed ?? plain
  if (host === '') {
    throw new UsageError(`${quote(text)} has no host. For all addresses give *:PORT.`)
  }
  const isPlainHost = host === '*' || isIPv4(host) || HOST_NAME.test(host)
  if (bracketed === undefined ? !isPlainHost : !isIPv6(host)) {
    const expected =
      bracketed === undefined ? 'neither an IPv4 address nor a host name' : 'not an IPv6 address'
    throw new UsageError(`${quote(host)} in ${quote(text)} is ${expected}.`)
  }
  const port = Number(digits)
  if (port > 65_535) throw new UsageError(`The port in ${quote(text)} is above 65535.`)
  return { host, port }
}

// sockaddr_un.sun_path holds 108 bytes with the terminating NUL (unix(7)).
const MAX_SOCKET_PATH = 107

/** Path of a unix socket. */
export function parseSocketPath(text: string): string {
  const bytes = Buffer.byteLength(parseText(text))
  if (bytes > MAX_SOCKET_PATH) {
    throw new UsageError(`The path has ${bytes} bytes. That of a unix socket has at most ${MAX_SOCKET_PATH}.`)
  }
  return text
}

/** A variable that a creation command sees. */
export interface Variable {
  readonly key: string
  readonly value: string
}

/** `KEY=VALUE`: the key is a shell identifier other than `disk` and `size`, which the server sets. */
export function parseVariable(text: string): Variable {
  const equals = text.indexOf('=')
  if (equals < 0) throw new UsageError(`${quote(text)} is not KEY=VALUE.`)
  const key = text.slice(0, equals)
  if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(key)) {
    throw new UsageError(`${quote(key)} is not a shell identifier (letters, digits and _, no digit first).`)
  }
  if (key === 'disk') throw new UsageError('The variable disk is set by the server: the path to create.')
  if (key === 'size') throw new UsageError('The variable size is set by the server. Use --size.')
  return { key, value: text.slice(equals + 1) }
}

/** Name of a filesystem type. It becomes part of a program's name, `mkfs.TYPE`. */
export function parseFilesystemType(text: string): string {
  if (!/^[a-z0-9]{1,16}$/.test(text)) {
    throw new UsageError(
      `${quote(text)} is not a filesystem type. Give one such as ext4, xfs, vfat, btrfs or ntfs.`,
    )
  }
  return text
}
