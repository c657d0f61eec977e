import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'
import { tallyReporter } from './hack/report.ts'

const { CI, TEST_LOGS: folder, TEST_SUITE: suite } = process.env

/**
 * Foreign programs, a kernel and a cluster take part in these, on a machine that does other things too. What passes
 * only when it is tried again is told at the end of the run, with what it had failed of.
 */
const RETRIES = 1

const BESIDE_THE_CODE = {
  setupFiles: ['hack/patience.ts', 'hack/seed.ts'],
  expect: { poll: { timeout: 30_000 } },
  // Hundreds of times what any of them takes: a machine that does other things shall fail none.
  testTimeout: 180_000,
  hookTimeout: 180_000,
}

export default defineConfig({
  test: {
    // Many of them wait for programs most of the time: by itself vitest would leave one of two processors alone.
    maxWorkers: Math.max(2, availableParallelism()),
    reporters: ['default', tallyReporter(CI === 'true', folder && suite ? { folder, suite } : undefined)],
    projects: [
      {
        test: {
          name: 'unit',
          include: ['{crds,server,operator,helm,hack}/**/*.test.ts'],
          exclude: ['**/*.integration.test.ts'],
          // A process for each file would take longer than what the files do.
          isolate: false,
          ...BESIDE_THE_CODE,
        },
      },
      {
        test: {
          name: 'integration',
          include: ['{crds,server,operator,helm,hack}/**/*.integration.test.ts'],
          ...BESIDE_THE_CODE,
        },
      },
      {
        test: {
          name: 'e2e',
          include: ['e2e/**/*.e2e.ts'],
          exclude: ['e2e/cluster/**'],
          expect: { poll: { timeout: 30_000 } },
          // Each drives whole servers, clients or a virtual machine; side by side they would starve each other.
          fileParallelism: false,
          retry: RETRIES,
          testTimeout: 180_000,
          hookTimeout: 180_000,
        },
      },
      {
        test: {
          name: 'cluster',
          include: ['e2e/cluster/**/*.e2e.ts'],
          globalSetup: ['e2e/cluster/setup.ts'],
          // They share one node.
          fileParallelism: false,
          retry: RETRIES,
          testTimeout: 180_000,
          hookTimeout: 180_000,
        },
      },
    ],
  },
})
