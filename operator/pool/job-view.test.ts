import { expect, test } from 'vitest'
import type { Job, Pod } from '../kube/objects.ts'
import { viewJob } from './job-view.ts'

const JOB: Job = {
  apiVersion: 'batch/v1',
  kind: 'Job',
  metadata: {
    name: 'odd-1',
    uid: 'job-1',
    creationTimestamp: '2026-01-01T00:00:00Z',
    ownerReferences: [
      { apiVersion: 'ondemanddisk.dev/v1alpha1', kind: 'OnDemandDisk', name: 'a', uid: 'disk-1' },
    ],
  },
} as Job

const podOf = (uid: string): Pod =>
  ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'p', ownerReferences: [{ apiVersion: 'batch/v1', kind: 'Job', name: 'odd-1', uid }] },
  }) as Pod

test('A Job without a Pod of its own is told from one that has one', () => {
  expect(viewJob(JOB, [podOf('job-0')], 'disk-1')).toMatchObject({ withoutPod: { name: 'odd-1' } })
  expect(viewJob(JOB, [podOf('job-1')], 'disk-1')).toMatchObject({ state: 'running', withoutPod: undefined })
})
