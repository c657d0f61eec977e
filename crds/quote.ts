const MAX_QUOTED = 80

/**
 * Quotes text from a user or a client for a message: in double quotes, control characters escaped, at most
 * 80 characters of it, so that hostile text can neither break a log line nor outgrow a reply.
 */
export function quote(text: string): string {
  const shown = text.length > MAX_QUOTED ? `${text.slice(0, MAX_QUOTED)}…` : text
  return JSON.stringify(shown).replace(
    /\p{Cc}/gu,
    control => `\\u${control.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}
