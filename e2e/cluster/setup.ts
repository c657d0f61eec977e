/**
 * Before the first test of the project `cluster`: a Kubernetes cluster with the product's image in it. With
 * KUBECONFIG and E2E_IMAGE in the environment it is that cluster (kind, any other), and the image is one that
 * its nodes have or can pull (E2E_CLIENT_IMAGE: one with libnbd's programs and Python; E2E_OWN=true: the cluster is
 * hack/cluster's, brought up by hand), from which the release is removed again; else it is hack/cluster's, which is taken down afterwards, however the run
 * ends.
 */
import { join } from 'node:path'
import type { TestProject } from 'vitest/node'
import { check, checkout, run } from '../harness.ts'
import { kubectl } from './kubectl.ts'
import { crdsOf, install, remove } from './release.ts'
import { addVolumes } from './volumes.ts'

/** What tests are given. */
export interface ClusterSetup {
  readonly kubeconfig: string
  readonly image: string
  /** Image with nbdinfo, nbdcopy and nbdsh; empty where there is none. */
  readonly clientImage: string
  /** Whether it is hack/cluster's: its processes may be killed. */
  readonly own: boolean
  /** Why there is no cluster. */
  readonly unavailable?: string
}

declare module 'vitest' {
  interface ProvidedContext {
    cluster: ClusterSetup
  }
}

/** CRDs that the cluster had before this run: the users' own. */
let known: readonly string[] = []

/** A first build of Kubernetes and of the base image takes this long on a busy machine. */
const SETUP_LIMIT = 40 * 60_000
const UNAVAILABLE = 69
const OWN_IMAGE = 'ondemand-disk:cluster'
const OWN_CLIENT_IMAGE = 'ondemand-disk-client:cluster'
const BASE_IMAGE = 'ondemand-disk-base:bookworm'

const { KUBECONFIG, E2E_IMAGE, E2E_CLIENT_IMAGE = '', E2E_OWN } = process.env

export async function setup(project: TestProject): Promise<void> {
  const cluster = await prepare()
  if (cluster.unavailable === undefined) {
    const terms = { ...cluster, kubectl: kubectl(cluster.kubeconfig) }
    known = await crdsOf(terms.kubectl)
    try {
      await install(terms)
    } catch (error) {
      // Nobody calls teardown then.
      await teardown().catch(problem => process.stderr.write(`${problem}\n`))
      throw error
    }
  }
  project.provide('cluster', cluster)
}

async function prepare(): Promise<ClusterSetup> {
  if (KUBECONFIG && E2E_IMAGE) {
    return {
      kubeconfig: KUBECONFIG,
      image: E2E_IMAGE,
      clientImage: E2E_CLIENT_IMAGE,
      own: E2E_OWN === 'true',
    }
  }
  const none = { kubeconfig: '', image: '', clientImage: '', own: true }
  const image = await hack('image', '--operator', OWN_IMAGE)
  if (image.unavailable) return { ...none, unavailable: image.unavailable }
  await check(
    'docker',
    [
      ...['build', '--network', 'host', '--build-arg', `BASE=${BASE_IMAGE}`],
      ...['--tag', OWN_CLIENT_IMAGE, join(import.meta.dirname, 'client')],
    ],
    { timeout: SETUP_LIMIT },
  )
  // The cluster goes when this process does, even if it is killed.
  const up = await hack('cluster/up', '--while', `${process.pid}`)
  if (up.unavailable) return { ...none, unavailable: up.unavailable }
  await hack('cluster/load', OWN_IMAGE, OWN_CLIENT_IMAGE)
  const kubeconfig = up.stdout.trim()
  await addVolumes(kubectl(kubeconfig))
  return { kubeconfig, image: OWN_IMAGE, clientImage: OWN_CLIENT_IMAGE, own: true }
}

/** A cluster that was there before keeps nothing of the run. */
export async function teardown(): Promise<void> {
  if (KUBECONFIG && E2E_IMAGE) await remove(KUBECONFIG, kubectl(KUBECONFIG), known)
  else await hack('cluster/down')
}

/** Runs a script of hack/, which may say that this machine lacks what it takes. */
async function hack(script: string, ...args: string[]): Promise<{ stdout: string; unavailable?: string }> {
  const { status, stdout, stderr } = await run(join(checkout, 'hack', script), args, { timeout: SETUP_LIMIT })
  if (status === UNAVAILABLE) return { stdout, unavailable: stderr.trim().split('\n').at(-1) ?? script }
  if (status !== 0) throw new Error(`hack/${script} ended with ${status}:\n${stdout}${stderr}`)
  return { stdout }
}
