const MAX_QUOTED = 80

/**
 * Quotes text from a user or a client for a message: in double quotes, at most 80 characters of it, control
 * and format characters (bidirectional overrides, line separators) escaped, so that hostile text can neither
 * break a log line, nor hide the rest of it, nor outgrow a reply.
 */
export function quote(text: string): string {
  const shown = text.length > MAX_QUOTED ? `${text.slice(0, MAX_QUOTED)}…` : text
  return JSON.stringify(shown).replace(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu,
    character => `\\u{${character.codePointAt(0)?.toString(16)}}`,
  )
}
