import { appendFileSync, writeFileSync } from 'node:fs'
import type { Reporter, TestModule } from 'vitest/node'

/** How the tests of a run ended. */
export interface Tally {
  passed: number
  failed: number
  skipped: number
}

/** What a run has to say beside its counts, a line each. */
interface Names {
  readonly skips: string[]
  readonly failures: string[]
  /** What passed only when it was tried again, and why it had failed. */
  readonly unsteady: string[]
  /** Of those, all that was said of the failure, in many lines: nobody else keeps it. */
  readonly firstTries: string[]
}

/**
 * Counts the tests of a run and names each skipped one with its reason. A skip fails the run when it says no
 * reason (`context.skip('the reason')` does), and always when `strict`: a machine of CI must run everything.
 *
 * With `logs`, a folder, it also leaves there `SUITE.counts` (`passed failed skipped`) and, where there are any,
 * `SUITE.skipped`, `SUITE.failed` and `SUITE.unsteady` (a line each), for `hack/test` to sum up, and `SUITE.first-tries.log`.
 */
export function tallyReporter(strict: boolean, logs?: { folder: string; suite: string }): Reporter {
  return {
    onTestRunEnd(modules, unhandledErrors) {
      const { tally, skips, failures, unsteady, firstTries } = count(modules, strict)
      tally.failed += unhandledErrors.length
      failures.push(...unhandledErrors.map(({ message }) => failureText('Outside a test', message)))
      if (tally.failed > 0) process.exitCode = 1
      if (logs) {
        const { folder, suite } = logs
        writeFileSync(`${folder}/${suite}.counts`, `${tally.passed} ${tally.failed} ${tally.skipped}\n`)
        if (skips.length > 0) appendFileSync(`${folder}/${suite}.skipped`, skips.join(''))
        if (failures.length > 0) appendFileSync(`${folder}/${suite}.failed`, failures.join(''))
        if (unsteady.length > 0) appendFileSync(`${folder}/${suite}.unsteady`, unsteady.join(''))
        if (firstTries.length > 0) writeFileSync(`${folder}/${suite}.first-tries.log`, firstTries.join(''))
      } else if (skips.length > 0) {
        process.stdout.write(`\nSkipped:\n${skips.join('')}`)
      }
    },
  }
}

const failureText = (where: string, message = '') => `  ${where}: ${message.split('\n', 1)[0]}\n`

function count(modules: readonly TestModule[], strict: boolean): Names & { tally: Tally } {
  const tally: Tally = { passed: 0, failed: 0, skipped: 0 }
  const skips: string[] = []
  const failures: string[] = []
  const unsteady: string[] = []
  const firstTries: string[] = []
  for (const module of modules) {
    // A module that does not load, or a hook that fails, is a failure without a test of its own.
    let broken = false
    for (const part of [module, ...module.children.allSuites()]) {
      for (const { message } of part.errors()) {
        tally.failed++
        broken = true
        failures.push(failureText(module.relativeModuleId, message))
      }
    }
    for (const test of module.children.allTests()) {
      const result = test.result()
      const name = `${module.relativeModuleId} > ${test.fullName}`
      if (result.state === 'passed') {
        tally.passed++
        if (!test.diagnostic()?.flaky) continue
        unsteady.push(failureText(name, result.errors?.[0]?.message))
        firstTries.push(
          ...(result.errors ?? []).map(({ stack, message }) => `${name}: ${stack ?? message}\n\n`),
        )
      } else if (result.state === 'failed') {
        tally.failed++
        failures.push(failureText(name, result.errors[0]?.message))
      } else {
        const reason = result.state === 'skipped' ? result.note : undefined
        const forbidden = strict || !reason
        tally[forbidden ? 'failed' : 'skipped']++
        // Nobody skipped it: it was not reached.
        if (broken && !reason) continue
        const verdict = strict ? ' (a failure, because CI is true)' : reason ? '' : ' (a failure)'
        skips.push(`  ${name}: ${reason ?? 'no reason is given'}${verdict}\n`)
      }
    }
  }
  return { tally, skips, failures, unsteady, firstTries }
}
