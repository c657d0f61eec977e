/** Reading answers: whole ones of bounded size, and watches line by line. */
import { KubeError } from './kube-error.ts'

/** An answer with more bytes is given up. A page of 500 objects has 1 to 10 MB. */
const MAX_BODY = 256 * 2 ** 20
/** A line of a watch with more bytes is given up: etcd stores 1.5 MB at most, which JSON can blow up sixfold. */
const MAX_LINE = 16 * 2 ** 20
const LINE_FEED = 0x0a

/**
 * The whole text of an answer.
 * @throws KubeError InvalidResponse where it is too large; whatever error the connection has
 */
export async function textOf(what: string, body: AsyncIterable<Uint8Array>): Promise<string> {
  const chunks: Uint8Array[] = []
  let length = 0
  for await (const chunk of body) {
    length += chunk.length
    if (length > MAX_BODY)
      throw new KubeError('InvalidResponse', `${what} answered more than ${MAX_BODY} bytes.`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks, length).toString()
}

/** @throws KubeError InvalidResponse */
export function parseJson(what: string, text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw new KubeError('InvalidResponse', `${what} answered what is no JSON.`, { cause: error })
  }
}

/**
 * The JSON values of the lines, those that one chunk completes together. What follows the last line feed when the
 * body ends is no line: its sender was cut off.
 * @throws KubeError InvalidResponse for a line that is no JSON object or has no end
 */
export async function* jsonLines(what: string, body: AsyncIterable<Uint8Array>): AsyncGenerator<object[]> {
  let rest: Uint8Array[] = []
  let length = 0
  for await (const chunk of body) {
    const lines: object[] = []
    let start = 0
    for (let end = chunk.indexOf(LINE_FEED); end >= 0; end = chunk.indexOf(LINE_FEED, start)) {
      rest.push(chunk.subarray(start, end))
      const line = (
        rest.length === 1
          ? Buffer.from(chunk.buffer, chunk.byteOffset + start, end - start)
          : Buffer.concat(rest)
      ).toString()
      rest = []
      length = 0
      start = end + 1
      if (line.trim() === '') continue
      const value = parseJson(what, line)
      if (value === null || typeof value !== 'object') {
        throw new KubeError('InvalidResponse', `${what} answered a line that is no object.`)
      }
      lines.push(value)
    }
    if (start < chunk.length) {
      rest.push(chunk.subarray(start))
      length += chunk.length - start
      if (length > MAX_LINE) throw new KubeError('InvalidResponse', `${what} answered a line without an end.`)
    }
    yield lines
  }
}
