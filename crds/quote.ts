const MAX_QUOTED = 80
/** Of a message that another program wrote to be read by people; what helps often stands at its end. */
export const MAX_QUOTED_MESSAGE = 1000

/**
 * Quotes text from a user or a client for a message, so that hostile text can neither break a log line, nor hide the
 * rest of it, nor outgrow a reply. It stands in double quotes and is cut after 80 characters unless told otherwise;
 * control and format characters (bidirectional overrides, line separators) are escaped.
 */
export function quote(text: string, limit: number = MAX_QUOTED): string {
  const shown = text.length > limit ? `${text.slice(0, limit)}…` : text
  return JSON.stringify(shown).replace(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu,
    character => `\\u{${character.codePointAt(0)?.toString(16)}}`,
  )
}
