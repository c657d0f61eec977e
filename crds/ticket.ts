/**
 * Tickets: a disk that is given to some of its users only is opened as `NAME/TICKET`, by those whose ticket stands in
 * `spec.access.tickets`. No name has a slash, so nothing else is meant by it.
 */

/** What the server tells a client whose ticket does not stand there, or not any more. It will not come back. */
export const TICKET_WITHDRAWN = 'The ticket is not valid, or not any more.'

/** May somebody with this ticket, or without one, have a disk with these tickets? */
export const admitsTicket = (tickets: readonly string[] = [], ticket: string | undefined): boolean =>
  ticket === undefined ? tickets.length === 0 : tickets.includes(ticket)

const SLASH = 0x2f

/** The name and the ticket in what a client asks for. */
export function splitTicket(raw: Uint8Array): {
  readonly name: Uint8Array
  readonly ticket: string | undefined
} {
  const slash = raw.indexOf(SLASH)
  if (slash < 0) return { name: raw, ticket: undefined }
  return { name: raw.subarray(0, slash), ticket: Buffer.from(raw.subarray(slash + 1)).toString('utf8') }
}
