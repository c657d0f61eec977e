import { write, writeSync } from 'node:fs'

/** UTF-16 units that wait for a slow reader. Lines beyond are dropped and counted. */
export const MAX_BACKLOG = 1024 * 1024

const RETRY_MS = 100
const EMPTY = Buffer.alloc(0)

/** Takes whole lines, each with its line feed. */
export interface LogWriter {
  write(line: string): void
}

/**
 * Writes lines to a descriptor, off the event loop and in order. It never throws and never ends the process:
 * a full disk, a closed pipe or a slow reader costs lines. When lines can be written again, `onLoss` is told
 * how many were lost. What is left when the process exits is written then.
 */
export function createLogWriter(descriptor: number, onLoss: (lines: number) => void): LogWriter {
  let waiting = ''
  let chunk = EMPTY
  let writing = false
  let failing = false
  let lost = 0

  const takeWaiting = (): void => {
    chunk = Buffer.from(waiting)
    waiting = ''
  }

  const writeNext = (): void => {
    if (chunk.length === 0) {
      takeWaiting()
      // Told only now that there is room for it, and not into a log that takes nothing.
      if (lost > 0 && !failing) {
        const lines = lost
        lost = 0
        onLoss(lines)
        if (chunk.length === 0) takeWaiting()
      }
    }
    if (chunk.length > 0) {
      write(descriptor, chunk, written)
    } else {
      writing = false
      process.off('exit', writeRest)
    }
  }

  const written = (error: NodeJS.ErrnoException | null, length: number): void => {
    if (error?.code === 'EAGAIN') {
      setTimeout(writeNext, RETRY_MS).unref()
      return
    }
    failing = error !== null
    if (failing) {
      lost += linesIn(chunk)
      chunk = EMPTY
    } else {
      chunk = chunk.subarray(length)
    }
    writeNext()
  }

  // The chunk on its way is not repeated: the thread that writes it is waited for when the process ends.
  const writeRest = (): void => {
    try {
      let rest = Buffer.from(waiting)
      while (rest.length > 0) rest = rest.subarray(writeSync(descriptor, rest))
    } catch {
      // The process ends, and the log was the place to say so.
    }
  }

  return {
    write: line => {
      if (waiting.length + line.length > MAX_BACKLOG) {
        lost++
        return
      }
      waiting += line
      if (writing) return
      writing = true
      process.on('exit', writeRest)
      writeNext()
    },
  }
}

function linesIn(chunk: Buffer): number {
  let lines = 0
  for (let at = chunk.indexOf(0x0a); at >= 0; at = chunk.indexOf(0x0a, at + 1)) lines++
  return lines
}
