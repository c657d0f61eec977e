/**
 * Text from clients and from the command line, made safe to show: nothing in it can move a cursor, begin
 * a line or hide what follows.
 */

// Controls (C0, DEL, C1), format characters (bidirectional overrides, zero width), line and paragraph
// separators, lone surrogates.
const UNSAFE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu

const SHORT_ESCAPES: Readonly<Record<string, string>> = { '\n': '\\n', '\r': '\\r', '\t': '\\t' }

function escapeOf(character: string): string {
  const short = SHORT_ESCAPES[character]
  if (short !== undefined) return short
  const code = character.codePointAt(0) ?? 0
  return code < 0x100 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u{${code.toString(16)}}`
}

/** The first `limit` UTF-16 units of a text; a cut text says how many more there were. */
export function bounded(text: string, limit: number): string {
  return text.length <= limit ? text : `${text.slice(0, limit)}…(+${text.length - limit})`
}

/** The text on one line: its control and format characters become visible escapes such as `\n` and `\x1b`. */
export function printable(text: string): string {
  return text.replace(UNSAFE, escapeOf)
}
