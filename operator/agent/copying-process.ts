/** An agent's worth of process for tests: makes a copy, and dies by SIGKILL at a step if it is told to. */
import type { CopyStep } from './copier.ts'
import { type CopyTerms, copyOnce } from './test-copy.ts'

const { dieAt, ...terms } = JSON.parse(process.argv[2] ?? '') as CopyTerms & { readonly dieAt?: CopyStep }
await copyOnce(terms, async step => {
  if (step === dieAt) process.kill(process.pid, 'SIGKILL')
})
