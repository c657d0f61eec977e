/** What is asked for on standard output cannot be given: one line says so, where Node would print its own stack. */
import { codeOf } from '../linux/errno.ts'

process.stdout.on('error', error => {
  process.exitCode = 1
  // Who closes the pipe has read enough.
  if (codeOf(error) === 'EPIPE') return
  process.stderr.write(`ondemand-disk: Standard output cannot be written (${codeOf(error)}).\n`)
})
